"""What sites say of their rows, checked and brought together; one that fits no other is left out by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from collab.data.limits import MAX_MAGNITUDE
from collab.data.preprocess import ColumnStatistics, merge
from protocol.errors import ConsiliumError, MessageError
from protocol.messages import DataSummary, Subtask
from server.courier import Arrival
from server.gate import NO_CAPS, check_rows


def open_summaries(
    arrivals: Sequence[Arrival],
    subtask: Subtask,
    notes: list[str],
    max_examples: Mapping[str, int] = NO_CAPS,
) -> tuple[dict[str, DataSummary], list[ColumnStatistics]]:
    """Return summaries by site and the statistics that merge, in the same order.

    Where sites have other columns than others, most of them decide (a tie: the first by name), so that
    one site alone cannot shut out the rest. ``notes`` names each site that is left out.
    """
    summaries: dict[str, DataSummary] = {}
    statistics: dict[str, ColumnStatistics] = {}
    for arrival in arrivals:
        site = arrival.letter.site
        try:
            summary, _ = arrival.open(DataSummary)
            check_rows(site, max(summary.train, summary.validation, summary.test), max_examples)
            statistics[site] = _checked(summary, site, subtask)
            summaries[site] = summary
        except ConsiliumError as error:
            notes.append(f"{site}: left out of {subtask.name}: {error.code}: {error}")
    alike = _most_alike(statistics)
    for site, found in statistics.items():
        if site not in alike:
            why = _difference(statistics[alike[0]], found)
            notes.append(f"{site}: left out of {subtask.name}: {why}")
    return {site: summaries[site] for site in alike}, [statistics[site] for site in alike]


def _checked(summary: DataSummary, site: str, subtask: Subtask) -> ColumnStatistics:
    if (summary.site, summary.subtask) != (site, subtask.name):
        raise MessageError("the summary is of another site or subtask")
    expected = subtask.outputs if subtask.outputs > 1 else 0
    if len(summary.class_counts) != expected:
        raise MessageError(f"{len(summary.class_counts)} class counts, expected {expected}")
    if summary.train < 1:
        raise MessageError("no train rows")
    try:
        found = ColumnStatistics.model_validate_json(summary.statistics)
    except ValidationError as error:
        raise MessageError(f"statistics: {error.errors(include_input=False)[0]['msg']}") from None
    _check_moments(found, summary.train)
    return found


def _check_moments(found: ColumnStatistics, rows: int) -> None:
    """Refuse what no rows can have: cells or texts beyond the rows, or numbers whose squares overflow."""
    if found.texts is not None and found.texts.texts > rows:
        raise MessageError("statistics count more texts than there are train rows")
    pixels = math.prod(found.image_shape[1:]) if found.image_shape else 1
    for moments in (found.numeric, found.channels):
        if any(count > rows * pixels for count in moments.count):
            raise MessageError("statistics count more cells than there are train rows")
        limits = (max(count, 1) * MAX_MAGNITUDE**2 for count in moments.count)
        large = any(abs(mean) > MAX_MAGNITUDE for mean in moments.mean)
        if large or any(m2 > limit for m2, limit in zip(moments.m2, limits, strict=True)):
            raise MessageError(f"statistics hold numbers larger than {MAX_MAGNITUDE:g}")


def _most_alike(statistics: Mapping[str, ColumnStatistics]) -> list[str]:
    """Return the largest group of sites whose statistics merge with the first of the group."""
    groups: list[list[str]] = []
    for site, found in statistics.items():
        fitting = (group for group in groups if not _difference(statistics[group[0]], found))
        group = next(fitting, None)
        if group is None:
            groups.append([site])
        else:
            group.append(site)
    return max(groups, key=len, default=[])


def _difference(one: ColumnStatistics, other: ColumnStatistics) -> str:
    """Return why two sites' statistics do not merge, "" if they do."""
    try:
        merge([one, other])
    except MessageError as error:
        return str(error)
    return ""
