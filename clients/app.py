"""The ClientApp: one handler a message type; the same code in every engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import ballots, joint, measure, prototypes, soft_labels, weights, whole, work
from clients.site import Site, from_context
from clients.state import SiteState
from clients.work import Desk
from protocol.bounds import Frozen
from protocol.errors import ConsiliumError, MessageError
from protocol.fusing import FusionRequest, WholeRequest
from protocol.messages import Assignment, EvaluationRequest, Refusal, SubtaskQuery
from protocol.records import attached, detach, pack, unpack

ROOT = Path(__file__).resolve().parent.parent

app = ClientApp()


A = TypeVar("A", Assignment, EvaluationRequest, FusionRequest, SubtaskQuery)
Handler = Callable[[Message, Context], Message]


def _guarded(handler: Handler) -> Handler:
    """Answer an error that is ours with a Refusal, so that it reaches the server under the site's name."""

    @wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        # One thread a worker: the same sums in the same order on every machine.
        torch.set_num_threads(1)
        try:
            return handler(message, context)
        except ConsiliumError as error:
            return _reply(message, Refusal(code=error.code, detail=str(error)[:500]))

    return guarded


def _site(context: Context) -> Site:
    return from_context(context.node_config, context.run_config, ROOT)


def _asked(message: Message, context: Context, expected: type[A]) -> tuple[Desk, A, work.Reply]:
    """Return the desk for what is asked, with the upstream models that came; the request; its own arrays.

    Raises:
        ProtocolError: it is another message, for another site, or its arrays are not what they should be.
    """
    site = _site(context)
    request, arrays = unpack(detach(message.content), expected)
    if not isinstance(request, SubtaskQuery) and request.site != site.name:
        raise MessageError("the message is for another site")
    desk = Desk(site, SiteState(context.state), request.subtask)
    desk.keep_upstream(attached(message.content))
    return desk, request, arrays


def _reply(message: Message, answer: Frozen, arrays: work.Reply | None = None) -> Message:
    return Message(pack(answer, arrays or None), reply_to=message)


@app.query("capability")
@_guarded
def capability(message: Message, context: Context) -> Message:
    """Answer what the site can do."""
    return _reply(message, work.capability(_site(context)))


@app.query("summary")
@_guarded
def summary(message: Message, context: Context) -> Message:
    """Answer the statistics of the train rows of one subtask."""
    desk, query, _ = _asked(message, context, SubtaskQuery)
    return _reply(message, work.summarise(desk, query))


@app.query("trial")
@_guarded
def trial(message: Message, context: Context) -> Message:
    """Try models on the site's own rows."""
    desk, query, _ = _asked(message, context, SubtaskQuery)
    return _reply(message, work.try_models(desk, query))


@app.train("weights")
@_guarded
def train_weights(message: Message, context: Context) -> Message:
    """Do an assignment whose exchange is weights."""
    desk, assignment, arrays = _asked(message, context, Assignment)
    return _reply(message, *weights.train_weights(desk, assignment, arrays))


@app.train("joint")
@_guarded
def train_joint(message: Message, context: Context) -> Message:
    """Do an assignment of a group that trains together."""
    desk, assignment, arrays = _asked(message, context, Assignment)
    return _reply(message, *joint.train_joint(desk, assignment, arrays))


@app.train("soft_labels")
@_guarded
def train_soft_labels(message: Message, context: Context) -> Message:
    """Do an assignment whose exchange is soft labels."""
    desk, assignment, _ = _asked(message, context, Assignment)
    return _reply(
        message,
        *soft_labels.train_soft_labels(desk, assignment),
    )


@app.train("prototypes")
@_guarded
def train_prototypes(message: Message, context: Context) -> Message:
    """Do an assignment whose exchange is prototypes."""
    desk, assignment, arrays = _asked(message, context, Assignment)
    return _reply(message, *prototypes.train_prototypes(desk, assignment, arrays))


@app.train("finish")
@_guarded
def train_finish(message: Message, context: Context) -> Message:
    """Let the site finish its own model with what is left of its budget."""
    desk, assignment, arrays = _asked(message, context, Assignment)
    return _reply(message, *work.finish_local(desk, assignment, arrays))


@app.train("alone")
@_guarded
def train_alone(message: Message, context: Context) -> Message:
    """Train the baseline that needs nobody else."""
    desk, assignment, _ = _asked(message, context, Assignment)
    return _reply(message, *work.train_alone(desk, assignment))


@app.evaluate("model")
@_guarded
def evaluate_model(message: Message, context: Context) -> Message:
    """Measure the model that came with the request."""
    desk, request, arrays = _asked(message, context, EvaluationRequest)
    return _reply(message, *measure.evaluate(desk, request, arrays))


@app.evaluate("digest")
@_guarded
def evaluate_digest(message: Message, context: Context) -> Message:
    """Distil the combined soft labels into the site's own model, then measure that."""
    desk, request, arrays = _asked(message, context, EvaluationRequest)
    processed = soft_labels.digest(desk, request.model, request.round, arrays)
    return _reply(message, *measure.evaluate_local(desk, request, processed))


@app.evaluate("local")
@_guarded
def evaluate_local(message: Message, context: Context) -> Message:
    """Measure the site's own model."""
    desk, request, _ = _asked(message, context, EvaluationRequest)
    return _reply(message, *measure.evaluate_local(desk, request))


@app.query("local_model")
@_guarded
def local_model(message: Message, context: Context) -> Message:
    """Hand over the site's own model, where its egress rules allow."""
    desk, _, _ = _asked(message, context, SubtaskQuery)
    return _reply(message, *measure.local_model(desk))


@app.evaluate("ballot")
@_guarded
def ballot(message: Message, context: Context) -> Message:
    """Rank the other sites' models."""
    desk, request, arrays = _asked(message, context, FusionRequest)
    return _reply(message, ballots.ballot(desk, request, arrays))


@app.evaluate("fusion")
@_guarded
def fusion(message: Message, context: Context) -> Message:
    """Measure the candidates of a fusion and what the site deploys."""
    desk, request, arrays = _asked(message, context, FusionRequest)
    return _reply(message, *measure.fuse(desk, request, arrays))


@app.evaluate("whole")
@_guarded
def evaluate_whole(message: Message, context: Context) -> Message:
    """Measure what the parts of a whole answer together."""
    request, arrays = unpack(message.content, WholeRequest)
    site = _site(context)
    if request.site != site.name:
        raise MessageError("the message is for another site")
    return _reply(message, *whole.evaluate_whole(site, SiteState(context.state), request, arrays))
