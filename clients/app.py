"""The ClientApp: one handler a message type; the same code in every engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import ballots, joint, measure, prototypes, soft_labels, weights, whole, work
from clients.site import Site, from_context
from clients.state import SiteState
from clients.work import Desk
from protocol.errors import ConsiliumError, MessageError
from protocol.messages import (
    Assignment,
    EvaluationRequest,
    Frozen,
    FusionRequest,
    Refusal,
    Subtask,
    SubtaskQuery,
    WholeRequest,
)
from protocol.records import pack, unpack

ROOT = Path(__file__).resolve().parent.parent

app = ClientApp()


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


def _desk(context: Context, subtask: Subtask, addressee: str | None = None) -> Desk:
    """Return the desk for ``subtask``; refuse a message that names another site."""
    site = _site(context)
    if addressee not in {None, site.name}:
        raise MessageError("the message is for another site")
    return Desk(site, SiteState(context.state), subtask)


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
    query, _ = unpack(message.content, SubtaskQuery)
    return _reply(message, work.summarise(_desk(context, query.subtask), query))


@app.query("trial")
@_guarded
def trial(message: Message, context: Context) -> Message:
    """Try models on the site's own rows."""
    query, _ = unpack(message.content, SubtaskQuery)
    return _reply(message, work.try_models(_desk(context, query.subtask), query))


@app.train("weights")
@_guarded
def train_weights(message: Message, context: Context) -> Message:
    """Do an assignment whose exchange is weights."""
    assignment, arrays = unpack(message.content, Assignment)
    desk = _desk(context, assignment.subtask, assignment.site)
    return _reply(message, *weights.train_weights(desk, assignment, arrays))


@app.train("joint")
@_guarded
def train_joint(message: Message, context: Context) -> Message:
    """Do an assignment of a group that trains together."""
    assignment, arrays = unpack(message.content, Assignment)
    desk = _desk(context, assignment.subtask, assignment.site)
    return _reply(message, *joint.train_joint(desk, assignment, arrays))


@app.train("soft_labels")
@_guarded
def train_soft_labels(message: Message, context: Context) -> Message:
    """Do an assignment whose exchange is soft labels."""
    assignment, _ = unpack(message.content, Assignment)
    return _reply(
        message,
        *soft_labels.train_soft_labels(_desk(context, assignment.subtask, assignment.site), assignment),
    )


@app.train("prototypes")
@_guarded
def train_prototypes(message: Message, context: Context) -> Message:
    """Do an assignment whose exchange is prototypes."""
    assignment, arrays = unpack(message.content, Assignment)
    desk = _desk(context, assignment.subtask, assignment.site)
    return _reply(message, *prototypes.train_prototypes(desk, assignment, arrays))


@app.train("finish")
@_guarded
def train_finish(message: Message, context: Context) -> Message:
    """Let the site finish its own model with what is left of its budget."""
    assignment, arrays = unpack(message.content, Assignment)
    return _reply(
        message, *work.finish_local(_desk(context, assignment.subtask, assignment.site), assignment, arrays)
    )


@app.train("alone")
@_guarded
def train_alone(message: Message, context: Context) -> Message:
    """Train the baseline that needs nobody else."""
    assignment, _ = unpack(message.content, Assignment)
    return _reply(message, *work.train_alone(_desk(context, assignment.subtask, assignment.site), assignment))


@app.evaluate("model")
@_guarded
def evaluate_model(message: Message, context: Context) -> Message:
    """Measure the model that came with the request."""
    request, arrays = unpack(message.content, EvaluationRequest)
    return _reply(message, *measure.evaluate(_desk(context, request.subtask, request.site), request, arrays))


@app.evaluate("digest")
@_guarded
def evaluate_digest(message: Message, context: Context) -> Message:
    """Distil the combined soft labels into the site's own model, then measure that."""
    request, arrays = unpack(message.content, EvaluationRequest)
    desk = _desk(context, request.subtask, request.site)
    processed = soft_labels.digest(desk, request.model, request.round, arrays)
    return _reply(message, *measure.evaluate_local(desk, request, processed))


@app.evaluate("local")
@_guarded
def evaluate_local(message: Message, context: Context) -> Message:
    """Measure the site's own model."""
    request, _ = unpack(message.content, EvaluationRequest)
    return _reply(message, *measure.evaluate_local(_desk(context, request.subtask, request.site), request))


@app.query("local_model")
@_guarded
def local_model(message: Message, context: Context) -> Message:
    """Hand over the site's own model, where its egress rules allow."""
    query, _ = unpack(message.content, SubtaskQuery)
    return _reply(message, *measure.local_model(_desk(context, query.subtask)))


@app.evaluate("ballot")
@_guarded
def ballot(message: Message, context: Context) -> Message:
    """Rank the other sites' models."""
    request, arrays = unpack(message.content, FusionRequest)
    return _reply(message, ballots.ballot(_desk(context, request.subtask, request.site), request, arrays))


@app.evaluate("fusion")
@_guarded
def fusion(message: Message, context: Context) -> Message:
    """Measure the candidates of a fusion and what the site deploys."""
    request, arrays = unpack(message.content, FusionRequest)
    return _reply(message, *measure.fuse(_desk(context, request.subtask, request.site), request, arrays))


@app.evaluate("whole")
@_guarded
def evaluate_whole(message: Message, context: Context) -> Message:
    """Measure what the parts of a whole answer together."""
    request, arrays = unpack(message.content, WholeRequest)
    site = _site(context)
    if request.site != site.name:
        raise MessageError("the message is for another site")
    return _reply(message, *whole.evaluate_whole(site, SiteState(context.state), request, arrays))
