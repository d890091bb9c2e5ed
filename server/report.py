"""The report a person reads after a run: one HTML file that needs no network and runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from collab.metrics import LOWER_IS_BETTER
from server import units
from server.charts import Lane, LineChart, Whisker, lane, line_chart, towards_better, whiskers
from server.coverage_view import ENDS, NOT_ASKED, class_words, out_words, run_coverage
from server.family_view import cell, families, groups, wholes
from server.reading import (
    COLLABORATION,
    NO_GLOBAL,
    Method,
    SiteResult,
    at,
    headline,
    lacks_global,
    method,
    methods,
    names,
    site_results,
    subtask_outcome,
)
from server.templates import marks, page, style
from server.timeline import letters, timeline
from server.verdict import Comparison, Outcome, Verdict

_TEMPLATES = {"report.html": page.TEXT, "marks.html": marks.TEXT, "report.css": style.TEXT}
_COLOURS = 8
_LANE, _WHISKER = 250, 150
_CURVE = (330, 190)
# Beyond this the page would be slow to open; the rest is in summary.json, and the page says so.
_MAX_ASSIGNMENTS, _MAX_ROWS = 2000, 100


@dataclass(frozen=True)
class LaneRow:
    """One line of the headline chart: global or own."""

    rows: str
    words: str
    comparison: Comparison
    pooled: float | None
    fused: float | None
    lane: Lane | None


@dataclass(frozen=True)
class SubtaskView:
    """All that the page says about one subtask."""

    name: str
    letter: str
    colour: int
    data: Mapping[str, Any]
    lower_is_better: bool
    outcome: Outcome
    lanes: list[LaneRow]
    methods: list[Method]
    sites: list[tuple[SiteResult, Whisker | None]]
    by_seconds: LineChart | None
    by_bytes: LineChart | None
    seconds_unit: str
    bytes_unit: str
    fusion: list[tuple[str, float]]
    fusion_zeros: int
    no_global: str

    def count(self, verdict: str) -> int:
        """Return how many sites have this verdict."""
        return sum(row.own.verdict == verdict for row, _ in self.sites)


def write_report(summary: Mapping[str, Any], path: Path) -> None:
    """Write a run's summary as one HTML page.

    The page depends on the summary alone, so the same summary gives the same bytes. It
    appears under its name only when it is whole.

    Args:
        summary: what the server writes to summary.json.
        path: the file to write; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(render(summary), encoding="utf-8", newline="\n")
    partial.replace(path)


def render(summary: Mapping[str, Any]) -> str:
    """Return the page's HTML."""
    allocations = list(at(summary, "allocations") or [])
    subtasks = names(at(summary, "subtasks"))
    marks = letters(subtasks)
    return (
        _environment()
        .get_template("report.html")
        .render(
            run=summary,
            headline=headline(summary),
            subtasks=[_subtask(summary, name, i, marks[name]) for i, name in enumerate(subtasks)],
            timeline=timeline(summary),
            unfulfilled=[one for one in allocations if one["outcome"] != "contributed"],
            allocations=allocations[:_MAX_ASSIGNMENTS],
            all_allocations=len(allocations),
            own_results={name: {row.site: row for row in site_results(summary, name)} for name in subtasks},
            calibrations=[name for name in subtasks if at(summary, "subtasks", name, "calibration")],
            wholes=wholes(at(summary, "decompositions")),
            families=families(at(summary, "decompositions")),
            coverage=run_coverage(summary),
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Text of the run loses what does not print; the template's own markup stays as it is.
        finalize=lambda value: units.plain(value) if type(value) is str else value,
    )
    filters = (
        units.number,
        units.nbytes,
        units.duration,
        units.percent,
        units.counted,
        units.metric_name,
        units.metric_unit,
    )
    environment.filters.update({one.__name__: one for one in filters})
    environment.globals["Verdict"] = Verdict
    environment.globals["at"] = at
    environment.globals["clock_word"] = units.clock_word
    environment.globals["groups_of"] = groups
    environment.globals["affinity_cell"] = cell
    environment.globals |= {"out_words": out_words, "class_words": class_words, "most_rows": _MAX_ROWS}
    environment.globals |= {"ends": ENDS, "not_asked": NOT_ASKED}
    return environment


def _subtask(summary: Mapping[str, Any], name: str, index: int, letter: str) -> SubtaskView:
    data = summary["subtasks"][name]
    rows = site_results(summary, name)
    # The site that gained most first, the one that lost most last, those not compared at the end.
    rows.sort(key=lambda row: (row.own.gain is None, -(row.own.gain or 0.0), row.site))
    placed = whiskers([(row.own.gain, row.own.standard_error) for row in rows], _WHISKER)
    by_seconds, seconds_unit = _curve(data, "simulated_s", units.time_unit)
    by_bytes, bytes_unit = _curve(data, "bytes", units.byte_unit)
    weights = {
        name: units.real(weight) or 0.0 for name, weight in (at(data, "fusion", "weights") or {}).items()
    }
    # Least squares leaves dust where it means zero; what three decimals do not show is not drawn.
    bars = sorted(((name, weight) for name, weight in weights.items() if weight >= 5e-4), key=_heaviest)
    return SubtaskView(
        name=name,
        letter=letter,
        colour=index % _COLOURS,
        data=data,
        lower_is_better=data["metric"] in LOWER_IS_BETTER,
        outcome=subtask_outcome(data),
        lanes=_lanes(data),
        methods=methods(data),
        sites=list(zip(rows, placed, strict=True)),
        by_seconds=by_seconds,
        by_bytes=by_bytes,
        seconds_unit=seconds_unit,
        bytes_unit=bytes_unit,
        fusion=bars,
        fusion_zeros=len(weights) - len(bars),
        no_global=NO_GLOBAL if lacks_global(data) else "",
    )


def _values(one: Method | None) -> tuple[float | None, float | None]:
    return (None, None) if one is None else (one.everywhere.value, one.own.value)


def _heaviest(bar: tuple[str, float]) -> float:
    return -bar[1]


def _lanes(data: Mapping[str, Any]) -> list[LaneRow]:
    """Lay the global and the own result on one scale, so that the eye may compare them."""
    ours, pooled, fused = (method(data, name) for name in (COLLABORATION, "pooled", "fused"))
    if ours is None:
        return []
    comparisons = (ours.everywhere, ours.own)
    found = list(zip(("global", "own"), comparisons, _values(pooled), _values(fused), strict=True))
    values = [v for _, c, p, f in found for v in (c.alone, c.value, p, f) if v is not None]
    scale = towards_better(data["metric"], values, _LANE) if values else None
    return [
        LaneRow(
            rows,
            _words(data, rows, c),
            c,
            p,
            f,
            lane(scale, _LANE, (c.alone, c.value, p, f)) if scale else None,
        )
        for rows, c, p, f in found
    ]


def _words(data: Mapping[str, Any], rows: str, comparison: Comparison) -> str:
    missing = rows == "global" and comparison.value is None and lacks_global(data)
    return NO_GLOBAL if missing else comparison.words


def _curve(data: Mapping[str, Any], along: str, unit_of: Any) -> tuple[LineChart | None, str]:
    """Lay out the metric over time or bytes, in the unit that suits the last point."""
    curve = [
        (x, y, point)
        for point in at(data, "curve") or []
        if (x := units.real(point.get(along))) is not None
        and (y := units.real(point.get("value"))) is not None
    ]
    factor, unit = unit_of(max((x for x, _, _ in curve), default=0.0))
    points = [(x / factor, y, _point_title(point)) for x, y, point in curve]
    width, height = _CURVE
    return line_chart(points, target=units.real(data.get("target")), width=width, height=height), unit


def _point_title(point: Mapping[str, Any]) -> str:
    return (
        f"Round {point.get('round')}: {units.number(point.get('value'))} "
        f"after {units.duration(point.get('simulated_s'))} and {units.nbytes(point.get('bytes'))}"
    )
