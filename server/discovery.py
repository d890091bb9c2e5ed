"""The first message to every node: which site is there, and what can it do?"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from collab.collaboration import Collaboration
from protocol.bounds import Frozen
from protocol.errors import ConsiliumError, MessageError, RunError
from protocol.fusing import FINAL
from protocol.messages import Capability
from protocol.records import pack
from server.courier import open_reply
from server.gate import NO_CAPS, check_rows
from server.pulling import Reply, pull
from server.record import Record

_POLL_S = 0.2
_GRACE_S = 10.0


class Greeting(Frozen):
    """What the server sends to a node that it does not know yet."""


def discover(
    grid: Grid, collaboration: Collaboration, notes: list[str], max_examples: Mapping[str, int] = NO_CAPS
) -> tuple[dict[str, int], dict[str, Capability]]:
    """Ask every node what it can do, until enough sites have joined; return nodes and capabilities by site.

    Real sites that were asked are given a moment more, so that who answers first does not decide who is in.
    ``max_examples`` is the most rows of a subtask that a site may say it has, where the roster gives it.

    Raises:
        RunError: too few sites joined in time.
    """
    wanted = collaboration.coordination.sites or _sites_needed(collaboration)
    until = time.monotonic() + collaboration.coordination.join_s
    enough_at: float | None = None
    meeting = _Meeting(grid, collaboration, notes, max_examples)
    while True:
        meeting.look()
        now = time.monotonic()
        if len(meeting.capabilities) >= wanted:
            enough_at = enough_at or now
            if collaboration.is_scenario or not meeting.pending or now > enough_at + _GRACE_S:
                break
        elif now > until or (collaboration.is_scenario and meeting.is_over(wanted)):
            why = f": {'; '.join(notes)}" if notes else ""
            raise RunError(f"{len(meeting.capabilities)} of {wanted} sites joined{why}")
        time.sleep(_POLL_S)
    return meeting.nodes, dict(sorted(meeting.capabilities.items()))


def discovered(
    record: Record,
    grid: Grid,
    collaboration: Collaboration,
    notes: list[str],
    max_examples: Mapping[str, int] = NO_CAPS,
) -> tuple[dict[str, int], dict[str, Capability]]:
    """Return what ``discover`` finds, or found before the run was killed; raises as that."""
    said = record.replayed("discovered")
    if said is None:
        heard = list[str]()
        nodes, capabilities = discover(grid, collaboration, heard, max_examples)
        dumped = {site: one.model_dump(mode="json") for site, one in capabilities.items()}
        said = record.note("discovered", "", {"nodes": nodes, "capabilities": dumped, "notes": heard})
    notes.extend(said["notes"])
    found = {site: Capability.model_validate(one) for site, one in sorted(said["capabilities"].items())}
    return dict(said["nodes"]), found


@dataclass
class _Meeting:
    """Who was asked, and who has answered."""

    grid: Grid
    collaboration: Collaboration
    notes: list[str]
    max_examples: Mapping[str, int]
    asked: set[int] = field(default_factory=set)
    pending: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    capabilities: dict[str, Capability] = field(default_factory=dict)

    def look(self) -> None:
        """Ask the nodes that are new, and take the answers that have come."""
        fresh = [n for n in sorted(self.grid.get_node_ids()) if n not in self.asked]
        self.asked.update(fresh)
        messages = [Message(pack(Greeting()), node, "query.capability") for node in fresh]
        sent = self.grid.push_messages(messages) if messages else []
        self.pending.update(zip(sent, fresh, strict=True))
        for message_id in list(self.pending):
            for reply in pull(self.grid, message_id)[:1]:  # a node may answer twice
                self._take(reply, self.pending.pop(message_id))

    def is_over(self, wanted: int) -> bool:
        """Return whether all nodes of a simulation have answered."""
        return len(self.asked) >= wanted and not self.pending

    def _take(self, reply: Reply, node: int) -> None:
        try:
            capability = opened(reply, self.collaboration, self.capabilities, self.max_examples)
        except ConsiliumError as error:
            self.notes.append(f"a node did not join: {error.code}: {error}")
            return
        self.nodes[capability.site], self.capabilities[capability.site] = node, capability


def _sites_needed(collaboration: Collaboration) -> int:
    return len(collaboration.sites) or max(t.min_sites for t in collaboration.subtasks.values())


def opened(
    reply: Reply,
    collaboration: Collaboration,
    taken: Container[str],
    max_examples: Mapping[str, int] = NO_CAPS,
) -> Capability:
    """Return what a node says that it can do, of the subtasks that there are.

    Raises:
        ProtocolError: it cannot be read, has no place in this collaboration, its name is taken, or it
            says that it has more rows than the roster gives it.
    """
    capability, _ = open_reply(reply, Capability)
    site = capability.site
    if collaboration.is_scenario and site not in collaboration.sites:
        raise MessageError(f"'{site}' is none of the collaboration's sites")
    if min(capability.examples_per_s, capability.bandwidth_mbit) <= 0:
        raise MessageError(f"'{site}' says that it has no speed or no bandwidth")
    if site == FINAL:
        raise MessageError(f"a site cannot be called '{FINAL}'")
    if site in taken:
        raise MessageError(f"{site}: a second node of that name was turned away")
    for rows in capability.subtasks.values():
        check_rows(site, rows, max_examples)
    offered = _with_parts(capability.subtasks, collaboration)
    known = {name: n for name, n in offered.items() if name in collaboration.subtasks}
    return capability.model_copy(update={"subtasks": known})


def _with_parts(offered: Mapping[str, int], collaboration: Collaboration) -> dict[str, int]:
    """Return what a site offers, data of a whole being data of all its parts."""
    wholes = [name for name in offered if name in collaboration.wholes]
    return dict(offered) | {
        part: offered[whole] for whole in wholes for part in collaboration.parts_of(whole).values()
    }


def joins_later(collaboration: Collaboration, site: str) -> bool:
    """Return whether a simulated site is not there in the first round."""
    profile = collaboration.sites.get(site)
    return profile is not None and profile.from_round > 1
