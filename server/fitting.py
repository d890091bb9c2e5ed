"""Fit a fusion rule on the sites' validation rows: candidates out, sums back, solved once or step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import metrics
from collab.plugins import load
from collab.soft_labels.contract import SoftLabels
from protocol.arrays import Arrays, check, spec_of
from protocol.bounds import Rows
from protocol.codec import Limits, at_most, exactly
from protocol.errors import ConsiliumError, MessageError
from protocol.fusing import Candidate, FusionRequest
from protocol.messages import Evaluation, LocalModel, SubtaskQuery
from protocol.records import pack
from server.courier import Arrival, Courier, Letter
from server.evaluations import check_num_examples
from server.gate import LARGEST_MODEL, check_norm
from server.preparation import Prepared, ask

State = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Pool:
    """Candidates of a fusion and their arrays, in one order."""

    candidates: tuple[Candidate, ...] = ()
    models: Mapping[str, Arrays] = field(default_factory=dict, repr=False)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all candidates' arrays as ``INDEX/NAME``."""
        return {f"{i}/{k}": v for i, c in enumerate(self.candidates) for k, v in self.models[c.name].items()}


def local_models(courier: Courier, prepared: Prepared, notes: list[str]) -> Pool:
    """Return the sites' own last models that may leave, each with its own calibration."""
    query = pack(SubtaskQuery(subtask=prepared.subtask))
    letters = [Letter(s, "query.local_model", query, prepared.subtask.name, None) for s in prepared.sites]
    limits = model_limits(prepared)
    candidates, models = [], {}
    for arrival in ask(courier, letters, notes):
        site = arrival.letter.site
        try:
            answer, arrays = arrival.open(LocalModel, limits)
            if answer.model is not None:
                check_model(prepared, answer.model, arrays)
                models[site] = arrays
                candidates.append(Candidate(name=site, model=answer.model, temperature=answer.temperature))
        except ConsiliumError as error:
            notes.append(f"{site}: its own model of {prepared.subtask.name} is no candidate: {error}")
    return Pool(tuple(candidates), models)


def check_model(prepared: Prepared, model: str, arrays: Arrays) -> None:
    """Raise ``ProtocolError`` unless this is a model of an architecture that the subtask names."""
    if model not in prepared.model_mib:
        raise MessageError("it is of an architecture that the subtask does not name")
    check(arrays, spec_of(prepared.fresh_arrays(model)))
    check_norm(arrays, LARGEST_MODEL)


def model_limits(prepared: Prepared) -> Limits:
    """Return the most that a model of any architecture that the subtask names takes on the wire."""
    every = [exactly(spec_of(prepared.fresh_arrays(model))) for model in prepared.model_mib]
    return Limits(
        max(one.num_bytes for one in every),
        max(one.header_bytes for one in every),
        max(one.arrays for one in every),
    )


def fit(
    courier: Courier, prepared: Prepared, run: str, rule_name: str, pool: Pool, notes: list[str]
) -> State:
    """Return the fitted state; the sites' sums add up to the pooled problem.

    A rule of several steps is fitted by the sites that answered every step so far.
    """
    rule, count = load("fusion", rule_name), len(pool.candidates)
    state: State = {}
    if rule.STEPS == 0:
        return dict(rule.fit({}, {}, count))
    sites: Sequence[str] = prepared.sites
    for step in range(rule.STEPS):
        arrays = pool.arrays() if step == 0 else {}
        arrays |= {f"fusion/{k}": v for k, v in state.items()}
        request = Request(run, rule_name, "validation", pool.candidates, step)
        answers = ask(courier, fusion_letters(prepared, request, arrays, sites), notes)
        found = _sums(answers, prepared, rule, state, count, notes)
        state = dict(rule.fit(metrics.merge(list(found.values())), state, count))
        sites = sorted(found)
        if not sites or bool(state.get("done", np.zeros(1))[0]):
            break
    return state


@dataclass(frozen=True)
class Request:
    """What a fusion letter asks."""

    run: str
    rule: str
    rows: Rows
    candidates: tuple[Candidate, ...]
    step: int = 0


def fusion_letters(
    prepared: Prepared, request: Request, arrays: Arrays, sites: Sequence[str]
) -> list[Letter]:
    """Return the letters that have ``sites`` evaluate the candidates of a fusion."""
    letters = []
    for site in sites:
        content = FusionRequest(
            run=request.run,
            subtask=prepared.subtask,
            site=site,
            rule=request.rule,
            rows=request.rows,
            step=request.step,
            candidates=request.candidates,
            class_counts=tuple(prepared.class_counts.tolist()),
        )
        letters.append(Letter(site, "evaluate.fusion", pack(content, arrays), prepared.subtask.name, None))
    return letters


def with_class_weights(
    courier: Courier, prepared: Prepared, run: str, votes: Mapping[str, SoftLabels], notes: list[str]
) -> dict[str, SoftLabels]:
    """Return the votes with weights a class, fitted by every site on every site's model.

    That shares all models with all sites, each time: exact, and dear.
    """
    pool = local_models(courier, prepared, notes)
    plain = [c.model_copy(update={"temperature": 1.0}) for c in pool.candidates if c.name in votes]
    pool = Pool(tuple(plain), pool.models)  # votes are not calibrated, so what is fitted is not either
    if not pool.candidates:
        return dict(votes)
    state = fit(courier, prepared, run, "class_least_squares", pool, notes)
    if "class_weights" not in state:  # no site could say anything
        return dict(votes)
    names = [candidate.name for candidate in pool.candidates]
    fitted = dict(zip(names, state["class_weights"], strict=True))
    return {site: replace(vote, weights_C=fitted[site]) for site, vote in votes.items() if site in fitted}


def _sums(
    answers: Sequence[Arrival],
    prepared: Prepared,
    rule: Any,
    state: Arrays,
    count: int,
    notes: list[str],
) -> dict[str, State]:
    """Return the checked sums of each site that gave some."""
    outputs = prepared.subtask.outputs
    row_M1K, target_1K = np.full((count, 1, outputs), 1.0 / outputs), np.eye(outputs)[:1]
    spec = spec_of(rule.statistics(row_M1K, target_1K, state))
    found = {}
    for arrival in answers:
        try:
            evaluation, arrays = arrival.open(Evaluation, at_most(spec))
            check_num_examples(evaluation, prepared, "validation")
            if evaluation.num_examples:
                check(arrays, spec)
                rule.fit(arrays, state, count)  # sums that cannot be fitted alone would spoil the total
                found[arrival.letter.site] = dict(arrays)
        except ConsiliumError as error:
            about = arrival.letter.about
            notes.append(f"{arrival.letter.site}: not used in the fusion of {about}: {error}")
    return found
