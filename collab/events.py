"""What happens to a run (events) and what is to be done about it (instructions), as values.

Both are frozen and have a JSON form, so a run's log can be read back and replayed. Times are
seconds on the clock that the engine supplies, from the start of the run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from collab.allocation.contract import LARGEST_BUDGET
from protocol.bounds import Amount, Count, Frozen, Name, Round, Text
from protocol.messages import Capability

AssignmentKey = Annotated[str, Field(max_length=400)]
Seconds = Amount


class _Event(Frozen):
    at_s: Seconds


class SiteJoined(_Event):
    """A site said what it can do; it takes part from the next round on.

    ``seconds`` predicts one round of each subtask at this site, of which ``transfer`` is what no budget
    shortens; ``models`` is what it will hold; ``class_counts`` are its train rows a class of each
    classification, as far as it tells.
    """

    type: Literal["site_joined"] = "site_joined"
    capability: Capability
    seconds: dict[Name, Amount]
    transfer: dict[Name, Amount] = {}
    models: dict[Name, Name]
    class_counts: dict[Name, tuple[Amount, ...]] = {}


class SiteLost(_Event):
    """A site is gone: nothing more is expected of it."""

    type: Literal["site_lost"] = "site_lost"
    site: Name
    reason: Text = ""


class Started(_Event):
    """All preparation is done; the first round may open.

    ``model_mib`` is the memory that the smallest model of each subtask takes.
    """

    type: Literal["started"] = "started"
    run: Name | None = None
    model_mib: dict[Name, Amount] = {}


class Arrived(_Event):
    """A contribution that was checked and found good."""

    type: Literal["arrived"] = "arrived"
    assignment: AssignmentKey
    num_examples: Count
    digest: str


class Rejected(_Event):
    """A contribution that cannot be used, or an assignment that the site answered with an error."""

    type: Literal["rejected"] = "rejected"
    assignment: AssignmentKey
    code: Name
    detail: Text = ""


class TimePassed(_Event):
    """The clock reached ``at_s`` and nothing else happened."""

    type: Literal["time_passed"] = "time_passed"


class Evaluated(_Event):
    """The aggregated model of a subtask was measured on federated validation rows.

    ``value`` is the metric that decides, ``constant`` that of the best constant answer; None where no site
    could measure it. ``loss`` is over that of the constant answer (``collab.objective``), ``losses`` the same
    on each site's own rows, ``credits`` what each contribution of the round was worth beside the others
    (``collab.credit``).
    """

    type: Literal["evaluated"] = "evaluated"
    round: Round
    subtask: Name
    value: float | None
    num_examples: Count
    constant: float | None = None
    loss: float | None = None
    losses: dict[Name, float] = {}
    credits: dict[Name, Amount] = {}


class Grouped(_Event):
    """A family that trained together is split: from the next round on each group has its own encoder.

    ``affinity`` is Z (``collab.decomposition.affinity``), row i on column j in the order of ``subtasks``,
    ``standard_errors`` its own (None: too few measurements), ``value`` what the groups are worth by it,
    ``exact`` whether no better ones exist. ``looked`` is what measuring took, in examples of training.
    """

    type: Literal["grouped"] = "grouped"
    round: Round
    family: Name
    subtasks: Annotated[tuple[Name, ...], Field(max_length=64)]
    groups: Annotated[tuple[tuple[Name, ...], ...], Field(max_length=64)]
    affinity: Annotated[tuple[tuple[float, ...], ...], Field(max_length=64)]
    standard_errors: Annotated[tuple[tuple[float | None, ...], ...], Field(max_length=64)]
    value: float
    exact: bool
    looked: Count


class Vote(Frozen):
    """One site's ballot on the others' models: best first, and which of them it approves of."""

    voter: Name
    order: Annotated[tuple[Name, ...], Field(max_length=100_000)]
    approved: Annotated[tuple[Name, ...], Field(max_length=100_000)] = ()


class Polled(_Event):
    """The sites have voted on a subtask; those that could not are missing."""

    type: Literal["polled"] = "polled"
    round: Round
    subtask: Name
    votes: Annotated[tuple[Vote, ...], Field(max_length=100_000)]


class Settled(_Event):
    """A subtask that others come after is over; ``has_model`` says whether it came to a final model."""

    type: Literal["settled"] = "settled"
    round: Round
    subtask: Name
    has_model: bool


class Weighed(Frozen):
    """A pair that was not assigned: its score, and the constraint that bound."""

    site: Name
    subtask: Name
    score: float
    reason: Text


class Decided(Frozen):
    """How a round was allocated: for those who ask why; the assignments follow as ``Send``.

    ``losses`` and ``weights`` are f_k and f_k^(α-1) of each active subtask. ``passed_over`` holds the
    pairs of highest score, at most as many as fit into a log line; ``more`` is how many are left out.
    """

    type: Literal["decided"] = "decided"
    round: Round
    policy: Name
    seed: int = Field(ge=0, lt=2**63)
    alpha: float
    losses: dict[Name, float]
    weights: dict[Name, float]
    passed_over: Annotated[tuple[Weighed, ...], Field(max_length=10_000)]
    more: Count = 0


class Poll(Frozen):
    """Have the sites vote on each other's models before the round is allocated."""

    type: Literal["poll"] = "poll"
    round: Round
    subtasks: tuple[Name, ...]


class Send(Frozen):
    """Ask a site to do a subtask.

    ``payment``, ``inclusion`` and ``budget`` are as in ``collab.allocation.contract.Suggestion``;
    ``patience_s`` is after how long the site is overdue, None where nothing is known of its pace.
    """

    type: Literal["send"] = "send"
    round: Round
    subtask: Name
    site: Name
    attempt: int
    model: Name
    score: float
    reason: Text
    payment: Amount = 0.0
    inclusion: float | None = Field(None, gt=0, le=1)
    budget: float = Field(1.0, gt=0, le=LARGEST_BUDGET)
    patience_s: Seconds | None = None


class Refuse(Frozen):
    """The policy suggested this, and feasibility did not let it pass."""

    type: Literal["refuse"] = "refuse"
    site: Annotated[str, Field(max_length=200)]
    subtask: Annotated[str, Field(max_length=200)]
    reason: Text


class Wait(Frozen):
    """Nothing is due before ``until_s`` unless something arrives."""

    type: Literal["wait"] = "wait"
    until_s: Seconds


class Discard(Frozen):
    """Do not use this contribution."""

    type: Literal["discard"] = "discard"
    assignment: AssignmentKey
    code: Literal["late", "duplicate", "unknown"]


class Aggregate(Frozen):
    """Close a subtask's round: merge these contributions in this order."""

    type: Literal["aggregate"] = "aggregate"
    round: Round
    subtask: Name
    assignments: tuple[AssignmentKey, ...]
    coverage: float


class Evaluate(Frozen):
    """Every cohort of the round has closed: measure these subtasks at all sites that have them."""

    type: Literal["evaluate"] = "evaluate"
    round: Round
    subtasks: tuple[Name, ...]


class Skip(Frozen):
    """Close a subtask's round without any contribution: its model stays as it is."""

    type: Literal["skip"] = "skip"
    round: Round
    subtask: Name
    reason: Text


class Settle(Frozen):
    """These subtasks are over and others come after them: finish their models, which no longer change."""

    type: Literal["settle"] = "settle"
    round: Round
    subtasks: tuple[Name, ...]


class Finish(Frozen):
    """The run is complete."""

    type: Literal["finish"] = "finish"
    reason: Text


class Abort(Frozen):
    """The run cannot go on; ``reason`` says why and what to do."""

    type: Literal["abort"] = "abort"
    reason: Text


Event = Annotated[
    SiteJoined
    | SiteLost
    | Started
    | Arrived
    | Rejected
    | TimePassed
    | Evaluated
    | Polled
    | Settled
    | Grouped,
    Field(discriminator="type"),
]
Instruction = Annotated[
    Decided | Poll | Send | Refuse | Wait | Discard | Aggregate | Evaluate | Skip | Settle | Finish | Abort,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
INSTRUCTION: TypeAdapter[Instruction] = TypeAdapter(Instruction)
