"""Federated evaluation: letters to the sites, checked statistics back, merged in site order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import metrics
from collab.calibration import check_temperature_sums, temperature_from, temperature_statistics
from collab.collaboration import named_kind
from collab.objective import constant_metrics, relative_losses
from collab.paired import compare
from collab.sparse import expand
from protocol.arrays import Arrays, Spec, check, spec_of
from protocol.bounds import Rows
from protocol.codec import Limits, at_most
from protocol.errors import ConsiliumError, MessageError
from protocol.messages import Evaluation
from server.courier import Arrival, Courier, Letter, Patience, gather
from server.preparation import Prepared

# What an evaluation says beside its statistics, at most.
MAX_BODY = 4096

Stats = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Measurement:
    """Metrics on federated validation rows, merged over the sites that answered.

    ``loss`` is over the constant answer's (``collab.objective``), ``losses`` each site's own over the same
    reference, ``constant`` the constant answer's metrics; ``target`` are mean and standard deviation of a
    regression's target.
    """

    metrics: Mapping[str, float]
    num_examples: int
    sites: tuple[str, ...]
    loss: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    constant: Mapping[str, float] = field(default_factory=dict)
    target: tuple[float, float] | None = None


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation of one model came to.

    Attributes:
        measurement: the merged metrics.
        versus_constant: the merged sums against the predictor that knows the class counts alone.
        temperature: the model's calibration on all validation rows; 1 where nothing tells.
        others: answers to other letters that came meanwhile.
    """

    measurement: Measurement
    versus_constant: Stats
    temperature: float
    others: list[Arrival]


def merge_evaluations(
    courier: Courier,
    letters: Sequence[Letter],
    patience: Patience,
    prepared: Prepared,
    notes: list[str],
) -> Evaluated:
    """Send evaluation letters and merge what comes back in site order.

    A site whose statistics cannot be used is left out, and ``notes`` says so under its name.
    """
    specs = {"": metrics.statistics_spec(kind_task(prepared), prepared.subtask.outputs)}
    if kind_task(prepared) == "classification":
        specs |= {"constant": paired_spec(prepared), "temperature": temperature_spec(prepared)}
    limits = limits_of(specs)
    most_bytes = limits.num_bytes + MAX_BODY
    arrivals, others = gather(courier, [replace(x, most_bytes=most_bytes) for x in letters], patience)
    found: dict[str, list[Stats]] = {group: [] for group in specs}
    sites = []
    for arrival in arrivals:
        site = arrival.letter.site
        try:
            evaluation, arrays = arrival.open(Evaluation, limits)
            if not evaluation.num_examples:
                continue
            check_num_examples(evaluation, prepared, "validation")
            groups = _opened(arrays, specs, evaluation.num_examples)
        except ConsiliumError as error:
            notes.append(f"{site}: evaluation of {prepared.subtask.name} not used: {error}")
            continue
        sites.append(site)
        for group, stats in groups.items():
            found[group].append(stats)
    merged = metrics.merge(found[""])
    loss, losses = relative_losses(merged, dict(zip(sites, found[""], strict=True)))
    measurement = Measurement(
        metrics.summarise(merged),
        metrics.num_examples(merged),
        tuple(sites),
        loss,
        losses,
        constant_metrics(merged),
        metrics.target_moments(merged),
    )
    grids = found.get("temperature", [])
    temperature = temperature_from(metrics.merge(grids), len(grids)) if grids else 1.0
    return Evaluated(measurement, metrics.merge(found.get("constant", [])), temperature, others)


def _opened(arrays: Arrays, specs: Mapping[str, Spec], num_examples: int) -> dict[str, Stats]:
    """Return an answer's statistics by group, each checked; the metric's own group is ``""``."""
    groups: dict[str, Stats] = {"": {}}
    for name, array in arrays.items():
        group, slash, rest = name.partition("/")
        groups.setdefault(group if slash else "", {})[rest if slash else name] = array
    if not groups.keys() <= specs.keys():
        raise MessageError("statistics have other names")
    groups[""] = expand(groups[""], specs[""])
    for group, stats in groups.items():
        check(stats, specs[group])
    metrics.check_sums(groups[""], num_examples)
    if "temperature" in groups:
        check_temperature_sums(groups["temperature"], num_examples)
    return groups


def check_num_examples(evaluation: Evaluation, prepared: Prepared, rows: Rows) -> None:
    """Raise ``MessageError`` if a site measured on more rows than it said it has before the first round."""
    summary = prepared.summaries[evaluation.site]
    if evaluation.num_examples > (summary.test if rows == "test" else summary.validation):
        raise MessageError(f"more {rows} rows than the site said it has")


def limits_of(specs: Mapping[str, Spec]) -> Limits:
    """Return the most that statistics of these groups take on the wire; the group ``""`` has no prefix."""
    named = {f"{g}/{n}" if g else n: one for g, spec in specs.items() for n, one in spec.items()}
    return at_most(named)


def paired_spec(prepared: Prepared) -> Spec:
    """Return what the sums of ``collab.paired.compare`` look like for this subtask."""
    row_1K = np.ones((1, prepared.subtask.outputs))
    return spec_of(compare(row_1K, row_1K, np.zeros(1)))


def temperature_spec(prepared: Prepared) -> Spec:
    """Return what ``collab.calibration.temperature_statistics`` gives for this subtask."""
    classes = prepared.subtask.outputs
    return spec_of(temperature_statistics(np.full((1, classes), 1 / classes), np.zeros(1, np.int64)))


def kind_task(prepared: Prepared) -> str:
    """Return ``classification`` or ``regression``."""
    return named_kind(prepared.subtask.kind).task
