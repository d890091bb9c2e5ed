"""A whole that was taken apart, at one site: what the final models of its parts answer together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.measure import forward_cost
from clients.site import Site
from clients.state import SiteState
from clients.work import Desk, Reply, raw_outputs
from collab.calibration import apply_temperature
from collab.collaboration import named_kind
from collab.data.examples import Examples
from collab.decomposition.terms import DecompositionTerms
from collab.decomposition.whole import statistics
from collab.models.contract import inference_mib
from collab.settings import validate
from collab.sparse import compress
from protocol.arrays import Arrays
from protocol.errors import MessageError
from protocol.messages import Evaluation, Subtask, WholePart, WholeRequest


def evaluate_whole(
    site: Site, state: SiteState, request: WholeRequest, arrays: Arrays
) -> tuple[Evaluation, Reply]:
    """Measure the parts' fused answer, and the naive one, on the site's test rows of the whole.

    A site whose memory does not hold a part's model abstains: it answers with no examples.

    Raises:
        MessageError: the parts are not those of the request's groups.
        ConfigError: the groups are no hierarchy.
        ArraysError: a model's arrays are not those of its architecture.
    """
    terms = terms_of(request)
    rows = site.custody.rows(_whole(request, terms)).test
    outputs = _outputs(Desk(site, state, request.parts[0].subtask), request, arrays, rows)
    told = 0 if outputs is None else len(rows)
    answer = Evaluation(
        run=request.run,
        round=0,
        subtask=request.whole,
        site=site.name,
        num_examples=told,
        examples_processed=forward_cost(told * len(request.parts)),
    )
    if outputs is None or not told:
        return answer, {}
    return answer, compress(statistics(terms, outputs, rows.y))


def terms_of(request: WholeRequest) -> DecompositionTerms:
    """Return the decomposition that a request is of; raises as ``evaluate_whole``."""
    tables = request.model_dump(include={"groups", "outside", "fusion"}) | {"by": "label_hierarchy"}
    terms = validate(DecompositionTerms, tables, f"whole '{request.whole}'")
    if {part.name for part in request.parts} != set(terms.parts) or len(request.parts) != len(terms.parts):
        raise MessageError("the parts are not those of the whole")
    return terms


def _whole(request: WholeRequest, terms: DecompositionTerms) -> Subtask:
    """Return a part of the whole that takes all its rows, each under its own label."""
    part = request.parts[0].subtask
    if part.part is None or part.part.labels != terms.labels:
        raise MessageError("a part names other labels than its whole")
    every = part.part.model_copy(update={"classes": tuple(range(len(terms.labels)))})
    update = {"part": every, "labels": terms.labels, "outputs": len(terms.labels)}
    return part.model_copy(update=update)


def _outputs(
    desk: Desk, request: WholeRequest, arrays: Arrays, rows: Examples
) -> dict[str, NDArray[np.float64]] | None:
    """Return each part's calibrated probabilities on ``rows``, or None if a model does not fit here."""
    found = {}
    for index, part in enumerate(request.parts):
        place = Desk(desk.site, desk.state, part.subtask)
        outputs_NC = _part_outputs(place, part, f"{index}/", arrays, rows)
        if outputs_NC is None:
            return None
        found[part.name] = outputs_NC
    return found


def _part_outputs(
    desk: Desk, part: WholePart, prefix: str, arrays: Arrays, rows: Examples
) -> NDArray[np.float64] | None:
    if named_kind(part.subtask.kind).output != "classes":
        raise MessageError("a part of a whole is a classification")
    own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    module = desk.model(part.model, own)
    if inference_mib(module) > desk.site.capability.memory_mib:
        return None
    # The targets are the whole's: of a part's rows only the inputs are used.
    return apply_temperature(raw_outputs(desk, module, desk.rows(rows)), part.temperature)
