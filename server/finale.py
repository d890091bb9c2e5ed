"""The end of a run: fusion weights from validation rows, then one measurement on test rows.

This is the only place that asks for test rows, and nothing is decided after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import metrics
from collab.paired import LOSSES, difference
from collab.plugins import load
from collab.sparse import expand
from protocol.arrays import Arrays, check, check_finite
from protocol.codec import at_most
from protocol.errors import ConsiliumError, MessageError
from protocol.fusing import FINAL, Candidate
from protocol.messages import Assignment, Contribution, Evaluation, EvaluationRequest
from protocol.records import pack
from server.courier import Courier, Letter
from server.evaluations import check_num_examples, kind_task, limits_of, paired_spec
from server.fitting import Pool, Request, check_model, fit, fusion_letters, local_models, model_limits
from server.learner import Learner
from server.preparation import Prepared, ask

Stats = dict[str, NDArray[Any]]

# What a site measures on its test rows; all but the last two are statistics of a metric.
METHODS = frozenset(
    {"final", "calibrated", "ablated", "fused", "own", "local", "local_calibrated", "alone", "paired", "pool"}
)


@dataclass(frozen=True)
class Outcome:
    """What one subtask came to, on test rows.

    ``sites`` maps a site to its statistics by method: final, calibrated (final at its temperature),
    ablated (final, where upstream subtasks say the same of every row), fused, own (what it deploys),
    local (its own model) and local_calibrated, alone; ``paired`` to the sums of own minus alone.
    ``alone_global`` is each site's alone model on all sites' test rows.
    """

    rule: str
    candidates: tuple[Candidate, ...] = ()
    models: Mapping[str, Arrays] = field(default_factory=dict, repr=False)
    state: Arrays = field(default_factory=dict, repr=False)
    sites: Mapping[str, Mapping[str, Stats]] = field(default_factory=dict, repr=False)
    alone_global: Mapping[str, Stats] = field(default_factory=dict, repr=False)

    def merged(self, method: str) -> dict[str, float]:
        """Return the metrics of ``method`` on the union of the sites' test rows."""
        return metrics.summarise(metrics.merge([s[method] for s in self.sites.values() if method in s]))

    def at(self, site: str, method: str) -> dict[str, float]:
        """Return the metrics of ``method`` on the test rows of ``site``; {} if it was not measured."""
        stats = self.sites.get(site, {}).get(method)
        return metrics.summarise(stats) if stats else {}

    def standard_error(self, site: str, metric: str) -> float | None:
        """Return the standard error of own minus alone on the site's test rows, in the metric's unit.

        None for metrics that are not a mean over rows (ranks, F1, R²). For ``rmse`` it is that of the
        squared error over (own + alone), since own² − alone² = (own − alone)(own + alone).
        """
        sums = self.sites.get(site, {}).get("paired")
        if not sums or metric not in LOSSES:
            return None
        _, error = difference(sums, LOSSES[metric])
        if metric == "rmse":
            both = (self.at(site, method).get("rmse", 0.0) for method in ("own", "alone"))
            error /= max(sum(both), 1e-12)
        return error if np.isfinite(error) else None

    def weights(self) -> dict[str, float]:
        """Return the fusion weight of each candidate."""
        found = self.state.get("weights")
        if found is None:
            return {}
        return {c.name: float(w) for c, w in zip(self.candidates, found, strict=True)}


def conclude(
    courier: Courier,
    learner: Learner,
    run: str,
    rounds: int,
    *,
    unspent: Mapping[str, int],
    baselines: bool,
    notes: list[str],
) -> Outcome:
    """Collect candidates, fit the fusion on validation rows, measure everything on test rows.

    ``unspent`` is how many rounds each site was not asked for this subtask.
    """
    prepared = learner.prepared
    alone = _train_alone(courier, prepared, run, rounds, notes) if baselines else {}
    _finish_locals(courier, learner, run, unspent, notes)
    rule_name = prepared.fusion
    pool = _candidates(courier, learner, rule_name, notes)
    if not pool.candidates:
        notes.append(f"{prepared.subtask.name}: there is no final model and no shared one; nothing is fused")
    state = fit(courier, prepared, run, rule_name, pool, notes) if pool.candidates else {}
    sites = _measure(
        courier, prepared, Request(run, rule_name, "test", pool.candidates), (pool, state), notes
    )
    alone_global = {
        site: _on_all(courier, prepared, run, model, arrays, notes) for site, (model, arrays) in alone.items()
    }
    return Outcome(rule_name, pool.candidates, pool.models, state, sites, alone_global)


def _candidates(courier: Courier, learner: Learner, rule: str, notes: list[str]) -> Pool:
    """Return the final model and, if the rule needs them and every site allows, the sites' own last."""
    prepared = learner.prepared
    candidates: tuple[Candidate, ...] = ()
    models: dict[str, Arrays] = {}
    if (final := learner.final()) is not None:
        candidates = (Candidate(name=FINAL, model=final[0], temperature=learner.temperature),)
        models[FINAL] = final[1]
    if "shared_models" in load("fusion", rule).NEEDS:
        shared = local_models(courier, prepared, notes)
        return Pool(candidates + shared.candidates, {**models, **shared.models})
    return Pool(candidates, models)


def _measure(
    courier: Courier,
    prepared: Prepared,
    request: Request,
    fused: tuple[Pool, Arrays],
    notes: list[str],
) -> dict[str, dict[str, Stats]]:
    arrays = fused[0].arrays() | {f"fusion/{k}": v for k, v in fused[1].items()}
    letters = fusion_letters(prepared, request, arrays, prepared.sites)
    spec = metrics.statistics_spec(kind_task(prepared), prepared.subtask.outputs)
    limits = limits_of({**dict.fromkeys(METHODS, spec), "paired": paired_spec(prepared)})
    result: dict[str, dict[str, Stats]] = {}
    for arrival in ask(courier, letters, notes):
        site = arrival.letter.site
        try:
            evaluation, arrays = arrival.open(Evaluation, limits)
            check_num_examples(evaluation, prepared, "test")
            methods = _by_method(arrays)
            for method, stats in methods.items():
                if method == "pool":
                    check_finite(stats)
                elif method == "paired":
                    check(stats, paired_spec(prepared))
                else:
                    methods[method] = expand(stats, spec)
                    check(methods[method], spec)
                    metrics.check_sums(methods[method], evaluation.num_examples)
            if evaluation.num_examples:
                result[site] = methods
        except ConsiliumError as error:
            notes.append(f"{site}: its test result for {prepared.subtask.name} is not used: {error}")
    return result


def _finish_locals(
    courier: Courier, learner: Learner, run: str, unspent: Mapping[str, int], notes: list[str]
) -> None:
    """Have each site spend the rest of its budget on its own model, from the final one on (weights)."""
    prepared = learner.prepared
    personal = prepared.subtask.personal
    letters = []
    for site in prepared.sites:
        # A site that keeps layers for itself deploys them with the others' last shared ones.
        if unspent.get(site, 0) or (personal is not None and personal.keeps_layers):
            name = prepared.subtask.name
            assignment = Assignment(
                run=run,
                round=0,
                budget=unspent.get(site, 0),
                subtask=prepared.subtask,
                site=site,
                model=prepared.models[site],
            )
            content = pack(assignment, learner.handover(site))
            letters.append(Letter(site, "train.finish", content, name, None))
    for arrival in ask(courier, letters, notes):
        try:
            arrival.open(Contribution)
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: its own model of {prepared.subtask.name} stays: {error}")


def _train_alone(
    courier: Courier, prepared: Prepared, run: str, rounds: int, notes: list[str]
) -> dict[str, tuple[str, Arrays]]:
    """Have each site train without the others; where models may leave, return them to be measured by all."""
    letters = []
    for site in prepared.sites:
        assignment = Assignment(
            run=run, round=0, budget=rounds, subtask=prepared.subtask, site=site, model=prepared.models[site]
        )
        name = prepared.subtask.name
        letters.append(Letter(site, "train.alone", pack(assignment), name, None, counted=False))
    found: dict[str, tuple[str, Arrays]] = {}
    for arrival in ask(courier, letters, notes):
        try:
            contribution, arrays = arrival.open(Contribution, model_limits(prepared))
            if arrays:
                check_model(prepared, contribution.model, arrays)
                found[arrival.letter.site] = (contribution.model, arrays)
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: no baseline alone for {prepared.subtask.name}: {error}")
    return found


def _on_all(
    courier: Courier, prepared: Prepared, run: str, model: str, arrays: Arrays, notes: list[str]
) -> Stats:
    """Measure one site's alone model on every site's test rows."""
    letters = []
    for site in prepared.sites:
        request = EvaluationRequest(
            run=run, round=0, subtask=prepared.subtask, site=site, model=model, rows="test"
        )
        name = prepared.subtask.name
        letters.append(Letter(site, "evaluate.model", pack(request, arrays), name, None, counted=False))
    return merge_stats(courier, letters, prepared, notes)


def merge_stats(courier: Courier, letters: list[Letter], prepared: Prepared, notes: list[str]) -> Stats:
    """Return the merged statistics of evaluation letters of a baseline."""
    spec = metrics.statistics_spec(kind_task(prepared), prepared.subtask.outputs)
    found = []
    for arrival in ask(courier, letters, notes):
        try:
            evaluation, arrays = arrival.open(Evaluation, at_most(spec))
            check_num_examples(evaluation, prepared, "test")
            if evaluation.num_examples:
                stats = expand(arrays, spec)
                check(stats, spec)
                metrics.check_sums(stats, evaluation.num_examples)
                found.append(stats)
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: baseline not measured: {error}")
    return metrics.merge(found)


def _by_method(arrays: Arrays) -> dict[str, Stats]:
    result: dict[str, Stats] = {}
    for name, array in arrays.items():
        method, _, rest = name.partition("/")
        if method not in METHODS or not rest:
            raise MessageError("statistics have other names")
        result.setdefault(method, {})[rest] = array
    return result
