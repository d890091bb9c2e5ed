"""The nouns of the protocol: frozen, bounded, and never carrying a row of data.

Arrays do not stand in messages; they travel beside them (``protocol.codec``), so that a
message can be logged whole.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from protocol.bounds import (
    Amount,
    Count,
    Counts,
    Exchange,
    Frozen,
    Json,
    Labels,
    Name,
    Round,
    Rows,
    Temperature,
    Text,
    WireForm,
)
from protocol.parts import PartOf, Upstream

PROTOCOL_VERSION = 1


class TrainSpec(Frozen):
    """How a site trains on its own rows in one assignment.

    ``local_steps`` (mini-batch updates), where given, takes the place of ``local_epochs``.
    ``proximal_mu`` is FedProx's μ (Li et al., MLSys 2020). With ``normal_equations`` nothing is
    trained: the site gives the sums from which the server solves the last layer exactly.
    """

    objective: Literal["supervised", "normal_equations"] = "supervised"
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.05, gt=0, le=100)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, le=1)
    batch_size: int = Field(32, ge=1, le=100_000)
    local_epochs: int = Field(1, ge=1, le=10_000)
    local_steps: int | None = Field(None, ge=1, le=10**7)
    proximal_mu: float = Field(0.0, ge=0, le=1e4)

    def steps(self, num_rows: int) -> int:
        """Return how many mini-batch updates one assignment makes on so many rows."""
        return self.local_steps or self.local_epochs * -(-num_rows // self.batch_size)

    def shortened(self, share: float, num_rows: int) -> TrainSpec:
        """Return the same training with that share of its updates, one at least; 1 leaves it as it is."""
        if share == 1.0:
            return self
        return self.model_copy(update={"local_steps": max(1, round(share * self.steps(num_rows)))})


class DigestSpec(Frozen):
    """How a site distils the combined soft labels into its own model before it trains.

    With 0 ``epochs`` it does not: it still deploys its model pooled with the student, and digesting what
    a few hundred public rows say of strongly skewed sites was measured to harm both.
    ``loss``: KL divergence of probabilities, or the mean absolute error of logits (FedMD).
    """

    loss: Literal["kl", "mae_logits"] = "kl"
    epochs: int = Field(0, ge=0, le=1000)
    lr: float = Field(1e-3, gt=0, le=100)
    batch_size: int = Field(64, ge=1, le=100_000)
    temperature: float = Field(1.0, gt=0, le=100)


class Wire(Frozen):
    """How arrays travel: as float32, or quantised (``protocol.quantise_labels``, ``quantise_delta``).

    ``top_k`` is how many classes a row ``topk`` sends.
    """

    form: WireForm = "fp32"
    top_k: int = Field(3, ge=1, le=100_000)

    @model_validator(mode="before")
    @classmethod
    def _bare_form(cls, value: Any) -> Any:
        return {"form": value} if isinstance(value, str) else value


class Personal(Frozen):
    """What of a model a site keeps for itself.

    ``fedper`` and ``fedrep`` keep the last layer (Arivazhagan et al., 2019; Collins et al., ICML 2021:
    the head is trained for ``head_epochs`` before the body), ``fedbn`` the normalisation layers (Li et
    al., ICLR 2021), ``ditto`` a whole model of its own, pulled towards the global one with
    ``strength`` (Li et al., ICML 2021).
    """

    rule: Literal["fedper", "fedrep", "fedbn", "ditto"]
    head_epochs: int = Field(1, ge=1, le=1000)
    strength: float = Field(0.1, ge=0, le=1e4)

    @model_validator(mode="before")
    @classmethod
    def _bare_rule(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value

    @property
    def keeps_layers(self) -> bool:
        """Whether some layers never leave a site, so that there is no whole global model."""
        return self.rule != "ditto"


class PrototypeSpec(Frozen):
    """Exchange ``prototypes``: features are pooled to ``dim`` numbers, and pulled with ``strength``."""

    dim: int = Field(64, ge=1, le=100_000)
    strength: float = Field(1.0, ge=0, le=1e4)


class Subtask(Frozen):
    """What a site must know of a subtask to work on it.

    ``data`` names the data set: splits are drawn from (seed, data, site), in every engine.
    ``outputs`` is the number of classes, or 1 for a regression. ``preprocessing`` is the JSON
    of the federated preprocessing, once its statistics have been merged. ``asks`` is what a
    contribution has to say beside its arrays; ``selective`` the share of its own rows that a site
    may find unlike itself before it abstains from such rows of the public set. ``part`` says, where the
    subtask is part of a whole, which of the whole's rows are its own. ``family`` names those with which it
    may share rows: they are split by their inputs, whatever the label (``collab.data.content``).
    ``upstream`` are the subtasks that it comes after and those that they come after themselves, each after
    all that it names.
    """

    name: Name
    data: Name
    kind: Name
    labels: Labels | None = None
    outputs: int = Field(ge=1, le=100_000)
    metric: Name
    exchange: Exchange
    seed: int = Field(ge=0, lt=2**63)
    train: TrainSpec = TrainSpec()
    digest: DigestSpec = DigestSpec()
    wire: Wire = Wire()
    asks: tuple[Literal["accuracy", "control"], ...] = Field((), max_length=2)
    selective: float | None = Field(None, ge=0, lt=1)
    personal: Personal | None = None
    prototypes: PrototypeSpec | None = None
    part: PartOf | None = None
    family: Name | None = None
    public_digest: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    preprocessing: Json | None = None
    upstream: Annotated[tuple[Upstream, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _upstream_in_order(self) -> Subtask:
        known: set[str] = set()
        for one in self.upstream:
            if one.name in known | {self.name}:
                raise ValueError("a subtask stands twice in its chain")
            if not known.issuperset(one.after):
                raise ValueError("after names a subtask that does not stand before it")
            known.add(one.name)
        return self

    @property
    def is_ready(self) -> bool:
        """Whether every subtask that it comes after has its final model."""
        return all(one.settled is not None for one in self.upstream)


class Capability(Frozen):
    """What a site says it can do. ``subtasks`` maps a subtask to its number of train examples."""

    site: Name
    memory_mib: Amount
    gpu: bool = False
    gpu_memory_mib: Amount = 0.0
    examples_per_s: Amount
    bandwidth_mbit: Amount
    price: Amount = 1.0
    shares_models: bool = True
    subtasks: Annotated[dict[Name, Count], Field(max_length=1000)]


class SubtaskQuery(Frozen):
    """A question about one subtask's data: capability, statistics or a trial of models."""

    subtask: Subtask
    models: tuple[Name, ...] = Field((), max_length=100)


class DataSummary(Frozen):
    """A site's mergeable statistics of its train rows, and how many rows each split has.

    ``class_counts`` is exact, rounded or a 0/1 mask, as the site's egress rules say.
    """

    site: Name
    subtask: Name
    statistics: Json
    class_counts: Counts = ()
    train: Count
    validation: Count
    test: Count


class Trial(Frozen):
    """Validation losses (sums) of models that a site tried on its own rows."""

    site: Name
    subtask: Name
    num_examples: Count
    loss_sums: Annotated[dict[Name, Amount], Field(max_length=100)]


class Joint(Frozen):
    """What one assignment trains together, with one encoder and a head for each.

    Attributes:
        subtasks: those that the site has; their preprocessing is the assignment's.
        importances: what each one's loss counts in the sum.
        every: measure affinities before every so many batches; None: do not.
        budget: how much of its local epochs the site does; 1 is all of them, once.
    """

    subtasks: Annotated[tuple[Subtask, ...], Field(min_length=1, max_length=64)]
    importances: Annotated[tuple[Annotated[float, Field(gt=0, le=1e12)], ...], Field(max_length=64)]
    every: int | None = Field(None, ge=1, le=10**6)
    budget: float = Field(1.0, gt=0, le=10)

    @model_validator(mode="after")
    def _one_of_each(self) -> Joint:
        names = {subtask.name for subtask in self.subtasks}
        if not len(names) == len(self.subtasks) == len(self.importances):
            raise ValueError("subtasks must have different names, and one importance each")
        return self


class Assignment(Frozen):
    """One (subtask, site, round), with the model that the site is to use.

    ``budget`` is, where the work is no round's (``train.finish``, ``train.alone``), how many rounds'
    worth of local epochs it may take. ``joint`` says what ``train.joint`` trains under the name of the
    subtask that leads, which the site itself need not have.
    """

    run: Name
    round: Round
    budget: Round = 0
    subtask: Subtask
    site: Name
    attempt: int = Field(1, ge=1, le=1000)
    model: Name
    joint: Joint | None = None

    @property
    def id(self) -> str:
        """The assignment id: run, round, subtask, site, attempt."""
        return assignment_id(self.run, self.round, self.subtask.name, self.site, self.attempt)


class Contribution(Frozen):
    """What a site gives back for an assignment; its arrays travel beside it.

    ``steps`` is how many optimiser steps it made, ``accuracy`` its own model's on its validation
    rows, where the subtask asks for it. ``looked`` is what of ``examples_processed`` affinities took.
    ``public_digest`` is, with soft labels, the digest of the public set that they are of. ``computed_on``
    is a digest of what the bits depend on (a device, releases): no words, so that all are equally long.
    """

    run: Name
    round: Round
    subtask: Name
    site: Name
    attempt: int = Field(ge=1, le=1000)
    model: Name
    exchange: Exchange
    num_examples: Annotated[int, Field(ge=1, le=10**12)]
    examples_processed: Count
    steps: Count = 0
    looked: Count = 0
    accuracy: float | None = Field(None, ge=0, le=1)
    class_counts: Counts = ()
    public_digest: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    computed_on: str = Field(pattern=r"^[0-9a-f]{16}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def id(self) -> str:
        """The id of the assignment that this answers."""
        return assignment_id(self.run, self.round, self.subtask, self.site, self.attempt)


class EvaluationRequest(Frozen):
    """Measure the model that travels beside this, or the site's own, on one split.

    Where ``class_counts`` (of all sites) are given, the answer compares the model with the
    predictor that knows them alone.
    """

    run: Name
    round: Round
    subtask: Subtask
    site: Name
    model: Name
    rows: Rows = "validation"
    class_counts: Counts = ()


class Evaluation(Frozen):
    """Mergeable statistics travel beside this.

    ``examples_processed`` is what it cost, in training examples (a forward pass counts a third).
    """

    run: Name
    round: Round
    subtask: Name
    site: Name
    num_examples: Count
    examples_processed: Count = 0


class LocalModel(Frozen):
    """A site's own last model; ``model`` is None where it has none or may not share it."""

    site: Name
    subtask: Name
    model: Name | None
    temperature: Temperature = 1.0


class Refusal(Frozen):
    """A site's answer where it cannot or may not do what was asked."""

    code: Name
    detail: Text


def assignment_id(run: str, round_: int, subtask: str, site: str, attempt: int) -> str:
    """Return the one id that names an assignment everywhere."""
    return f"{run}/{round_}/{subtask}/{site}/{attempt}"
