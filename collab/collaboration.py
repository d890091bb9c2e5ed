"""The collaboration file: parsed once into frozen models that refuse every unknown key."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, field_validator, model_validator

from collab import plugins
from collab.aggregation import contract as aggregation
from collab.allocation.feasibility import options_of
from collab.allocation.predicates import compile_rule
from collab.data.config import DataConfig, PartitionConfig
from collab.decomposition import dag, families
from collab.decomposition.affinity_terms import AffinityTerms
from collab.decomposition.terms import DecompositionTerms, WholeTerms, name_of
from collab.fusion.contract import check_task
from collab.kinds.contract import Kind
from collab.personal import check_ditto
from collab.scaffold import check_scaffold
from collab.soft_labels import contract as soft_labels
from collab.teacher_checks import check_teacher
from collab.terms import (
    AllocationTerms,
    Coordination,
    Fleet,
    FusionTerms,
    ModelChoice,
    ObjectiveTerms,
    ServerProfile,
    SiteProfile,
    SubtaskTerms,
    wire_of,
)
from protocol.bounds import Frozen, Name
from protocol.errors import ConfigError
from protocol.fusing import FINAL
from protocol.parts import PartOf


class Collaboration(Frozen):
    """One overall task and its terms: the whole file."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    rounds: int = Field(10, ge=1, le=100_000)
    subtasks: dict[Name, SubtaskTerms] = Field(min_length=1, max_length=1000)
    objective: ObjectiveTerms = ObjectiveTerms()
    allocation: AllocationTerms = AllocationTerms()
    fusion: FusionTerms = FusionTerms()
    coordination: Coordination = Coordination()
    decomposition: dict[Name, DecompositionTerms] = {}
    data: dict[Name, DataConfig] = {}
    partition: dict[Name, PartitionConfig] = {}
    sites: dict[Name, SiteProfile] = {}
    fleet: Fleet | None = None
    server: ServerProfile = ServerProfile()

    @field_validator("subtasks", mode="after")
    @classmethod
    def _resolved(cls, value: dict[str, SubtaskTerms]) -> dict[str, SubtaskTerms]:
        return {name: _with_defaults(name, terms) for name, terms in value.items()}

    @model_validator(mode="after")
    def _names_meet(self) -> Collaboration:
        for problem in _cross_references(self):
            raise ValueError(problem)
        return self

    @property
    def is_scenario(self) -> bool:
        """Whether the file brings its own sites, so that it can be simulated."""
        return bool(self.sites)

    def fusion_of(self, subtask: str) -> FusionTerms:
        """Return the fusion terms of ``subtask``: its own, or the collaboration's."""
        return self.subtasks[subtask].fusion or self.fusion

    def coordination_of(self, subtask: str) -> Coordination:
        """Return the coordination terms of ``subtask``: its own, or the collaboration's."""
        return self.subtasks[subtask].coordination or self.coordination

    def partition_of(self, subtask: str) -> PartitionConfig:
        """Return how the data of ``subtask`` is dealt out to the sites."""
        whole = self.subtasks[subtask].part_of or subtask
        return self.partition.get(whole) or self.partition.get("default") or PartitionConfig(kind="iid")

    def sites_of(self, subtask: str) -> tuple[str, ...]:
        """Return the scenario's sites that have data of ``subtask``, in order of name."""
        return tuple(sorted(n for n, p in self.sites.items() if p.subtasks is None or subtask in p.subtasks))

    @property
    def wholes(self) -> dict[str, WholeTerms]:
        """The decompositions that replaced a subtask by its parts."""
        return {n: t for n, t in self.decomposition.items() if not isinstance(t, AffinityTerms)}

    @property
    def families(self) -> dict[str, AffinityTerms]:
        """The decompositions whose subtasks train together first, then in groups."""
        return {n: t for n, t in self.decomposition.items() if isinstance(t, AffinityTerms)}

    def parts_of(self, whole: str) -> dict[str, str]:
        """Return the subtask of each part of a decomposition by the part's short name."""
        return {part: name_of(whole, part) for part in self.wholes[whole].names}

    def view_of(self, subtask: str) -> PartOf | None:
        """Return which rows of its whole ``subtask`` takes; None if it is no part of one."""
        whole = self.subtasks[subtask].part_of
        if whole is None:
            return None
        return self.wholes[whole].view(whole, subtask.removeprefix(name_of(whole, "")))


def named_kind(name: str) -> Kind:
    """Return the kind of that name; a plug-in may be the value itself, or a module with ``KIND``."""
    module = plugins.load("kinds", name)
    kind: Kind = getattr(module, "KIND", module)
    return kind


def kind_of(terms: SubtaskTerms) -> Kind:
    """Return the kind that a subtask names."""
    return named_kind(terms.kind)


def models_of(terms: SubtaskTerms) -> tuple[ModelChoice, ...]:
    """Return the models of a resolved subtask, in the order of the file."""
    return terms.models or ()  # never empty: filled in when the file was parsed


def metric_of(terms: SubtaskTerms) -> str:
    """Return the metric that decides in a resolved subtask."""
    return terms.metric or ""  # never empty: filled in when the file was parsed


def _with_defaults(name: str, terms: SubtaskTerms) -> SubtaskTerms:
    try:
        kind = kind_of(terms)
        default = (
            kind.models[min(1, len(kind.models) - 1)] if terms.exchange == "weights" else kind.models[-1]
        )
        models = terms.models or (ModelChoice(name=default),)
        student = terms.distillation.student or models[-1].name
        for model in [*(m.name for m in models), student]:
            plugins.load("models", model)
        metric = _metric(terms, kind)
        _check_rules(terms)
        check_teacher(terms, [m.name for m in models], student)
        _check_ensemble(terms, kind)
    except ConfigError as error:
        raise ValueError(f"subtask '{name}': {error}") from None
    if terms.exchange != "weights" and kind.output != "classes":
        what = terms.exchange.replace("_", " ")
        raise ValueError(f"subtask '{name}': {what} need a classification; exchange weights instead")
    return terms.model_copy(
        update={
            "data": terms.data or name,
            "metric": metric,
            "models": models,
            "wire": wire_of(terms),
            "distillation": terms.distillation.model_copy(update={"student": student}),
        }
    )


def _metric(terms: SubtaskTerms, kind: Kind) -> str:
    if terms.metric is None:
        return kind.metrics[0]
    if terms.metric not in kind.metrics:
        raise ConfigError(plugins.unknown(f"metric '{terms.metric}'", terms.metric, kind.metrics))
    return terms.metric


def _check_rules(terms: SubtaskTerms) -> None:
    rule, options = terms.aggregation.rule, terms.aggregation.options
    found = plugins.load("aggregation", rule)
    found.init({}, **options)
    _check_training(terms, aggregation.needs(found))
    if "root" in aggregation.needs(found) and terms.root is None:
        raise ConfigError(
            f"aggregation '{rule}' needs labelled rows at the server: root = {{ holdout = ROWS }}"
        )
    if terms.soft_labels is not None:
        combine = terms.soft_labels.combine
        soft_labels.check_options(plugins.load("soft_labels", combine.rule), **combine.options)


def _check_fusion(c: Collaboration, name: str, terms: SubtaskTerms) -> None:
    rule = c.fusion_of(name).rule
    if rule is None:
        return
    found = plugins.load("fusion", rule)
    check_task(found, kind_of(terms).task)
    if terms.personal is not None and terms.personal.keeps_layers and "shared_models" in found.NEEDS:
        raise ConfigError(
            f"fusion '{rule}' needs shared models, and the sites of subtask '{name}' keep layers to "
            "themselves: use rule = 'own_pool'"
        )


def _check_training(terms: SubtaskTerms, needs: frozenset[str]) -> None:
    """Refuse what an aggregation rule or a personal model assumes otherwise of the sites' training."""
    rule, train, personal = terms.aggregation.rule, terms.train, terms.personal
    if terms.exchange != "weights":
        return
    if "control" in needs:
        check_scaffold(train)
    if needs & {"control", "steps", "normal_equations"} and personal is not None:
        raise ConfigError(f"aggregation '{rule}' needs the whole model's training: leave out personal")
    if "steps" in needs and (
        train.optimizer != "sgd" or train.momentum != terms.aggregation.options.get("momentum", 0.0)
    ):
        raise ConfigError(
            f"aggregation '{rule}' normalises by steps of SGD: train.optimizer = \"sgd\", and its option "
            f"momentum must be train.momentum ({train.momentum})"
        )
    if "normal_equations" in needs and wire_of(terms).form != "fp32":
        raise ConfigError(f"aggregation '{rule}' sends sums: leave out wire")
    if personal is not None and personal.rule == "ditto":
        check_ditto(train, personal.strength)


def _check_ensemble(terms: SubtaskTerms, kind: Kind) -> None:
    """Refuse to distil an ensemble of what are no whole models, or by a rule that models cannot feed."""
    if not terms.distillation.ensemble:
        return
    rule = terms.aggregation.rule
    if aggregation.needs(plugins.load("aggregation", rule)) & {"control", "normal_equations"}:
        raise ConfigError(f"distillation.ensemble needs whole models, aggregation '{rule}' gives others")
    if terms.personal is not None and terms.personal.keeps_layers:
        raise ConfigError("distillation.ensemble needs whole models: leave out personal")
    if kind.output != "classes":
        raise ConfigError("distillation.ensemble needs a classification")
    combine = terms.soft_labels.combine.rule if terms.soft_labels else "mean_logit"
    if soft_labels.needs(plugins.load("soft_labels", combine)):
        raise ConfigError(
            f"soft_labels '{combine}' needs more of a site than its weights: not for an ensemble"
        )


def _check_sites(c: Collaboration, name: str) -> Iterator[str]:
    """Yield what a rule needs of the number of sites, where a scenario can never have so many."""
    terms = c.subtasks[name]
    rule = plugins.load("aggregation", terms.aggregation.rule)
    if "updates" in aggregation.needs(rule) and (least := rule.least(**terms.aggregation.options)) > len(
        c.sites_of(name)
    ):
        yield (
            f"subtask '{name}': aggregation '{terms.aggregation.rule}' needs {least} contributions, "
            f"but {len(c.sites_of(name))} sites have it"
        )


def _cross_references(c: Collaboration) -> Iterator[str]:
    if c.rounds > 1 and any(t.composition == "one_shot" for t in c.subtasks.values()):
        yield f"composition 'one_shot' needs rounds = 1, found {c.rounds}"
    try:
        policy = c.allocation.policy
        options_of(policy.rule, plugins.load("allocation", policy.rule), policy.options)
        for name, terms in c.subtasks.items():
            _check_fusion(c, name, terms)
        for subtask, text in c.allocation.rules.items():
            _check_predicate(c, subtask, text)
    except ConfigError as error:
        yield str(error)
    yield from _decompositions(c)
    yield from families.cross_references(c, {n: kind_of(t).inputs for n, t in c.subtasks.items()})
    yield from dag.problems(c.subtasks, lambda terms: kind_of(terms).inputs, c.data, c.rounds)
    for name in c.partition:
        if name not in {"default", *c.subtasks, *c.decomposition}:
            yield plugins.unknown(f"subtask '{name}' in [partition]", name, c.subtasks)
    if c.sites:
        yield from _scenario_references(c)
    for name, terms in c.subtasks.items():
        if not c.sites and c.fleet is None and terms.root is not None and terms.root.data not in c.data:
            yield f"root of subtask '{name}': give root = {{ data = NAME }} and its table [data.NAME]"


def _decompositions(c: Collaboration) -> Iterator[str]:
    """Yield what is wrong where a whole and its parts do not belong together."""
    for whole, terms in c.wholes.items():
        if terms.subtask is None:
            yield f"decomposition '{whole}' is not written out: read the file with collab.settings.parse"
            return
        lost = [name for name in c.parts_of(whole).values() if name not in c.subtasks]
        if lost:
            yield plugins.unknown(f"part '{lost[0]}' of decomposition '{whole}'", lost[0], c.subtasks)
        yield from _of_the_same_rows(
            whole, [c.subtasks[n] for n in c.parts_of(whole).values() if n not in lost]
        )
    for name, part in c.subtasks.items():
        if part.part_of is None:
            continue
        if name in c.partition:
            yield f"[partition.{name}]: the rows are dealt out for the whole: [partition.{part.part_of}]"
        if part.part_of not in c.wholes:
            yield plugins.unknown(f"whole '{part.part_of}' of subtask '{name}'", part.part_of, c.wholes)
        elif name not in c.parts_of(part.part_of).values():
            yield f"subtask '{name}' is no part of '{part.part_of}': leave out part_of"
        elif kind_of(part).output != "classes":
            yield f"subtask '{name}': only a classification is taken apart, not '{part.kind}'"


def _of_the_same_rows(whole: str, parts: list[SubtaskTerms]) -> Iterator[str]:
    same = f"parts of '{whole}' are views of the same rows"
    if len({_holdouts(part) for part in parts}) > 1:
        yield f"{same}: hold out as many of them for each"
    if len({part.data for part in parts}) > 1:
        yield f"{same}: give all the same data"


def _holdouts(terms: SubtaskTerms) -> tuple[int | None, int | None]:
    public = terms.soft_labels.public.holdout if terms.soft_labels else None
    return public, terms.root.holdout if terms.root else None


def _check_predicate(c: Collaboration, subtask: str, text: str) -> None:
    if subtask not in c.subtasks:
        raise ConfigError(plugins.unknown(f"subtask '{subtask}' in [allocation.rules]", subtask, c.subtasks))
    try:
        compile_rule(text, subtasks=c.subtasks)
    except ConfigError as error:
        raise ConfigError(f"allocation.rules.{subtask}: {error}") from None


def _scenario_references(c: Collaboration) -> Iterator[str]:
    if FINAL in c.sites:
        yield f"a site cannot be called '{FINAL}': that is the name of the model they make together"
    for site, profile in c.sites.items():
        for subtask in profile.subtasks or ():
            if subtask not in c.subtasks:
                yield plugins.unknown(f"subtask '{subtask}' in [sites.{site}]", subtask, c.subtasks)
    for name, terms in c.subtasks.items():
        if terms.data not in c.data:
            yield plugins.unknown(f"data '{terms.data}' of subtask '{name}'", str(terms.data), c.data)
        if len(c.sites_of(name)) < terms.min_sites:
            yield f"subtask '{name}' needs min_sites = {terms.min_sites}, but {len(c.sites_of(name))} have it"
        yield from _check_sites(c, name)
        yield from _check_sets(c, name)


def _check_sets(c: Collaboration, name: str) -> Iterator[str]:
    """Yield what is wrong with a subtask's public and root sets."""
    terms = c.subtasks[name]
    public = terms.soft_labels.public.data if terms.soft_labels else None
    if public is not None and public == terms.data:
        yield f"public data '{public}' of subtask '{name}' is the sites' own: use holdout = ROWS"
    for what, data in (("public", public), ("root", terms.root.data if terms.root else None)):
        if data is not None and data not in c.data:
            yield plugins.unknown(f"{what} data '{data}' of subtask '{name}'", data, c.data)
