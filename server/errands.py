"""A Grid over sites that are sent short messages, each sealed, whatever the work takes.

To those above, a message is pushed and its answer pulled, as on any Grid. Below, a site is sent
`work.start`, and `work.poll` for as long as it answers with receipts. One message is with a site at a time,
as it takes them one after the other. What gets lost on the way, with a node that was restarted or a reply
that Flower dropped, is asked for again: a site gives the same answer to the same question. Each question
names the version of the site's memory that it starts from: that of the last answer that was taken.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, RecordDict

from protocol.messages import Refusal
from protocol.records import pack, wire_bytes
from protocol.work import CANCEL, HOLD_S, POLL, START, Cancel, Poll
from server.envelopes import Envelopes, task_of
from server.errand import Errand, Link, SiteWork, StoppedError
from server.flwr_adapter import Run
from server.grids import OwnRunGrid
from server.intake import AGAIN_S, Intake, failed
from server.provenance import Provenance, Provenances

# Between two looks for answers: a tenth of the time for which nothing has come, within these bounds.
_FAST_S, _SLOW_S, _SHARE = 0.03, 0.5, 0.1
_NODES_S = 1.0
_ABSENT_S = 90.0  # for so long a site that is restarted or cut off still belongs to the run
_SLACK_S = 25.0  # beyond what a site may hold a message, before it is asked again
_SLOWEST_BYTES_S = 250_000.0  # a line slower than this has its messages sent again in vain


class ErrandGrid(OwnRunGrid):
    """See above.

    Args:
        link: Flower's grid below.
        envelopes: seals and opens the messages.
        clock: seconds since 1970, for people.
        told: is called when the state of a site has changed.
        is_stopped: says whether the run is to stop; then the next call raises ``StoppedError``.
        monotonic: seconds on a clock that is never set.
    """

    def __init__(
        self,
        link: Link,
        envelopes: Envelopes,
        *,
        clock: Callable[[], float] = time.time,
        told: Callable[[str, SiteWork], None] = lambda *_: None,
        is_stopped: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._envelopes = link, envelopes
        self._clock, self._told, self._is_stopped = clock, told, is_stopped
        self._monotonic = monotonic
        self._intake = Intake(envelopes, clock, self._show)
        self._numbers = itertools.count(1)
        self._queues: defaultdict[str, deque[Errand]] = defaultdict(deque)
        self._done: dict[str, Message] = {}
        self._provenances = Provenances()
        self._online: Mapping[str, tuple[int, str]] = {}
        self._names: dict[int, str] = {}
        self._seen: dict[int, float] = {}
        self._nodes_at = self._look_at = 0.0
        self._quiet_since = 0.0
        self._run = Run.create_empty(0)
        self.work: dict[str, SiteWork] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the sites that are online, or were until a short while ago."""
        self._check()
        self._see_nodes()
        since = self._monotonic() - _ABSENT_S
        return [node for node, seen in self._seen.items() if seen >= since]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages for sites; return an id for each."""
        self._check()
        self._see_nodes()
        ids = []
        for message in messages:
            number = f"errand-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = number
            ids.append(number)
            site = self._names.get(message.metadata.dst_node_id)
            if site is None:
                self._done[number] = failed(message, "this node is none of the roster's")
                continue
            kind = message.metadata.message_type
            errand = Errand(number, message, site, kind, task_of(message.content, kind))
            self._withdraw_older(errand)
            self._queues[site].append(errand)
        self._soon()
        self._advance()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that have come to these messages, each once."""
        self._check()
        self._advance()
        return [self._done.pop(i) for i in list(message_ids) if i in self._done]

    def go_on(self, nodes: Mapping[str, int], versions: Mapping[str, bytes]) -> None:
        """Take over: the sites are at these nodes, and their memories at these versions."""
        self._provenances.go_on(versions)
        self._names.update({node: site for site, node in nodes.items()})
        self._seen.update(dict.fromkeys(nodes.values(), self._monotonic()))

    def provenance(self, message_id: str) -> Provenance | None:
        """Return where the answer to a message came from, once; None for one that no site gave."""
        return self._provenances.pop(message_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and wait for their answers, up to ``timeout`` seconds."""
        waiting, found = list(self.push_messages(messages)), list[Message]()
        until = self._monotonic() + (timeout if timeout is not None else float("inf"))
        while waiting and self._monotonic() < until:
            found += [self._done.pop(i) for i in waiting if i in self._done]
            waiting = [i for i in waiting if any(e.number == i for q in self._queues.values() for e in q)]
            time.sleep(_FAST_S)
            self._advance()
        return found

    def farewell(self, within_s: float) -> None:
        """Have every site that is at work stop, and wait a while until those that are online have heard it.

        A site takes a message only once it has answered the one before, which it may hold for 20 s.
        """
        until = self._monotonic() + within_s
        for queue in self._queues.values():
            while len(queue) > 1 or (queue and not queue[0].asked):  # of which the site has not heard
                queue.pop()
            for errand in queue:
                errand.withdrawn, errand.again_at = True, 0.0
        while any(queue and site in self._online for site, queue in self._queues.items()):
            if self._monotonic() > until:
                return
            self._advance()
            time.sleep(_FAST_S)

    def _withdraw_older(self, new: Errand) -> None:
        """Have a site stop what it still does for the subtask of an earlier round: nobody waits for it."""
        if not new.kind.startswith("train."):
            return
        queue = self._queues[new.site]
        for errand in list(queue):
            if errand.kind != new.kind or errand.subtask != new.subtask or errand.round >= new.round:
                continue
            if errand is queue[0] and errand.asked:
                errand.withdrawn, errand.again_at = True, 0.0
            else:
                queue.remove(errand)

    def _check(self) -> None:
        if self._is_stopped():
            raise StoppedError("the run was stopped")

    def _soon(self) -> None:
        self._quiet_since, self._look_at = self._monotonic(), 0.0

    def _advance(self) -> None:
        """Look for answers and send what is due, unless the last look was just now."""
        now = self._monotonic()
        if now < self._look_at:
            return
        self._see_nodes()
        happened = False
        for site in list(self._queues):
            happened |= self._attend(site, now)
        now = self._monotonic()
        self._quiet_since = now if happened else self._quiet_since
        self._look_at = now + min(max(_FAST_S, _SHARE * (now - self._quiet_since)), _SLOW_S)

    def _attend(self, site: str, now: float) -> bool:
        """Take what came from a site and send what is due to it; return whether anything happened."""
        queue = self._queues[site]
        if not queue:
            return False
        errand, happened = queue[0], False
        for message_id in list(errand.sent):
            for reply in self._link.pull(message_id):
                errand.sent.pop(message_id, None)
                happened = True
                answer = self._intake.take(errand, reply, now)
                if answer is not None:
                    queue.popleft()
                    if isinstance(answer, Message):
                        self._done[errand.number] = answer
                        if errand.provenance is not None:
                            self._provenances.note(errand.number, site, errand.provenance)
                    if self.work[site].state != "refused":  # what was refused stays to be seen
                        self._show(site, SiteWork("idle", self._clock()))
                    return True
        if self._is_gone(errand, now):
            queue.popleft()
            self._done[errand.number] = failed(errand.message, "the site is gone")
            return True
        return self._ask(errand, now) or happened

    def _is_gone(self, errand: Errand, now: float) -> bool:
        """Return whether nobody is there to answer. A round waits for its site as long as its terms say."""
        if errand.site in self._online or errand.is_of_a_round:
            return False
        seen = (at for node, at in self._seen.items() if self._names.get(node) == errand.site)
        return now > max(seen, default=now) + _ABSENT_S

    def _ask(self, errand: Errand, now: float) -> bool:
        """Ask a site, for the first time or again, where that is due."""
        if errand.site not in self._online:
            if errand.stamp != "":
                errand.stamp, errand.again_at = "", now
                detail = "its connection is gone; it goes on when it is back"
                self._show(
                    errand.site, SiteWork("lost", self._clock(), errand.kind, errand.task, detail=detail)
                )
            return False
        _, stamp = self._online[errand.site]
        restarted = errand.stamp not in ("", stamp)
        overdue = bool(errand.sent) and now > errand.give_up_at
        if not (restarted or overdue or (errand.again_at is not None and now >= errand.again_at)):
            return False
        if not errand.begun:
            errand.previous = self._provenances.version(errand.site)
        record, kind, flower = self._question(errand)
        errand.again_at, errand.stamp = None, stamp
        message_id = self._send(errand.site, record, kind, flower, errand.task, errand)
        if message_id is None:
            errand.again_at = now + AGAIN_S
            return False
        errand.sent[message_id] = errand.sent_at = now
        errand.give_up_at = now + HOLD_S + _SLACK_S + wire_bytes(record) / _SLOWEST_BYTES_S
        if not errand.begun:
            errand.begun = now
            self._show(errand.site, SiteWork("working", self._clock(), errand.kind, errand.task))
        return True

    def _question(self, errand: Errand) -> tuple[RecordDict, str, str]:
        """Return what to send: the whole question, or a poll once the site has it."""
        if errand.withdrawn:
            return pack(Cancel(asked=errand.asked.hex())), "work.cancel", CANCEL
        if errand.receipted:
            return pack(Poll(asked=errand.asked.hex())), "work.poll", POLL
        return errand.message.content, errand.kind, START

    def _send(
        self, site: str, record: RecordDict, kind: str, flower: str, task: str, errand: Errand | None = None
    ) -> str | None:
        previous = errand.previous if errand is not None else b""
        sealed, asked = self._envelopes.seal(record, site, kind, task, previous)
        if errand is not None and flower == START:
            errand.asked = asked
        node, _ = self._online[site]
        group = errand.message.metadata.group_id if errand is not None else "0"
        return self._link.push(Message(sealed, node, flower, group_id=group))

    def _see_nodes(self) -> None:
        now = self._monotonic()
        if now < self._nodes_at:
            return
        self._online = dict(self._link.online())
        self._names.update({node: site for site, (node, _) in self._online.items()})
        self._seen.update(dict.fromkeys((node for node, _ in self._online.values()), now))
        self._nodes_at = now + _NODES_S
        members = self._link.members()
        for node, site in list(self._names.items()):
            if site not in members:
                self._dismiss(node, site)

    def _dismiss(self, node: int, site: str) -> None:
        """Part with a site that the roster no longer names: nothing that it still says would be believed."""
        self._names.pop(node)
        self._seen.pop(node, None)
        for errand in self._queues.pop(site, ()):
            refusal = Refusal(code="roster", detail=f"{site} is no longer in the roster")
            self._done[errand.number] = Message(pack(refusal), reply_to=errand.message)
        self._show(site, SiteWork("refused", self._clock(), detail="it is no longer in the roster"))

    def _show(self, site: str, work: SiteWork) -> None:
        self.work[site] = work
        self._told(site, work)
