"""What a site measures on its own rows: one model, the candidates of a fusion, its deployed pool.

Only mergeable statistics leave; they are sums over rows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clients.work import Desk, Reply, raw_outputs, train_counts
from collab import metrics
from collab.calibration import apply_temperature, temperature_from, temperature_statistics
from collab.data.examples import Examples
from collab.decomposition import chain
from collab.fusion.pool import PoolState, apply_pool, fit_pool, pool_to_arrays
from collab.models.contract import inference_mib
from collab.paired import compare
from collab.plugins import load
from collab.sparse import compress
from collab.training import Rows
from protocol.arrays import Arrays
from protocol.errors import MessageError
from protocol.fusing import FINAL, Candidate, FusionRequest
from protocol.messages import Evaluation, EvaluationRequest, LocalModel

Floats = NDArray[np.float64]


def evaluate(desk: Desk, request: EvaluationRequest, arrays: Arrays) -> tuple[Evaluation, Reply]:
    """Measure a model that the server sent, beside the predictor that knows the class counts alone.

    A site whose memory does not hold the model abstains: it answers with no examples. Layers that the
    site keeps for itself take the places of the server's.
    """
    module = desk.model(request.model, desk.with_own_layers(request.model, arrays))
    if inference_mib(module) > desk.site.capability.memory_mib:
        return _evaluation(desk, request, 0), {}
    examples = _split(desk, request.rows)
    if not len(examples):
        return _evaluation(desk, request, 0), {}
    outputs_NK = raw_outputs(desk, module, desk.rows(examples))
    reply = _statistics(desk, outputs_NK, examples)
    if request.class_counts:
        constant_1C = _prior(np.asarray(request.class_counts))
        reply |= _prefixed("constant", compare(outputs_NK, constant_1C, examples.y))
        reply |= _prefixed("temperature", temperature_statistics(outputs_NK, examples.y.astype(np.int64)))
    return _evaluation(desk, request, len(examples)), reply


def evaluate_local(desk: Desk, request: EvaluationRequest, processed: int = 0) -> tuple[Evaluation, Reply]:
    """Measure the site's own model on its validation rows."""
    examples = _split(desk, request.rows)
    if not len(examples):
        return _evaluation(desk, request, 0, processed), {}
    outputs_NK = raw_outputs(desk, desk.current(request.model), desk.rows(examples))
    return _evaluation(desk, request, len(examples), processed), _statistics(desk, outputs_NK, examples)


def local_model(desk: Desk) -> tuple[LocalModel, Reply]:
    """Return the site's own last model and its calibration, if its egress rules let models out."""
    kept = desk.state.get(desk.subtask.name)
    name, subtask = desk.site.name, desk.subtask.name
    personal = desk.subtask.personal
    keeps = personal is not None and personal.keeps_layers
    if kept is None or keeps or not desk.site.egress.models:
        return LocalModel(site=name, subtask=subtask, model=None), {}
    answer = LocalModel(site=name, subtask=subtask, model=kept.model, temperature=_own_temperature(desk))
    return answer, dict(kept.arrays)


def fuse(desk: Desk, request: FusionRequest, arrays: Arrays) -> tuple[Evaluation, Reply]:
    """On validation rows: the fusion rule's sums. On test rows: what every final model is worth."""
    examples = _split(desk, request.rows)
    answer = Evaluation(
        run=request.run,
        round=0,
        subtask=desk.subtask.name,
        site=desk.site.name,
        num_examples=len(examples),
        examples_processed=forward_cost(len(examples) * len(request.candidates))
        + desk.upstream_cost(len(examples)),
    )
    if not len(examples):
        return answer, {}
    if not request.candidates:
        return answer, _deployed(desk, request, arrays, examples, None)
    rule = load("fusion", request.rule)
    state = {k.removeprefix("fusion/"): v for k, v in arrays.items() if k.startswith("fusion/")}
    if request.rows == "validation":
        outputs_MNK = _on_validation(desk, request, arrays, examples)
        return answer, dict(rule.statistics(outputs_MNK, targets(desk, examples), state))
    outputs_MNK = candidate_outputs(desk, request.candidates, arrays, desk.rows(examples))
    calibrated_MNK = _calibrated(desk, request.candidates, outputs_MNK)
    reply = _prefixed("fused", _statistics(desk, rule.apply(calibrated_MNK, state), examples))
    final_NK = outputs_MNK[0] if request.candidates[0].name == FINAL else None
    if final_NK is not None:
        reply |= _prefixed("final", _statistics(desk, final_NK, examples))
        reply |= _ablated(desk, request, arrays, examples)
        if desk.kind.output == "classes":
            reply |= _prefixed("calibrated", _statistics(desk, calibrated_MNK[0], examples))
    return answer, reply | _deployed(desk, request, arrays, examples, final_NK)


def _ablated(desk: Desk, request: FusionRequest, arrays: Arrays, examples: Examples) -> Reply:
    """Measure the final model where upstream subtasks say the same of all rows: their mean on train rows."""
    if not desk.subtask.upstream:
        return {}
    x = chain.ablated(desk.inputs(examples), desk.inputs(desk.raw().train), desk.subtask)
    rows = Rows(torch.as_tensor(x).to(desk.site.device), desk.kind.target(examples.y))
    found_1NK = candidate_outputs(desk, request.candidates[:1], arrays, rows)
    return _prefixed("ablated", _statistics(desk, found_1NK[0], examples))


def _on_validation(desk: Desk, request: FusionRequest, arrays: Arrays, examples: Examples) -> Floats:
    """Return the calibrated outputs [M, N, K] on validation rows; later steps use those of the first."""
    name, role = desk.subtask.name, "fusing"
    if request.step == 0:
        found = candidate_outputs(desk, request.candidates, arrays, desk.rows(examples))
        outputs_MNK = _calibrated(desk, request.candidates, found)
        if load("fusion", request.rule).STEPS > 1:
            desk.state.put(name, request.rule, {"outputs": outputs_MNK}, role=role)
        return outputs_MNK
    kept = desk.state.get(name, role)
    shape = (len(request.candidates), len(examples), desk.subtask.outputs)
    if kept is None or kept.model != request.rule or kept.arrays["outputs"].shape != shape:
        raise MessageError(f"step {request.step} of a fusion whose first step was not asked here")
    return kept.arrays["outputs"]


def _calibrated(desk: Desk, candidates: tuple[Candidate, ...], outputs_MNK: Floats) -> Floats:
    """Return each candidate's probabilities at its own temperature; values of a regression as they are."""
    if desk.kind.output != "classes":
        return outputs_MNK
    pairs = zip(candidates, outputs_MNK, strict=True)
    return np.stack([apply_temperature(outputs_NC, c.temperature) for c, outputs_NC in pairs])


def _own_temperature(desk: Desk) -> float:
    """Return the temperature of the site's own model on its own validation rows."""
    validation = desk.raw().validation
    if desk.kind.output != "classes" or not len(validation):
        return 1.0
    outputs_NC = _kept_outputs(desk, "local", desk.rows(validation))
    if outputs_NC is None:
        return 1.0
    return temperature_from(temperature_statistics(outputs_NC, validation.y.astype(np.int64)))


def targets(desk: Desk, examples: Examples) -> Floats:
    """Return one-hot rows [N, C], or values [N, 1]."""
    if desk.kind.output == "classes":
        one_hot_NC: Floats = np.eye(desk.subtask.outputs)[examples.y.astype(np.int64)]
        return one_hot_NC
    return np.asarray(examples.y, dtype=np.float64)[:, None]


def _deployed(
    desk: Desk, request: FusionRequest, arrays: Arrays, examples: Examples, final_NK: Floats | None
) -> Reply:
    """Measure what the site deploys, and where it trained one, the model that it made alone."""
    rows = desk.rows(examples)
    reply: Reply = {}
    local_NK = _kept_outputs(desk, "local", rows)
    if final_NK is not None:
        pool = _fit_pool(desk, request, arrays)
        own_NK = apply_pool(local_NK, final_NK, pool, desk.kind.task)
        # The pool tells the site's class prior, so it needs both permissions.
        if desk.site.egress.models and desk.site.egress.label_histogram == "exact":
            reply |= _prefixed("pool", pool_to_arrays(pool))
    elif local_NK is not None:
        own_NK = local_NK
    else:
        return {}
    reply |= _prefixed("own", _statistics(desk, own_NK, examples))
    if local_NK is not None and desk.kind.output == "classes":
        reply |= _prefixed("local", _statistics(desk, local_NK, examples))
        tempered_NC = apply_temperature(local_NK, _own_temperature(desk))
        reply |= _prefixed("local_calibrated", _statistics(desk, tempered_NC, examples))
    alone_NK = _kept_outputs(desk, "alone", rows)
    if alone_NK is not None:
        reply |= _prefixed("alone", _statistics(desk, alone_NK, examples))
        reply |= _prefixed("paired", compare(own_NK, alone_NK, examples.y))
    return reply


def _fit_pool(desk: Desk, request: FusionRequest, arrays: Arrays) -> PoolState:
    """Fit the pool of the local and the final model on the site's validation rows."""
    raw = desk.raw()
    validation = desk.rows(raw.validation)
    # Others' counts beside a mask of one's own, or the other way round, are no prior to move to.
    classes = desk.kind.output == "classes" and desk.site.egress.label_histogram != "mask"
    return fit_pool(
        _kept_outputs(desk, "local", validation),
        candidate_outputs(desk, request.candidates[:1], arrays, validation)[0],
        raw.validation.y,
        train_counts(desk, raw) if classes else None,
        np.asarray(request.class_counts) if classes and request.class_counts else None,
        desk.kind.task,
    )


def _kept_outputs(desk: Desk, role: str, rows: Rows) -> Floats | None:
    kept = desk.state.get(desk.subtask.name, role)
    return raw_outputs(desk, desk.model(kept.model, kept.arrays), rows) if kept else None


def candidate_outputs(
    desk: Desk, candidates: tuple[Candidate, ...], arrays: Arrays, rows: Rows
) -> NDArray[np.float64]:
    """Return each candidate's outputs [M, N, K]; its arrays are ``arrays`` under its index."""
    found = []
    for index, candidate in enumerate(candidates):
        prefix = f"{index}/"
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        found.append(raw_outputs(desk, desk.model(candidate.model, own), rows))
    return np.stack(found)


def _prior(class_counts_C: Floats) -> Floats:
    # Half an example more in each class: a class that nobody counted is not impossible.
    smoothed_C = class_counts_C + 0.5
    prior_1C: Floats = (smoothed_C / smoothed_C.sum())[None, :]
    return prior_1C


def _split(desk: Desk, rows: str) -> Examples:
    raw = desk.raw()
    if rows not in {"validation", "test"}:
        raise MessageError("rows are 'validation' or 'test'")
    return raw.validation if rows == "validation" else raw.test


def _statistics(desk: Desk, outputs_NK: Floats, examples: Examples) -> Reply:
    if desk.kind.output == "classes":
        return compress(metrics.classification_statistics(outputs_NK, examples.y))
    return compress(metrics.regression_statistics(outputs_NK[:, 0], examples.y))


def _prefixed(prefix: str, arrays: Arrays) -> Reply:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _evaluation(desk: Desk, request: EvaluationRequest, num_examples: int, processed: int = 0) -> Evaluation:
    return Evaluation(
        run=request.run,
        round=request.round,
        subtask=desk.subtask.name,
        site=desk.site.name,
        num_examples=num_examples,
        examples_processed=processed + forward_cost(num_examples) + desk.upstream_cost(num_examples),
    )


def forward_cost(num_examples: int) -> int:
    """Return the work of a forward pass, in training examples: about a third of one each."""
    return -(-num_examples // 3)
