"""The terms of a collaboration, table by table: frozen models that refuse every unknown key."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from collab import compositions
from collab.teacher import TeacherFile
from protocol.bounds import Exchange, Frozen, Label, Name, Names, WireForm
from protocol.messages import DigestSpec, Personal, PrototypeSpec, TrainSpec, Wire

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Attack = Literal["label_flip", "sign_flip", "alie", "ipm", "gaussian", "soft_label_swap"]


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
    """How soft labels are combined, over which public set, how often the student travels.

    ``mask``: a site abstains from classes that it has no rows of; without it, as most published methods
    are, it speaks on all. ``selective``: a site abstains from public rows that are less like its own
    rows than all but this share of them (Selective-FD).
    """

    combine: Rule = Rule(rule="class_counts")
    public: PublicSet
    mask: bool = True
    selective: float | None = Field(None, ge=0, lt=1)
    student_every: int = Field(4, ge=1, le=10**6)


class DistillationTerms(Frozen):
    """How the server distils the combined soft labels into one student.

    ``sharpen = "auto"`` tries the teacher's temperatures 1, 0.5, 0.1 and hard labels and keeps the
    student that is best on federated validation; its cost is counted. ``ensemble``, with exchange
    ``weights``: the server distils the cohort's models into their averages (FedDF).
    """

    ensemble: bool = False
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
        patience: a site is overdue once it is so many standard deviations (of the logarithm of its seconds)
            and ``grace_s`` later than predicted; a cohort in which all others are overdue closes if
            ``min_coverage`` holds. Left out, it waits until ``deadline_s``.
        min_coverage: share of the cohort's examples below which the run stops and says so.
        sites: how many sites must have joined before the first round, for at most ``join_s``;
            in a scenario all, else the largest ``min_sites``.
    """

    quorum: float = Field(0.6, gt=0, le=1)
    grace_s: float = Field(30, ge=0, le=1e7)
    deadline_s: float = Field(600, gt=0, le=1e8)
    patience: float | None = Field(None, ge=0, le=100)
    min_coverage: Share = 0.5
    sites: int | None = Field(None, ge=1, le=100_000)
    join_s: float = Field(120, ge=0, le=1e7)


class ObjectiveTerms(Frozen):
    """What the collaboration minimises: Σ λ_k f_k^α over the subtasks' relative validation losses.

    ``alpha`` = 1 is the plain sum; a larger one counts the worst subtask for more (``collab.objective``).
    """

    alpha: float = Field(2.0, ge=1, le=100)


class AllocationTerms(Frozen):
    """Who does what: a policy with its options, how much at once, and predicates on capability."""

    policy: Rule = Rule(rule="consilium")
    max_subtasks_per_site: int = Field(1, ge=1, le=1000)
    rules: dict[Name, Annotated[str, Field(max_length=500)]] = {}


# The first of each exchange is its default: 8 bits of a logit cost nothing that can be measured.
_WIRES: Final[Mapping[Exchange, tuple[WireForm, ...]]] = MappingProxyType(
    {
        "weights": ("fp32", "int8_delta"),
        "soft_labels": ("uint8", "fp16", "fp32", "topk"),
        "prototypes": ("fp32",),
    }
)


class SubtaskTerms(Frozen):
    """One part of the overall task.

    Attributes:
        wire: how contributions and soft labels travel; left out, ``fp32`` for weights and ``uint8``
            for soft labels.
        composition: a published method by name; it fills what the table leaves out.
        architectures: with weights, one architecture for all, or averages inside each.
        personal: what of the model each site keeps for itself.
        max_sites: the largest cohort of a round; left out, all that the policy gives.
        from_round, until_round: the rounds in which it is worked on; left out, all.
        after: the subtasks that must be over first; their final models' soft outputs are further inputs.
        teacher: an imported model that joins as a teacher or as the start.
        root: labelled rows at the server, for rules that need them.
        part_of: the whole of which this is a part; written by ``[decomposition.NAME]``.
        family: those with whom it may share rows, whose sides are then the same for all; written by
            ``[decomposition.NAME] by = "affinity"``.
    """

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
    wire: Wire | None = None
    composition: Name | None = None
    architectures: Literal["common", "own"] = "common"
    personal: Personal | None = None
    prototypes: PrototypeSpec | None = None
    teacher: TeacherFile | None = None
    root: PublicSet | None = None
    needs: Needs = Needs()
    min_sites: int = Field(1, ge=1, le=100_000)
    max_sites: int | None = Field(None, ge=1, le=100_000)
    from_round: int = Field(1, ge=1, le=100_000)
    until_round: int | None = Field(None, ge=1, le=100_000)
    after: Names = ()
    fusion: FusionTerms | None = None
    coordination: Coordination | None = None
    part_of: Name | None = None
    family: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _composed(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("composition"), str):
            return compositions.fill(value["composition"], value)
        return value

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> SubtaskTerms:
        if self.max_sites is not None and self.max_sites < self.min_sites:
            raise ValueError(f"max_sites is {self.max_sites}, below min_sites = {self.min_sites}")
        if self.until_round is not None and self.until_round < self.from_round:
            raise ValueError(f"until_round is {self.until_round}, before from_round = {self.from_round}")
        return self

    @model_validator(mode="after")
    def _exchange_has_its_terms(self) -> SubtaskTerms:
        # With weights the table may stay: its public set is then held out all the same.
        if (self.exchange == "soft_labels" or self.distillation.ensemble) and self.soft_labels is None:
            raise ValueError("exchange = 'soft_labels' needs soft_labels = { public = { holdout = ROWS } }")
        if self.wire is not None and self.wire.form not in _WIRES[self.exchange]:
            raise ValueError(
                f"wire '{self.wire.form}' does not carry {self.exchange}; allowed: {_WIRES[self.exchange]}"
            )
        if self.exchange != "weights":
            for key, is_given in (
                ("personal", self.personal is not None),
                ("architectures = 'own'", self.architectures == "own"),
                ("distillation.ensemble", self.distillation.ensemble),
            ):
                if is_given:
                    raise ValueError(f"{key} belongs to exchange = 'weights', not '{self.exchange}'")
        if self.prototypes is not None and self.exchange != "prototypes":
            raise ValueError("prototypes belongs to exchange = 'prototypes'")
        return self


class EgressTerms(Frozen):
    """What a site lets out. A scenario allows all unless it says otherwise.

    ``affinities``: sums of what a step for one subtask did to the loss of another, where they train together.
    """

    models: bool = True
    affinities: bool = True
    label_histogram: Literal["exact", "rounded", "mask"] = "exact"


class SiteProfile(Frozen):
    """A simulated site, as the clock and the allocator see it.

    ``abstain``: classes of a subtask on which it gives no opinion. ``attack``: it is Byzantine, and
    this is what it does; for studies of robustness. ``from_round``, ``until_round``: the rounds in which
    it is there.
    """

    subtasks: tuple[Name, ...] | None = None
    memory_mib: Positive = 4096
    gpu: bool = False
    gpu_memory_mib: float = Field(0, ge=0, le=1e12)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    examples_per_s: Positive = 1000
    bandwidth_mbit: Positive = 100
    latency_s: float = Field(0.05, ge=0, le=1e6)
    dropout: float = Field(0.0, ge=0, lt=1)
    from_round: int = Field(1, ge=1, le=100_000)
    until_round: int | None = Field(None, ge=1, le=100_000)
    price: float = Field(1.0, ge=0, le=1e12)
    egress: EgressTerms = EgressTerms()
    abstain: dict[Name, tuple[Label, ...]] = {}
    attack: Attack | None = None


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


def wire_of(terms: SubtaskTerms) -> Wire:
    """Return how the arrays of a subtask travel: as the file says, or its exchange's default."""
    return terms.wire or Wire(form=_WIRES[terms.exchange][0])
