"""The first message to every node: which site is there, and what can it do?"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping

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

_POLL_S = 0.2


class Greeting(Frozen):
    """What the server sends to a node that it does not know yet."""


def discover(
    grid: Grid, collaboration: Collaboration, notes: list[str], max_examples: Mapping[str, int] = NO_CAPS
) -> tuple[dict[str, int], dict[str, Capability]]:
    """Ask every node what it can do, until enough sites have joined; return nodes and capabilities by site.

    ``max_examples`` is the most rows of a subtask that a site may say it has, where the roster gives it.

    Raises:
        RunError: too few sites joined in time.
    """
    wanted = collaboration.coordination.sites or _sites_needed(collaboration)
    until = time.monotonic() + collaboration.coordination.join_s
    asked: set[int] = set()
    pending: dict[str, int] = {}
    nodes: dict[str, int] = {}
    capabilities: dict[str, Capability] = {}
    while len(capabilities) < wanted:
        fresh = [n for n in sorted(grid.get_node_ids()) if n not in asked]
        asked.update(fresh)
        messages = [Message(pack(Greeting()), node, "query.capability") for node in fresh]
        pending.update(zip(grid.push_messages(messages) if messages else [], fresh, strict=True))
        for message_id in list(pending):
            for reply in pull(grid, message_id)[:1]:  # a node may answer twice
                node = pending.pop(message_id)
                try:
                    capability = opened(reply, collaboration, capabilities, max_examples)
                except ConsiliumError as error:
                    notes.append(f"a node did not join: {error.code}: {error}")
                    continue
                nodes[capability.site], capabilities[capability.site] = node, capability
        everybody = collaboration.is_scenario and len(asked) >= wanted and not pending
        if everybody or time.monotonic() > until:
            break
        if len(capabilities) < wanted:
            time.sleep(_POLL_S)
    if len(capabilities) < wanted:
        why = f": {'; '.join(notes)}" if notes else ""
        raise RunError(f"{len(capabilities)} of {wanted} sites joined{why}")
    return nodes, dict(sorted(capabilities.items()))


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
