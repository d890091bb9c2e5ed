"""Federated evaluation: letters to the sites, checked statistics back, merged in site order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import metrics
from collab.collaboration import named_kind
from collab.paired import compare
from collab.sparse import expand
from protocol.arrays import Spec, check, spec_of
from protocol.errors import ConsiliumError
from protocol.messages import Evaluation
from server.courier import Arrival, Courier, Letter, Patience, gather
from server.preparation import Prepared


@dataclass(frozen=True)
class Measurement:
    """Metrics on federated validation rows, merged over the sites that answered."""

    metrics: Mapping[str, float]
    num_examples: int
    sites: tuple[str, ...]


def merge_evaluations(
    courier: Courier,
    letters: Sequence[Letter],
    patience: Patience,
    prepared: Prepared,
    notes: list[str],
) -> tuple[Measurement, dict[str, NDArray[Any]], list[Arrival]]:
    """Send evaluation letters and merge what comes back in site order.

    Returns the metrics, the merged sums against the constant predictor, and other answers.
    A site whose statistics cannot be used is left out, and ``notes`` says so under its name.
    """
    arrivals, others = gather(courier, letters, patience)
    task = kind_task(prepared)
    spec = metrics.statistics_spec(task, prepared.subtask.outputs)
    found: list[dict[str, NDArray[Any]]] = []
    paired: list[dict[str, NDArray[Any]]] = []
    sites = []
    for arrival in arrivals:
        site = arrival.letter.site
        try:
            evaluation, arrays = arrival.open(Evaluation)
            if not evaluation.num_examples:
                continue
            own = expand({k: v for k, v in arrays.items() if not k.startswith("constant/")}, spec)
            check(own, spec)
            metrics.check_sums(own, evaluation.num_examples)
            versus = {k.removeprefix("constant/"): v for k, v in arrays.items() if k.startswith("constant/")}
            if versus:
                check(versus, paired_spec(prepared))
        except ConsiliumError as error:
            notes.append(f"{site}: evaluation of {prepared.subtask.name} not used: {error}")
            continue
        found.append(own)
        sites.append(site)
        if versus:
            paired.append(versus)
    merged = metrics.merge(found)
    measured = Measurement(metrics.summarise(merged), metrics.num_examples(merged), tuple(sites))
    return measured, metrics.merge(paired), others


def paired_spec(prepared: Prepared) -> Spec:
    """Return what the sums of ``collab.paired.compare`` look like for this subtask."""
    row_1K = np.ones((1, prepared.subtask.outputs))
    return spec_of(compare(row_1K, row_1K, np.zeros(1)))


def kind_task(prepared: Prepared) -> str:
    """Return ``classification`` or ``regression``."""
    return named_kind(prepared.subtask.kind).task
