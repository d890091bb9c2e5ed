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
    "exchanges short",
    "next round ended after",
    "SuperLink back after",
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
    parts = [] if row["struck_s"] is None else [f"struck {row['struck_s']:.0f} s after the start"]
    parts += [_ending(row), f"{row['rounds_done']} rounds ended and {row['trained']} trainings were done"]
    if row["next_round_s"] is not None:
        parts.append(f"the next round ended {row['next_round_s']:.0f} s after the kill")
    parts += [
        f"in round {one['round']} {one['sampled']} nodes were asked to {one['phase']},"
        f" with {one['results']} results and {one['failures']} failures"
        for one in row["short"]
    ]
    if row["link_back_s"] is not None:
        parts.append(f"the SuperLink listened again after {row['link_back_s']:.0f} s")
    if row["node_starts"]:
        parts.append(f"SuperNodes were started again {sum(row['node_starts'].values())} times")
    if row["model"]:
        parts.append(f"the model is {'as' if row['model'] == plain else 'not as'} undisturbed")
    return "; ".join(parts) + "."


def _ending(row: dict[str, Any]) -> str:
    if row["outcome"] == "failed":
        after = row["took_s"] - (row["struck_s"] or 0.0)
        why = f'"{row["details"]}"' if row["details"] else "without a reason"
        return f"seen as {row['status']} after {after:.0f} s, {why}, {row['rounds_lost']} rounds lost"
    return f"{row['outcome']}, listed as {row['status'] or 'nothing'} after {row['took_s']:.0f} s"


def _cells(own: Sequence[dict[str, Any]], trainings: int, plain: str | None) -> list[str]:
    return [
        _counted(row["outcome"] for row in own),
        _counted(row["status"] or "none" for row in own),
        ", ".join(str(row["rounds_done"]) for row in own),
        ", ".join(_short(row) for row in own),
        _seconds(row["next_round_s"] for row in own),
        _seconds(row["link_back_s"] for row in own),
        _seconds(row["node_back_s"] for row in own),
        f"{', '.join(str(row['trained']) for row in own)} of {trainings}",
        f"{sum(row['model'] is not None and row['model'] == plain for row in own)} of {len(own)}",
    ]


def _short(row: dict[str, Any]) -> str:
    """How many exchanges lacked a result, and how many of them the strategy called a failure."""
    failed = sum(one["failures"] > 0 for one in row["short"])
    return f"{len(row['short'])} ({failed} said)" if row["short"] else "0"


def _counted(values: Iterable[str]) -> str:
    return "; ".join(f"{value} {count}x" for value, count in Counter(values).most_common())


def _seconds(values: Iterable[float | None]) -> str:
    found = list(values)
    if all(value is None for value in found):
        return "-"
    return ", ".join("not by the end" if value is None else f"{value:.0f} s" for value in found)


def _sorted(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), row["trial"]))
