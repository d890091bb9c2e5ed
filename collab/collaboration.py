"""The collaboration file: parsed once into frozen models that refuse every unknown key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from collab import plugins
from collab.allocation.predicates import compile_rule
from collab.data.config import DataConfig, PartitionConfig
from collab.kinds.contract import Kind
from protocol.errors import ConfigError
from protocol.messages import FINAL, DigestSpec, Exchange, Frozen, Label, Name, TrainSpec

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e12)]


class Rule(Frozen):
    """A rule's name and its own options: ``{ rule = "fedadam", server_lr = 0.1 }``."""

    rule: Name
    options: dict[Name, float | int | bool | str] = {}

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"rule": value}
        if isinstance(value, Mapping) and "options" not in value:
            return {
                "rule": value.get("rule"),
                "options": {k: v for k, v in value.items() if k != "rule"},
            }
        return value


class ModelChoice(Frozen):
    """A model that a site may hold; its memory is estimated where none is given."""

    name: Name
    memory_mib: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Needs(Frozen):
    """What a site must have to be asked."""

    memory_mib: float = Field(0, ge=0, le=1e12)
    min_examples: int = Field(1, ge=1, le=10**12)


class PublicSet(Frozen):
    """Unlabelled inputs known to all: held out of a scenario's data, or a data block of its own."""

    holdout: int | None = Field(None, ge=10, le=10**7)
    data: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> PublicSet:
        if (self.holdout is None) == (self.data is None):
            raise ValueError("give either holdout = ROWS or data = NAME")
        return self


class SoftLabelTerms(Frozen):
    """How soft labels are combined, over which public set, how often the student travels."""

    combine: Name = "class_counts"
    public: PublicSet
    student_every: int = Field(4, ge=1, le=10**6)


class DistillationTerms(Frozen):
    """How the server distils the combined soft labels into one student.

    ``sharpen = "auto"`` tries the teacher's temperatures 1, 0.5, 0.1 and hard labels and keeps the
    student that is best on federated validation; its cost is counted.
    """

    student: Name | None = None
    temperature: float = Field(1.0, gt=0, le=100)
    sharpen: Literal["auto", "none", "hard"] | Positive = "auto"
    epochs: int = Field(10, ge=1, le=10_000)
    lr: float = Field(1e-3, gt=0, le=100)
    batch_size: int = Field(32, ge=1, le=100_000)
    digest: DigestSpec = DigestSpec()

    @property
    def spec(self) -> DigestSpec:
        """How the student is trained."""
        return DigestSpec(
            epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, temperature=self.temperature
        )


class FusionTerms(Frozen):
    """How the outputs of several models are merged at prediction time.

    Left out, it is ``least_squares`` where every site lets its models out, else ``own_pool``.
    A rule that needs shared models and is named here is refused where a site keeps its own.
    """

    rule: Name | None = None


class Coordination(Frozen):
    """When a round closes.

    Attributes:
        quorum: share of the cohort after which the rest has ``grace_s`` seconds more.
        deadline_s: when the round closes in any case.
        min_coverage: share of the cohort's examples below which the run stops and says so.
        sites: how many sites must have joined before the first round, for at most ``join_s``;
            in a scenario all, else the largest ``min_sites``.
    """

    quorum: float = Field(0.6, gt=0, le=1)
    grace_s: float = Field(30, ge=0, le=1e7)
    deadline_s: float = Field(600, gt=0, le=1e8)
    min_coverage: Share = 0.5
    sites: int | None = Field(None, ge=1, le=100_000)
    join_s: float = Field(120, ge=0, le=1e7)


class AllocationTerms(Frozen):
    """Who does what: a policy, how much at once, and predicates on capability."""

    policy: Name = "assignment"
    max_subtasks_per_site: int = Field(1, ge=1, le=1000)
    rules: dict[Name, Annotated[str, Field(max_length=500)]] = {}


class SubtaskTerms(Frozen):
    """One part of the overall task."""

    kind: Name
    data: Name | None = None
    labels: Annotated[tuple[Label, ...], Field(max_length=100_000)] | int | None = None
    metric: Name | None = None
    importance: Positive = 1.0
    target: float | None = None
    exchange: Exchange = "weights"
    models: Annotated[tuple[ModelChoice, ...], Field(min_length=1, max_length=100)] | None = None
    select: Literal["memory", "validation"] = "memory"
    aggregation: Rule = Rule(rule="fedavg")
    soft_labels: SoftLabelTerms | None = None
    distillation: DistillationTerms = DistillationTerms()
    train: TrainSpec = TrainSpec()
    needs: Needs = Needs()
    min_sites: int = Field(1, ge=1, le=100_000)
    fusion: FusionTerms | None = None
    coordination: Coordination | None = None

    @model_validator(mode="after")
    def _exchange_has_its_terms(self) -> SubtaskTerms:
        # With weights the table may stay: its public set is then held out all the same.
        if self.exchange == "soft_labels" and self.soft_labels is None:
            raise ValueError("exchange = 'soft_labels' needs soft_labels = { public = { holdout = ROWS } }")
        return self


class EgressTerms(Frozen):
    """What a site lets out. A scenario allows all unless it says otherwise."""

    models: bool = True
    label_histogram: Literal["exact", "rounded", "mask"] = "exact"


class SiteProfile(Frozen):
    """A simulated site, as the clock and the allocator see it."""

    subtasks: tuple[Name, ...] | None = None
    memory_mib: Positive = 4096
    gpu: bool = False
    gpu_memory_mib: float = Field(0, ge=0, le=1e12)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    examples_per_s: Positive = 1000
    bandwidth_mbit: Positive = 100
    latency_s: float = Field(0.05, ge=0, le=1e6)
    dropout: float = Field(0.0, ge=0, lt=1)
    price: float = Field(1.0, ge=0, le=1e12)
    egress: EgressTerms = EgressTerms()


class Fleet(Frozen):
    """Many simulated sites at once; ``speeds`` is ``lognormal:SIGMA`` around 1,000 examples a second."""

    count: int = Field(ge=1, le=10_000)
    speeds: str = Field("lognormal:0.0", pattern=r"^lognormal:\d+(\.\d+)?$")
    memory_mib: tuple[Positive, ...] = Field((4096.0,), min_length=1, max_length=100)
    subtasks_per_site: tuple[int, int] | None = None
    bandwidth_mbit: Positive = 100
    dropout: float = Field(0.0, ge=0, lt=1)


class ServerProfile(Frozen):
    """The server of a scenario, as the clock sees it: it distils at this speed."""

    examples_per_s: Positive = 20_000


class Collaboration(Frozen):
    """One overall task and its terms: the whole file."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    rounds: int = Field(10, ge=1, le=100_000)
    subtasks: dict[Name, SubtaskTerms] = Field(min_length=1, max_length=1000)
    allocation: AllocationTerms = AllocationTerms()
    fusion: FusionTerms = FusionTerms()
    coordination: Coordination = Coordination()
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
        return self.partition.get(subtask) or self.partition.get("default") or PartitionConfig(kind="iid")

    def sites_of(self, subtask: str) -> tuple[str, ...]:
        """Return the scenario's sites that have data of ``subtask``, in order of name."""
        return tuple(sorted(n for n, p in self.sites.items() if p.subtasks is None or subtask in p.subtasks))


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
            kind.models[-1] if terms.exchange == "soft_labels" else kind.models[min(1, len(kind.models) - 1)]
        )
        models = terms.models or (ModelChoice(name=default),)
        student = terms.distillation.student or models[-1].name
        for model in [*(m.name for m in models), student]:
            plugins.load("models", model)
        metric = _metric(terms, kind)
        _check_rules(terms)
    except ConfigError as error:
        raise ValueError(f"subtask '{name}': {error}") from None
    if terms.exchange == "soft_labels" and kind.output != "classes":
        raise ValueError(f"subtask '{name}': soft labels need a classification; exchange weights instead")
    return terms.model_copy(
        update={
            "data": terms.data or name,
            "metric": metric,
            "models": models,
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
    plugins.load("aggregation", terms.aggregation.rule).init({}, **terms.aggregation.options)
    if terms.soft_labels is not None:
        plugins.load("soft_labels", terms.soft_labels.combine)
    if terms.fusion is not None and terms.fusion.rule is not None:
        plugins.load("fusion", terms.fusion.rule)


def _cross_references(c: Collaboration) -> Iterator[str]:
    try:
        plugins.load("allocation", c.allocation.policy)
        if c.fusion.rule is not None:
            plugins.load("fusion", c.fusion.rule)
        for subtask, text in c.allocation.rules.items():
            _check_predicate(c, subtask, text)
    except ConfigError as error:
        yield str(error)
    for name in c.partition:
        if name not in {"default", *c.subtasks}:
            yield plugins.unknown(f"subtask '{name}' in [partition]", name, c.subtasks)
    if c.sites:
        yield from _scenario_references(c)


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
        public = terms.soft_labels.public.data if terms.soft_labels else None
        if public is not None and public not in c.data:
            yield plugins.unknown(f"public data '{public}' of subtask '{name}'", public, c.data)
