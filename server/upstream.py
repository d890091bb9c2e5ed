"""Subtasks that come after others, at the server: final models are settled once and travel once to a site.

``Chains`` settles what is over; ``ChainedCourier`` lies between everybody and the courier, and sends the
settled models along with a letter about a subtask that comes after them, until the site has answered one
that its memory keeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from collab.collaboration import Collaboration, metric_of
from collab.decomposition.dag import ancestors, edges, levels
from collab.metrics import is_better
from protocol.arrays import Arrays, digest
from protocol.errors import ProtocolError
from protocol.messages import Refusal
from protocol.parts import SettledModel
from protocol.records import HEAD, attach, unpack_message
from protocol.work import moves
from server import measured
from server.courier import Account, Arrival, Courier, Letter
from server.finale import Outcome
from server.gate import guarded
from server.learner import Learner

# What a site finds fault with only after it has kept what came: its own data or settings.
_AFTER_KEEPING = frozenset({"data", "config", "user"})
# Settles a subtask that is over after a round; says whether it has a final model.
Settler = Callable[[str, int, tuple[float, float] | None, list[str]], bool]


def nothing(name: str, round_: int, target: tuple[float, float] | None, notes: list[str]) -> bool:  # noqa: ARG001
    """Settle nothing: no subtask comes after another."""
    return False


@dataclass
class ChainedCourier:
    """A courier that sends settled upstream models along; whoever uses it need not know.

    A site that has answered a letter with them has them, unless it was a query, of which a real site's memory
    keeps nothing. One that refuses or fails may not, so it gets them with its next letter. Two letters on
    their way to one site at once both carry them.
    """

    below: Courier
    models: dict[str, dict[str, Arrays]] = field(default_factory=dict, repr=False)
    """By subtask that comes after others: the arrays of each settled model above it."""
    held: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By site: the upstream subtasks whose models it has."""
    _sent: dict[int, tuple[Letter, Letter]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.accounts: defaultdict[str, Account] = self.below.accounts

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return self.below.now_s

    def send(self, letters: Sequence[Letter]) -> None:
        """Send letters, each with the models that its site still lacks."""
        self.below.send([self._with_models(letter) for letter in letters])

    def next(self, until_s: float) -> Arrival | None:
        """Return the next answer, as one to the letter that was given; note what its site has by now."""
        arrival = self.below.next(until_s)
        if arrival is None:
            return None
        given, _ = self._sent.pop(id(arrival.letter), (arrival.letter, None))
        above = self.models.get(given.subtask)
        if above is not None:
            if _lacks(arrival.content):
                self.held[given.site].difference_update(above)
            elif moves(given.message_type):
                self.held[given.site].update(above)
        return replace(arrival, letter=given)

    def spend(self, seconds: float) -> None:
        """Let the server's own work take its time."""
        self.below.spend(seconds)

    def admit(self, site: str, node: int) -> None:
        """Reach a site that came at this node; it may have been here before, with another memory."""
        self.held.pop(site, None)
        self.below.admit(site, node)

    def dismiss(self, site: str) -> None:
        """Send a site that left nothing more."""
        self.below.dismiss(site)

    def _with_models(self, letter: Letter) -> Letter:
        above = self.models.get(letter.subtask, {})
        lacking = {name: arrays for name, arrays in above.items() if name not in self.held[letter.site]}
        if not lacking:
            return letter
        named = {f"{name}/{key}": a for name, arrays in lacking.items() for key, a in arrays.items()}
        carrying = replace(letter, content=attach(letter.content, named))
        self._sent[id(carrying)] = (letter, carrying)  # the letter is kept, so its id stays its own
        return carrying


@dataclass
class Chains:
    """Settles subtasks that others come after, and tells the learners of those."""

    learners: Mapping[str, Learner]
    courier: ChainedCourier
    settled: dict[str, SettledModel] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    arrays: dict[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict, repr=False)

    def settle(self, name: str, round_: int, target: tuple[float, float] | None, notes: list[str]) -> bool:
        """Finish the model of a subtask that is over; return whether there is one.

        ``target`` is mean and standard deviation of a regression's target on federated validation rows;
        without it its predictions are taken as they are.
        """
        learner = self.learners[name]
        learner.finish(self.courier, round_, notes)
        self.finished.add(name)
        final = learner.final()
        if final is None:
            notes.append(f"{name}: no final model, so what comes after it never starts")
            return False
        mean, scale = target or (0.0, 1.0)
        model, arrays = final
        settled = SettledModel(
            model=model,
            digest=digest(arrays),
            preprocessing=str(learner.prepared.subtask.preprocessing),
            temperature=learner.temperature,
            mean=mean,
            scale=scale,
        )
        self.settled[name] = settled
        self.arrays[name] = arrays
        for other in self.learners.values():
            self._tell(other, name, settled)
        return True

    def _tell(self, learner: Learner, name: str, settled: SettledModel) -> None:
        subtask = learner.prepared.subtask
        if all(one.name != name for one in subtask.upstream):
            return
        update = {"settled": settled}
        told = (one.model_copy(update=update) if one.name == name else one for one in subtask.upstream)
        subtask = subtask.model_copy(update={"upstream": tuple(told)})
        learner.prepared = replace(learner.prepared, subtask=subtask)
        if subtask.is_ready:
            self.courier.models[subtask.name] = {one.name: self.arrays[one.name] for one in subtask.upstream}


def as_json(
    collaboration: Collaboration, outcomes: Mapping[str, Outcome], per_node: Mapping[str, float | None]
) -> dict[str, Any]:
    """Return the entry ``chains`` of a summary: each subtask that comes after others, level by level.

    ``end_to_end`` is its final model's metric on test rows, on what upstream models predict of them, ``own``
    the same of what the sites deploy; ``ablated`` that of the final model where upstream says its mean of
    every row; ``upstream`` each one's own metric.
    """
    after = edges(collaboration.subtasks)
    found = {}
    for number, names in enumerate(levels(after), start=1):
        for name in names if number > 1 else ():
            metric = metric_of(collaboration.subtasks[name])
            found[name] = {
                "level": number,
                "after": list(after[name]),
                "metric": metric,
                "end_to_end": per_node.get(name),
                "own": measured.mean(outcomes[name], "own", metric),
                "ablated": outcomes[name].merged("ablated").get(metric),
                "upstream": {
                    above: {"metric": metric_of(collaboration.subtasks[above]), "global": per_node.get(above)}
                    for above in ancestors(name, after)
                },
            }
    return found


def worse_than_ablated(chains: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a note for each entry of ``as_json`` that does better where upstream says nothing of a row."""
    return [
        f"{name}: what {', '.join(chain['after'])} predicts makes it worse: its {chain['metric']} is "
        f"{chain['end_to_end']:.4g}, and {chain['ablated']:.4g} with their mean in place of it"
        for name, chain in chains.items()
        if chain["end_to_end"] is not None
        and chain["ablated"] is not None
        and is_better(chain["metric"], chain["ablated"], chain["end_to_end"])
    ]


def _lacks(content: RecordDict | None) -> bool:
    """Return whether a site that answers this may be without the models that it was sent."""
    if content is None:
        return True
    head = content.get(HEAD)
    if not isinstance(head, ConfigRecord) or head.get("type") != Refusal.__name__:
        return False
    try:
        with guarded():
            refusal = unpack_message(content, Refusal)
    except ProtocolError:
        return True
    return refusal.code not in _AFTER_KEEPING
