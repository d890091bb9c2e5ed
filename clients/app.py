"""The ClientApp: one handler a message type; the same code in every engine.

``app`` is the one that Flower finds by its name; ``make_app`` makes one that keeps what it has loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import ballots, joint, measure, prototypes, soft_labels, weights, whole, work
from clients.desk import Desk
from clients.site import Site, from_context
from clients.state import SiteState
from clients.warm import Warm
from collab.progress import Tick, nothing
from protocol.bounds import Frozen
from protocol.errors import Cancelled, ConsiliumError, MessageError
from protocol.fusing import FusionRequest, WholeRequest
from protocol.messages import Assignment, EvaluationRequest, Refusal, SubtaskQuery
from protocol.records import attached, detach, pack, unpack

ROOT = Path(__file__).resolve().parent.parent

app = ClientApp()


A = TypeVar("A", Assignment, EvaluationRequest, FusionRequest, SubtaskQuery)
Handler = Callable[[Message, Context], Message]
# Which site a message is for: made for this one message, or kept (``Warm.site``).
Sites = Callable[[Mapping[str, object], Mapping[str, object], Path], Site]
Answer = tuple[Frozen, work.Reply]


@dataclass(frozen=True)
class _Bench:
    """Where a ClientApp gets its sites from, and whom it tells how far it is."""

    sites: Sites
    tick: Tick

    def site(self, context: Context) -> Site:
        """Return the site of this node."""
        return self.sites(context.node_config, context.run_config, ROOT)

    def asked(self, message: Message, context: Context, expected: type[A]) -> tuple[Desk, A, work.Reply]:
        """Return the desk for what is asked, with the upstream models that came; the request; its own arrays.

        Raises:
            ProtocolError: it is another message, for another site, or its arrays are not what they should be.
        """
        site = self.site(context)
        request, arrays = unpack(detach(message.content), expected)
        if not isinstance(request, SubtaskQuery) and request.site != site.name:
            raise MessageError("the message is for another site")
        desk = Desk(site, SiteState(context.state), request.subtask, self.tick)
        desk.keep_upstream(attached(message.content))
        return desk, request, arrays


def make_app(warm: Warm, tick: Tick = nothing) -> ClientApp:
    """Return the ClientApp of a resident process.

    Args:
        warm: what is kept from message to message.
        tick: is told between batches what share of a message's work is done; it may raise ``Cancelled``,
            and the answer is then a Refusal with that code, the site's memory as it was before.
    """
    made = ClientApp()
    _register(made, _Bench(warm.site, tick))
    return made


def _register(app: ClientApp, bench: _Bench) -> None:
    """Give ``app`` a handler for each message type."""

    def on(expected: type[A], do: Callable[[Desk, A, work.Reply], Answer]) -> Handler:
        @_guarded
        def handler(message: Message, context: Context) -> Message:
            return _reply(message, *do(*bench.asked(message, context, expected)))

        return handler

    app.query("capability")(_guarded(lambda m, c: _reply(m, work.capability(bench.site(c)))))
    app.query("summary")(on(SubtaskQuery, lambda desk, query, _: (work.summarise(desk, query), {})))
    app.query("trial")(on(SubtaskQuery, lambda desk, query, _: (work.try_models(desk, query), {})))
    app.query("local_model")(on(SubtaskQuery, lambda desk, *_: measure.local_model(desk)))
    app.train("weights")(on(Assignment, weights.train_weights))
    app.train("joint")(on(Assignment, joint.train_joint))
    app.train("soft_labels")(on(Assignment, lambda desk, a, _: soft_labels.train_soft_labels(desk, a)))
    app.train("prototypes")(on(Assignment, prototypes.train_prototypes))
    app.train("finish")(on(Assignment, work.finish_local))
    app.train("alone")(on(Assignment, lambda desk, assignment, _: work.train_alone(desk, assignment)))
    app.evaluate("model")(on(EvaluationRequest, measure.evaluate))
    app.evaluate("digest")(on(EvaluationRequest, _digest))
    app.evaluate("local")(on(EvaluationRequest, lambda desk, r, _: measure.evaluate_local(desk, r)))
    app.evaluate("ballot")(on(FusionRequest, lambda *asked: (ballots.ballot(*asked), {})))
    app.evaluate("fusion")(on(FusionRequest, measure.fuse))

    @app.evaluate("whole")
    @_guarded
    def evaluate_whole(message: Message, context: Context) -> Message:
        """Measure what the parts of a whole answer together."""
        request, arrays = unpack(message.content, WholeRequest)
        site = bench.site(context)
        if request.site != site.name:
            raise MessageError("the message is for another site")
        return _reply(message, *whole.evaluate_whole(site, SiteState(context.state), request, arrays))


def _digest(desk: Desk, request: EvaluationRequest, arrays: work.Reply) -> Answer:
    """Distil the combined soft labels into the site's own model, then measure that."""
    processed = soft_labels.digest(desk, request.model, request.round, arrays)
    return measure.evaluate_local(desk, request, processed)


def _guarded(handler: Handler) -> Handler:
    """Answer an error that is ours with a Refusal, so that it reaches the server under the site's name."""

    @wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        # One thread a worker: the same sums in the same order on every machine.
        torch.set_num_threads(1)
        before = dict(context.state)
        try:
            return handler(message, context)
        except Cancelled as error:
            # Work that nobody waits for leaves nothing behind. Records are replaced, never changed.
            context.state.clear()
            context.state.update(before)
            return _refuse(message, error)
        except ConsiliumError as error:
            return _refuse(message, error)

    return guarded


def _refuse(message: Message, error: ConsiliumError) -> Message:
    return _reply(message, Refusal(code=error.code, detail=str(error)[:500]))


def _reply(message: Message, answer: Frozen, arrays: work.Reply | None = None) -> Message:
    return Message(pack(answer, arrays or None), reply_to=message)


# A process that is gone after one message has nothing to keep.
_register(app, _Bench(from_context, nothing))
