"""What a person sees in a terminal: progress while a run works, and its result at the end.

Verdicts are words; colour only repeats them. All text of the run goes through ``plain``
and ``Text``, so neither terminal escapes nor Rich markup in a site's name take effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from collab.metrics import LOWER_IS_BETTER
from server.coverage_view import run_coverage
from server.family_view import affinity_table, families, families_table, wholes
from server.reading import SiteResult, at, headline, methods, names, site_results
from server.units import MISSING, clock_word, duration, metric_name, nbytes, number, plain
from server.verdict import Comparison, Verdict

_STYLES = MappingProxyType({Verdict.BETTER: "green", Verdict.WORSE: "bold red"})
_BAR_WIDTH = 28
_SUBTASK_WIDTH = 11


def result_table(summary: Mapping[str, Any]) -> RenderableType:
    """Return the final tables of a run, at most 80 columns wide: the answer, the methods, the sites.

    Args:
        summary: what the server writes to summary.json.
    """
    answer = headline(summary)
    parts: list[RenderableType] = [Text(f"Did collaborating pay? {answer.title}", style="bold")]
    parts += [Text(line) for line in answer.lines]
    if (coverage := run_coverage(summary)).statements:
        parts += [
            Text(f"Coverage: {plain(line)}" if i == 0 else plain(line))
            for i, line in enumerate(coverage.lines)
        ]
    decompositions = at(summary, "decompositions")
    if whole := wholes(decompositions):
        by_modality = {name: one for name, one in whole.items() if at(one, "by") == "modality"}
        by_labels = {name: one for name, one in whole.items() if name not in by_modality}
        parts += [Text(), _wholes_table(by_labels)] if by_labels else []
        parts += [Text(), _modalities_table(by_modality)] if by_modality else []
    if family := families(decompositions):
        parts += [Text(), families_table(family)]
        for name, one in family.items():
            parts += [Text(), affinity_table(name, one)] if at(one, "affinity") else []
    if chains := at(summary, "chains"):
        parts += [Text(), _chains_table(chains)]
    parts += [Text(), _methods_table(summary), Text(), _sites_table(summary), _totals(summary)]
    parts += [Text(f"note: {plain(note)}") for note in at(summary, "notes") or []]
    return Group(*parts)


def _table(title: str) -> Table:
    # Two spaces between columns: eight columns have to fit in 80 characters.
    padding = (0, 1, 0, 0)
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=padding)


def _methods_table(summary: Mapping[str, Any]) -> Table:
    table = _table("Methods, against alone")
    for heading, right in (
        ("subtask, metric", 0),
        ("method", 0),
        ("global", 1),
        ("", 0),
        ("own", 1),
        ("", 0),
    ):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for name, subtask in (at(summary, "subtasks") or {}).items():
        metric = subtask["metric"]
        direction = "lower" if metric in LOWER_IS_BETTER else "higher"
        label = [plain(name), metric_name(metric), f"{direction} is better"]
        for row in methods(subtask):
            marks = [_mark(c) if not row.is_reference else Text() for c in (row.everywhere, row.own)]
            first, label = (label[0], label[1:]) if label else ("", label)
            everywhere, own = number(row.everywhere.value), number(row.own.value)
            table.add_row(Text(first), Text(plain(row.name)), everywhere, marks[0], own, marks[1])
        for rest in label:
            table.add_row(Text(rest))
        table.add_section()
    return table


def _mark(comparison: Comparison) -> Text:
    verdict = comparison.verdict
    words = "" if verdict is Verdict.UNKNOWN else verdict.value
    return Text(words, style=_STYLES.get(verdict, ""))


def _sites_table(summary: Mapping[str, Any]) -> Table:
    table = _table("Sites: what each would deploy, against alone, on its own test rows")
    headings = (
        "site",
        "subtask",
        "own",
        "alone",
        "result",
        "fusion",
        "bytes",
        clock_word(at(summary, "engine")),
    )
    for heading in headings:
        left = heading in ("site", "subtask", "result")
        width = {"subtask": _SUBTASK_WIDTH, "result": 10}.get(heading)
        table.add_column(heading, justify="left" if left else "right", overflow="fold", min_width=width)
    subtasks = names(at(summary, "subtasks"))
    results = [row for name in subtasks for row in site_results(summary, name)]
    for name in dict.fromkeys([*names(at(summary, "sites")), *(row.site for row in results)]):
        site = at(summary, "sites", name) or {}
        sent = (site.get("bytes_up") or 0) + (site.get("bytes_down") or 0)
        effort = (nbytes(sent), duration(site.get("simulated_s")))
        rows = [_site_row(row) for row in results if row.site == name]
        for i, row in enumerate(rows or [[Text(MISSING)] * 5]):
            table.add_row(Text(plain(name)) if i == 0 else "", *row, *(effort if i == 0 else ("", "")))
        table.add_section()
    return table


def _site_row(row: SiteResult) -> list[Text]:
    verdict = row.own.verdict
    words = {
        Verdict.WORSE: "worse than alone",
        Verdict.UNCLEAR: "unclear",
        Verdict.UNKNOWN: MISSING,
    }.get(verdict, verdict.value)
    if row.own.standard_error is None and verdict in _STYLES:
        words += "*"
    result = Text(words, style=_STYLES.get(verdict, ""))
    figures = (number(row.own.value), number(row.own.alone))
    return [Text(_broken(plain(row.subtask))), *map(Text, figures), result, Text(number(row.fusion_weight))]


def _broken(name: str) -> str:
    """Return the name of a subtask, with line breaks between its words where its column is too narrow."""
    lines = [""]
    for piece in re.split(r"(?<=[-_])", name):
        if lines[-1] and len(lines[-1] + piece) > _SUBTASK_WIDTH:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _wholes_table(found: Mapping[str, Any]) -> Table:
    table = _table("Wholes: what the parts' final models answer together")
    for heading in ("whole, metric", "fusion", "global", "own", "naive", "refused outside"):
        left = heading in ("whole, metric", "fusion")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for name, whole in found.items():
        label = f"{plain(name)}, {metric_name(whole['metric'])}"
        figures = [number(at(whole, key)) for key in ("global", "own", "closed_set", "recall_outside")]
        table.add_row(Text(label), plain(whole["fusion"]).replace("_", " "), *figures)
    return table


def _modalities_table(wholes: Mapping[str, Any]) -> Table:
    table = _table("Wholes: what all modalities answer together, on the same rows")
    for heading in ("whole, metric", "fusion", "global", "own", "best alone", "difference"):
        left = heading in ("whole, metric", "fusion", "best alone")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for name, whole in wholes.items():
        label = f"{plain(name)}, {metric_name(whole['metric'])}"
        best = f"{plain(str(at(whole, 'best_alone', 'part') or MISSING))} "
        best += number(at(whole, "best_alone", "global"))
        error = at(whole, "best_alone", "standard_error")
        difference = number(at(whole, "best_alone", "difference"))
        figures = [number(at(whole, key)) for key in ("global", "own")]
        shown = difference if error is None else f"{difference} ± {number(error)}"
        table.add_row(Text(label), plain(whole["fusion"]), *figures, Text(best), shown)
    return table


def _chains_table(chains: Mapping[str, Any]) -> Table:
    table = _table("Chains: final models on what upstream models predict of test rows")
    for heading in ("subtask, metric", "after", "end to end", "own", "upstream ablated", "upstream, each"):
        left = heading in ("subtask, metric", "after", "upstream, each")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for name, one in chains.items():
        label = f"{plain(name)}, {metric_name(one['metric'])}"
        figures = [number(at(one, key)) for key in ("end_to_end", "own", "ablated")]
        each = [
            f"{plain(n)} {number(at(u, 'global'))} {metric_name(str(at(u, 'metric')))}"
            for n, u in (at(one, "upstream") or {}).items()
        ]
        after = ", ".join(map(plain, at(one, "after") or []))
        table.add_row(Text(label), Text(after), *figures, Text(", ".join(each)))
    return table


def _totals(summary: Mapping[str, Any]) -> Text:
    total = at(summary, "totals") or {}
    sent = f"{nbytes(total.get('bytes_up'))} up, {nbytes(total.get('bytes_down'))} down"
    clock = clock_word(at(summary, "engine"))
    clocks = f"{duration(total.get('simulated_s'))} {clock}, {duration(total.get('wall_s'))} wall"
    legend = "unclear: within one standard error; *: error unknown"
    return Text(f"\nTotal {nbytes(total.get('bytes'))} ({sent}); {clocks}.\n{legend}")


@dataclass
class _Status:
    """What has happened so far; ``apply`` takes an event and yields what is worth a line."""

    rounds: int
    round: int = 0
    done: int = 0
    stage: str = ""
    simulated_s: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)

    def apply(self, event: Mapping[str, Any]) -> Iterator[str]:
        """Take one event. Kinds of event that are not known here are passed over."""
        kind = event.get("type")
        if kind == "round":
            self.round = self.done = event["round"]
            self.simulated_s = event.get("simulated_s")
            yield f"{self.heading()} done, {duration(self.simulated_s)} simulated"
        elif kind == "evaluated":
            value = f"{metric_name(event['metric'])} {number(event['value'])}"
            self.latest[plain(event["subtask"])] = f"{value} (round {event['round']})"
            yield f"  {plain(event['subtask'])}: {value}"
            if event.get("without"):
                yield f"    measured without the rows of {plain(', '.join(event['without']))}"
        elif kind == "coverage" and not event["whole"]:
            yield f"  {plain(event['subtask'])}, round {event['round']}: {plain(event['text'])}"
        elif kind == "stage":
            self.stage = plain(event["text"])
            yield self.stage
        elif kind in ("assigned", "arrived", "rejected"):
            yield from self._count(str(kind), event)

    def _count(self, kind: str, event: Mapping[str, Any]) -> Iterator[str]:
        begun = event.get("round")
        if begun is not None and begun > self.done:
            # The first assignment of a round opens it; the counts are those of this round.
            self.counts = self.counts if begun == self.round else {}
            self.round = begun
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == "rejected":
            keys = ("site", "subtask", "code", "detail")
            yield "  rejected: " + ": ".join(plain(event[key]) for key in keys if event.get(key))

    def heading(self) -> str:
        """Return which round is under way."""
        return f"round {self.round} of {self.rounds}"


class Progress:
    """Live progress of a run; plain lines where the console is not a terminal.

    Used as a context manager. In a terminal: a bar of rounds, the counts of the round and
    one line for each subtask with its latest value; rejections and what a round lacked stay on
    screen above it.

    Args:
        console: where to show it.
        rounds: how many rounds there are at most.
    """

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._status = _Status(rounds)
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=8)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show one event.

        Args:
            event: a dict with ``type``: assigned, arrived, rejected, coverage, evaluated, stage, or round,
                which closes a round. Other types are passed over.
        """
        for line in self._status.apply(event):
            if self._live is None or event.get("type") in ("rejected", "coverage"):
                self._console.print(Text(line), soft_wrap=True)

    def _render(self) -> RenderableType:
        status = self._status
        bar = Table.grid(padding=(0, 1))
        clock = f"{duration(status.simulated_s)} simulated" if status.simulated_s is not None else ""
        drawn = ProgressBar(total=max(status.rounds, 1), completed=status.done, width=_BAR_WIDTH)
        bar.add_row(Text(status.heading()), drawn, Text(clock))
        counts = ", ".join(f"{kind} {n}" for kind, n in status.counts.items())
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in (status.stage, counts) if line]
        # A copy: events may arrive on another thread than the one that draws.
        latest = [Text(f"  {name}  {value}") for name, value in list(status.latest.items())]
        return Group(bar, *lines, *latest)
