"""What a site must know of a subtask, as the collaboration says it, before anything is measured."""

from __future__ import annotations

from collab.aggregation import contract as aggregation
from collab.collaboration import Collaboration, kind_of, metric_of
from collab.decomposition.dag import ancestors, edges, siblings
from collab.plugins import load
from collab.soft_labels import contract as soft_labels
from collab.terms import SubtaskTerms, wire_of
from protocol.messages import DigestSpec, Subtask, TrainSpec
from protocol.parts import Upstream


def describe(collaboration: Collaboration, name: str) -> Subtask:
    """Return what a site must know of the subtask ``name``."""
    terms = collaboration.subtasks[name]
    return Subtask(
        name=name,
        data=str(terms.data),
        kind=terms.kind,
        labels=terms.labels,
        outputs=kind_of(terms).outputs(terms.labels),
        metric=metric_of(terms),
        exchange=terms.exchange,
        seed=collaboration.seed,
        train=_train(terms),
        digest=terms.distillation.digest if terms.exchange == "soft_labels" else DigestSpec(),
        wire=wire_of(terms),
        asks=_asks(terms),
        selective=terms.soft_labels.selective if terms.soft_labels else None,
        personal=terms.personal,
        prototypes=terms.prototypes,
        part=collaboration.view_of(name),
        family=terms.family,
        upstream=_upstream(collaboration, name) if terms.after else (),
    )


def _upstream(collaboration: Collaboration, name: str) -> tuple[Upstream, ...]:
    """Return all that a subtask comes after, as far as it is known before any is over."""
    after = edges(collaboration.subtasks)
    found = {above: collaboration.subtasks[above] for above in ancestors(name, after)}
    return tuple(
        Upstream(
            name=n,
            kind=t.kind,
            outputs=kind_of(t).outputs(t.labels),
            after=t.after,
            direct=n in after[name],
            whole=t.part_of,
            beside=siblings(n, collaboration.subtasks),
        )
        for n, t in found.items()
    )


def _asks(terms: SubtaskTerms) -> tuple[str, ...]:
    """Return what contributions have to say beside their arrays, for the rules that use it."""
    if terms.exchange == "weights" and "control" in _aggregation_needs(terms):
        return ("control",)
    if terms.exchange == "soft_labels" and terms.soft_labels is not None:
        rule = load("soft_labels", terms.soft_labels.combine.rule)
        return ("accuracy",) if "accuracy" in soft_labels.needs(rule) else ()
    return ()


def _train(terms: SubtaskTerms) -> TrainSpec:
    """Return how sites train; a rule that solves the last layer has them send sums in its place."""
    if "normal_equations" in _aggregation_needs(terms):
        return terms.train.model_copy(update={"objective": "normal_equations"})
    return terms.train


def _aggregation_needs(terms: SubtaskTerms) -> frozenset[str]:
    return aggregation.needs(load("aggregation", terms.aggregation.rule))
