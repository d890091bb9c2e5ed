"""The figures of ``stock_kills`` as Markdown: a row for each kind, and a sentence for each trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_HEAD = (
    "kind",
    "outcome",
    "Flower's status",
    "rounds done",
    "next round ended after",
    "SuperNode back after",
    "trainings done",
    "model as undisturbed",
)


def shown(rows: Sequence[dict[str, Any]], kinds: Sequence[str], trainings: int) -> str:
    """Return the table and the sentences.

    Args:
        rows: the trials.
        kinds: the names of all kinds, in their order.
        trainings: how many an undisturbed run does.
    """
    plain = reference(rows)
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        if own:
            lines.append(f"| {' | '.join([kind, *_cells(own, trainings, plain)])} |")
    lines.append("")
    lines += [
        f"- {row['kind']}, trial {row['trial']}: {sentence(row, plain)}" for row in _sorted(rows, kinds)
    ]
    return "\n".join(lines)


def reference(rows: Iterable[dict[str, Any]]) -> str | None:
    """The one model that all undisturbed runs end with; None if they do not agree."""
    models = {row["model"] for row in rows if row["kind"] == "undisturbed"}
    return models.pop() if len(models) == 1 else None


def sentence(row: dict[str, Any], plain: str | None) -> str:
    """Return what happened in a trial."""
    first = f"{row['outcome']} ({row['status'] or 'no status'})"
    if row["struck_s"] is not None:
        first = f"struck at {row['struck_s']:.0f} s, {row['rounds_before']} rounds done; {first}"
    parts = [first, f"{row['rounds_done']} rounds ended, {row['trained']} trainings done"]
    parts += [
        f"round {one['round']} {one['phase']}: {one['results']} results and {one['failures']} failures"
        f" of {one['sampled']} asked"
        for one in row["short"]
    ]
    if row["rounds_lost"]:
        parts.append(f"{row['rounds_lost']} rounds lost")
    if row["model"]:
        parts.append(f"model {'as' if row['model'] == plain else 'not as'} undisturbed")
    return "; ".join(parts) + "."


def _cells(own: Sequence[dict[str, Any]], trainings: int, plain: str | None) -> list[str]:
    return [
        _counted(row["outcome"] for row in own),
        _counted(row["status"] or "none" for row in own),
        ", ".join(str(row["rounds_done"]) for row in own),
        _seconds(row["next_round_s"] for row in own),
        _seconds(row["node_back_s"] for row in own),
        f"{', '.join(str(row['trained']) for row in own)} of {trainings}",
        f"{sum(row['model'] is not None and row['model'] == plain for row in own)} of {len(own)}",
    ]


def _counted(values: Iterable[str]) -> str:
    return "; ".join(f"{value} {count}x" for value, count in Counter(values).most_common())


def _seconds(values: Iterable[float | None]) -> str:
    found = list(values)
    if all(value is None for value in found):
        return "-"
    return ", ".join("never" if value is None else f"{value:.0f} s" for value in found)


def _sorted(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), row["trial"]))
