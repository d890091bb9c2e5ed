"""The whole again, after its parts are done: their final models to every site, one sum of test rows back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import metrics
from collab.collaboration import Collaboration, metric_of
from collab.decomposition import out_of_scope, whole_modality
from collab.decomposition.modality_terms import ModalityTerms
from collab.decomposition.terms import LabelHierarchyTerms, WholeTerms
from collab.decomposition.whole import check_statistics, statistics_spec
from collab.decomposition.whole_labels import FUSED, NAIVE, OUTSIDE, THRESHOLD
from collab.paired import LOSSES, difference
from collab.sparse import expand
from protocol.codec import at_most
from protocol.errors import ConsiliumError, MessageError
from protocol.fusing import WholePart, WholeRequest
from protocol.messages import Evaluation
from protocol.records import pack
from server.courier import Arrival, Courier, Letter
from server.evaluations import limits_of
from server.learner import Learner
from server.preparation import ask

Stats = dict[str, NDArray[Any]]
Groups = dict[str, Stats]


@dataclass(frozen=True)
class Whole:
    """What a whole came to on test rows: its sums by group (``decomposition.whole``) of each site."""

    metric: str
    terms: WholeTerms
    parts: Mapping[str, str]
    sites: Mapping[str, Groups] = field(repr=False)
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def merged(self, group: str) -> dict[str, float]:
        """Return the metrics of a group of sums, such as ``fused``, on the sites' rows in scope."""
        return metrics.summarise(
            metrics.merge([found[group] for found in self.sites.values() if group in found])
        )

    def own(self) -> dict[str, float | None]:
        """Return the deciding metric of the fused answer on each site's own rows."""
        return {s: metrics.summarise(found[FUSED]).get(self.metric) for s, found in self.sites.items()}

    def total(self, group: str) -> Stats:
        """Return a group's sums over all sites; {} where there are none."""
        return metrics.merge([found[group] for found in self.sites.values()])

    def recall(self) -> float | None:
        """Return the share of rows out of scope that were refused; None where there are none."""
        counts = [found[OUTSIDE]["counts"] for found in self.sites.values() if OUTSIDE in found]
        refused, rows = (float(sum(c[i] for c in counts)) for i in (0, 1))
        return refused / rows if rows else None


def measure_wholes(
    courier: Courier,
    collaboration: Collaboration,
    learners: Mapping[str, Learner],
    run: str,
    notes: list[str],
) -> dict[str, Whole]:
    """Return what each decomposition came to; one with a part without a final model is left out and noted."""
    found = {}
    for name in sorted(collaboration.wholes):
        lacking = [s for s in collaboration.parts_of(name).values() if learners[s].final() is None]
        if lacking:
            notes.append(f"{name}: not measured as a whole: there is no final model of {', '.join(lacking)}")
            continue
        try:
            found[name] = _measure(courier, collaboration, name, learners, run, notes)
        except MessageError as error:
            notes.append(f"{name}: not measured as a whole: {error}")
    return found


def _measure(
    courier: Courier,
    collaboration: Collaboration,
    name: str,
    learners: Mapping[str, Learner],
    run: str,
    notes: list[str],
) -> Whole:
    terms, parts = collaboration.wholes[name], collaboration.parts_of(name)
    chosen, arrays = _models(parts, learners)
    sites = sorted({site for subtask in parts.values() for site in learners[subtask].prepared.sites})

    def letters(rows: str) -> list[Letter]:
        asks = {site: _request(run, name, site, terms, chosen, rows) for site in sites}
        return [Letter(site, "evaluate.whole", pack(a, arrays), name, None) for site, a in asks.items()]

    if isinstance(terms, LabelHierarchyTerms) and terms.outside is not None and terms.threshold != "none":
        state = _threshold(terms, name, ask(courier, letters("validation"), notes), notes)
    else:
        state = _state(terms, parts, learners)
    arrays |= {f"fusion/{key}": array for key, array in state.items()}
    answers: dict[str, Groups] = {}
    for arrival in ask(courier, letters("test"), notes):
        try:
            groups = _opened(arrival, collaboration, name)
            if groups:
                answers[arrival.letter.site] = groups
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: its test result for {name} is not used: {error}")
    metric = metric_of(collaboration.subtasks[next(iter(parts.values()))])
    return Whole(metric, terms, parts, answers, state)


def _threshold(
    terms: LabelHierarchyTerms, name: str, arrivals: Sequence[Arrival], notes: list[str]
) -> dict[str, NDArray[Any]]:
    """Return the threshold that is best on the sites' validation rows; none where they do not tell."""
    found = []
    for arrival in arrivals:
        try:
            evaluation, arrays = arrival.open(Evaluation, at_most(out_of_scope.spec()))
            if (evaluation.subtask, evaluation.site) != (name, arrival.letter.site):
                raise MessageError("the result is of another whole or site")
            if evaluation.num_examples:
                sums = expand(arrays, out_of_scope.spec())
                out_of_scope.check_statistics(sums, evaluation.num_examples)
                found.append(sums)
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: its validation rows of {name} are not used: {error}")
    merged = metrics.merge(found)
    if not found or min(merged["rows"]) < 1 or terms.threshold == "none":
        notes.append(f"{name}: no threshold: it takes validation rows in scope and out of scope")
        return {}
    return {THRESHOLD: np.array([out_of_scope.fit(merged, terms.threshold)])}


def _request(
    run: str, name: str, site: str, terms: WholeTerms, parts: tuple[WholePart, ...], rows: str
) -> WholeRequest:
    keys = () if isinstance(terms, ModalityTerms) else ("groups", "outside", "refuses")
    by_labels = {key: getattr(terms, key) for key in keys}
    if keys:  # a view lists the whole's labels: sent with each part they would be the square of these
        parts = tuple(
            part.model_copy(update={"subtask": part.subtask.model_copy(update={"part": None})})
            for part in parts
        )
    return WholeRequest.model_validate(
        {"run": run, "whole": name, "site": site, "fusion": terms.fusion, "rows": rows, "parts": parts}
        | by_labels
    )


def _state(
    terms: WholeTerms, parts: Mapping[str, str], learners: Mapping[str, Learner]
) -> dict[str, NDArray[Any]]:
    """Return what the fusion needs beside the parts' answers: by modality, the priors in them."""
    if not isinstance(terms, ModalityTerms):
        return {}
    counts = {}
    for part, subtask in parts.items():
        prepared = learners[subtask].prepared
        known = {site: prepared.summaries[site] for site in prepared.sites}
        counts[part] = {s: whole_modality.told(np.array(k.class_counts), k.train) for s, k in known.items()}
    return dict(whole_modality.fit(terms, counts))


def _models(
    parts: Mapping[str, str], learners: Mapping[str, Learner]
) -> tuple[tuple[WholePart, ...], dict[str, NDArray[Any]]]:
    """Return the parts with their final models, and all models' arrays as ``INDEX/NAME``."""
    chosen, arrays = [], {}
    for index, (part, subtask) in enumerate(parts.items()):
        learner = learners[subtask]
        final = learner.final()
        if final is None:
            raise MessageError(f"subtask '{subtask}' has no final model")
        chosen.append(
            WholePart(
                name=part,
                subtask=learner.prepared.subtask,
                model=final[0],
                temperature=learner.temperature,
            )
        )
        arrays.update({f"{index}/{key}": array for key, array in final[1].items()})
    return tuple(chosen), arrays


def _opened(arrival: Arrival, collaboration: Collaboration, name: str) -> Groups:
    """Return a site's checked sums by group; {} if it has no test rows or abstained."""
    terms = collaboration.wholes[name]
    evaluation, arrays = arrival.open(Evaluation, limits_of(statistics_spec(terms)))
    if (evaluation.subtask, evaluation.site) != (name, arrival.letter.site):
        raise MessageError("the result is of another whole or site")
    if not evaluation.num_examples:
        return {}
    groups: Groups = {}
    for key, array in arrays.items():
        group, _, rest = key.partition("/")
        groups.setdefault(group, {})[rest] = array
    for group, spec in statistics_spec(terms).items():
        groups[group] = expand(groups.get(group, {}), spec)
    check_statistics(groups, terms, evaluation.num_examples)
    return groups


def as_json(wholes: Mapping[str, Whole], per_part: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the entry ``decompositions`` of a summary.

    Args:
        wholes: by name.
        per_part: the deciding metric of each subtask's final model on its own test rows.
    """
    return {name: _entry(whole, per_part) for name, whole in wholes.items()}


def _entry(whole: Whole, per_part: Mapping[str, float | None]) -> dict[str, Any]:
    fused, own = whole.merged(FUSED), whole.own()
    known = [value for value in own.values() if value is not None]
    beside = _by_modality(whole) if isinstance(whole.terms, ModalityTerms) else _by_labels(whole)
    return {
        "by": whole.terms.by,
        "fusion": whole.terms.fusion,
        "metric": whole.metric,
        "global": fused.get(whole.metric),
        "own": sum(known) / len(known) if known else None,
        "metrics": fused,
        "sites": own,
        "per_part": {subtask: per_part.get(subtask) for subtask in whole.parts.values()},
        **beside,
    }


def _by_labels(whole: Whole) -> dict[str, Any]:
    """Return the groups, and beside the fused answer the naive one."""
    groups = {} if isinstance(whole.terms, ModalityTerms) else whole.terms.hierarchy.groups
    return {
        "groups": {group: list(labels) for group, labels in groups.items()},
        "closed_set": whole.merged(NAIVE).get(whole.metric),
        "recall_outside": whole.recall(),
        "threshold": float(whole.state[THRESHOLD][0]) if THRESHOLD in whole.state else None,
    }


def _by_modality(whole: Whole) -> dict[str, Any]:
    """Return each modality alone on the same rows, and the best of them against all together.

    ``difference`` is of the deciding metric, all together minus the best alone; where that is the mean of
    a loss of each row it has a standard error, of the paired rows. The best is chosen on these test rows.
    """
    alone = {part: whole.merged(whole_modality.only(part)).get(whole.metric) for part in whole.parts}
    known = {part: value for part, value in alone.items() if value is not None}
    together = whole.merged(FUSED).get(whole.metric)
    counts = whole.total(whole_modality.ROWS)
    rows = counts["counts"].astype(int).tolist() if counts else [0] * len(whole.parts)
    best: dict[str, Any] | None = None
    if known and together is not None:
        choose = min if whole.metric in metrics.LOWER_IS_BETTER else max
        part = choose(known, key=lambda name: known[name])
        loss = LOSSES.get(whole.metric)
        error = difference(whole.total(whole_modality.against(part)), loss)[1] if loss else None
        best = {
            "part": part,
            "global": known[part],
            "difference": together - known[part],
            "standard_error": error if error is not None and math.isfinite(error) else None,
        }
    prior_C = np.exp(whole.state["log_prior"]).tolist()
    return {
        "alone": alone,
        "best_alone": best,
        "rows": dict(zip(whole.parts, rows, strict=True)),
        "prior": dict(zip(whole.terms.labels, prior_C, strict=True)),
    }
