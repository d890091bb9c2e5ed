"""Who came and who went since the last round: sites join and leave a running collaboration.

A site that comes is asked what a site is asked before the first round. Its rows are preprocessed as
everybody's are by then: the statistics were merged before it came. It holds the largest of the
architectures in use that its memory admits. In a simulation the profiles say when sites join and
leave; else a node that appears is asked, and a site whose node is gone has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from collab.collaboration import Collaboration
from protocol.errors import ConsiliumError
from protocol.messages import Capability, SubtaskQuery
from protocol.records import pack
from server.courier import Courier, Letter
from server.data_summaries import open_summaries
from server.discovery import Greeting, opened
from server.learner import Learner
from server.preparation import Prepared, ask
from server.pulling import pull
from server.record import Record


class RollCall(Protocol):
    """Says before each round which sites came, and which went and why."""

    def __call__(self, round_: int) -> tuple[list[Capability], dict[str, str]]:
        """Return the capabilities of the sites that came, and a reason for each that went."""
        ...


def nobody(round_: int) -> tuple[list[Capability], dict[str, str]]:  # noqa: ARG001
    """Return that nobody came or went."""
    return [], {}


@dataclass
class ByProfile:
    """A simulation: the sites' profiles say in which round they join and after which they have left."""

    collaboration: Collaboration
    waiting: Mapping[str, Capability]

    def __call__(self, round_: int) -> tuple[list[Capability], dict[str, str]]:
        """Return who joins in this round, and who left before it."""
        sites = self.collaboration.sites
        came = [self.waiting[s] for s in sorted(self.waiting) if sites[s].from_round == round_]
        went = (s for s, p in sites.items() if p.until_round is not None and p.until_round + 1 == round_)
        return came, dict.fromkeys(sorted(went), "it left, as its profile says")


@dataclass
class ByNodes:
    """A deployment: whoever connects is asked; whose node has gone has left."""

    grid: Grid
    courier: Courier
    collaboration: Collaboration
    nodes: dict[str, int]
    notes: list[str]
    max_examples: Mapping[str, int] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    pending: dict[str, int] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.asked |= set(self.nodes.values())

    def __call__(self, round_: int) -> tuple[list[Capability], dict[str, str]]:
        """Ask new nodes; take in those that have answered since they were asked."""
        said = self.record.replayed("roll", str(round_))
        if said is None:
            said = self.record.note("roll", str(round_), self._look())
        self.notes.extend(said["notes"])
        for site in said["went"]:
            self.asked.discard(self.nodes.pop(site))
            self.courier.dismiss(site)
        for site, node in said["nodes"].items():
            self.nodes[site] = node
            self.asked.add(node)
            self.courier.admit(site, node)
        return [Capability.model_validate(one) for one in said["came"]], dict(said["went"])

    def _look(self) -> dict[str, Any]:
        """Return who came, at which nodes, and who went; nobody has been told yet."""
        present = set(self.grid.get_node_ids())
        went = {s: "its node is gone" for s, node in sorted(self.nodes.items()) if node not in present}
        stay = {site: node for site, node in self.nodes.items() if site not in went}
        fresh = sorted(present - self.asked)
        messages = [Message(pack(Greeting()), node, "query.capability") for node in fresh]
        self.pending.update(zip(self.grid.push_messages(messages) if messages else [], fresh, strict=True))
        self.asked.update(fresh)
        came, nodes, notes = list[Any](), dict[str, int](), list[str]()
        for message_id in list(self.pending):
            for reply in pull(self.grid, message_id)[:1]:  # a node may answer twice
                node = self.pending.pop(message_id)
                try:
                    capability = opened(reply, self.collaboration, {**stay, **nodes}, self.max_examples)
                except ConsiliumError as error:
                    notes.append(f"a node did not join: {error.code}: {error}")
                    continue
                nodes[capability.site] = node
                came.append(capability.model_dump(mode="json"))
        return {"came": came, "nodes": nodes, "went": went, "notes": notes}


def admit(courier: Courier, learner: Learner, capability: Capability, notes: list[str]) -> bool:
    """Take a site into a subtask; return whether it can take part. ``notes`` says what kept it out."""
    prepared, name = learner.prepared, learner.prepared.subtask.name
    if name not in capability.subtasks:
        return False
    query = pack(SubtaskQuery(subtask=prepared.subtask))
    arrivals = ask(courier, [Letter(capability.site, "query.summary", query, name, None)], notes)
    summaries, _ = open_summaries(arrivals, prepared.subtask, notes, prepared.max_examples)
    model = _largest(prepared, capability.memory_mib)
    if not summaries:
        return False
    if model is None:
        notes.append(
            f"{capability.site}: no model in use of {name} fits into {capability.memory_mib:.0f} MiB"
        )
        return False
    learner.prepared = replace(
        prepared,
        summaries={**prepared.summaries, **summaries},
        models={**prepared.models, capability.site: model},
    )
    return True


def dismiss(learner: Learner, site: str) -> None:
    """Leave a site out of a subtask from now on; what it gave so far stays."""
    models = {s: m for s, m in learner.prepared.models.items() if s != site}
    learner.prepared = replace(learner.prepared, models=models)


def _largest(prepared: Prepared, memory_mib: float) -> str | None:
    used = sorted(set(prepared.models.values()), key=lambda m: prepared.model_mib[m])
    return next((m for m in reversed(used) if prepared.model_mib[m] <= memory_mib), None)
