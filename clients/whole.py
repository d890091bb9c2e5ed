"""A whole that was taken apart, at one site: what the final models of its parts answer together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.measure import forward_cost
from clients.site import Site
from clients.state import SiteState
from clients.work import Desk, Reply, raw_outputs
from collab.calibration import apply_temperature
from collab.collaboration import named_kind
from collab.data.examples import Examples
from collab.decomposition.modality import IMAGE, View, outputs
from collab.decomposition.modality_terms import ModalityTerms
from collab.decomposition.terms import LabelHierarchyTerms, WholeTerms
from collab.decomposition.view import inputs_of, lacks
from collab.decomposition.whole import statistics
from collab.decomposition.whole_labels import refusals
from collab.models.contract import inference_mib
from collab.settings import validate
from collab.sparse import compress
from protocol.arrays import Arrays
from protocol.errors import MessageError
from protocol.fusing import WholePart, WholeRequest
from protocol.messages import Evaluation, Subtask


def evaluate_whole(
    site: Site, state: SiteState, request: WholeRequest, arrays: Arrays
) -> tuple[Evaluation, Reply]:
    """Measure the parts' fused answer, and what stands beside it, on the site's test rows of the whole.

    On validation rows it gives the sums from which the threshold of a whole by labels is chosen.

    A site whose memory does not hold a model that its rows need abstains: it answers with no examples.

    Raises:
        MessageError: the parts are not those of the request's groups or modalities.
        ConfigError: the groups are no hierarchy, or the modalities no split.
        ArraysError: a model's arrays are not those of its architecture.
    """
    terms = terms_of(request)
    request = _viewed(request, terms)
    custody = site.custody.whole(request.parts[0].subtask)
    rows = custody.test if request.rows == "test" else custody.validation
    said = _outputs(Desk(site, state, request.parts[0].subtask), request, arrays, rows)
    told = 0 if said is None else len(rows)
    answer = Evaluation(
        run=request.run,
        round=0,
        subtask=request.whole,
        site=site.name,
        num_examples=told,
        examples_processed=forward_cost(told * len(request.parts)),
    )
    if said is None or not told:
        return answer, {}
    if request.rows == "validation":
        if not isinstance(terms, LabelHierarchyTerms) or terms.outside is None:
            raise MessageError("only a whole by labels with rows outside has a threshold")
        return answer, compress(refusals(terms, said, rows.y))
    priors = {k.removeprefix("fusion/"): v for k, v in arrays.items() if k.startswith("fusion/")}
    return answer, compress(statistics(terms, said, rows.y, priors))


def terms_of(request: WholeRequest) -> WholeTerms:
    """Return the decomposition that a request is of; raises as ``evaluate_whole``."""
    where = f"whole '{request.whole}'"
    if request.fusion == "product":
        terms: WholeTerms = validate(ModalityTerms, _modalities(request), where)
    else:
        tables = request.model_dump(include={"groups", "outside", "refuses", "fusion"}) | {
            "by": "label_hierarchy"
        }
        terms = validate(LabelHierarchyTerms, tables, where)
    if sorted(part.name for part in request.parts) != sorted(terms.names):
        raise MessageError("the parts are not those of the whole")
    for part in request.parts:
        if isinstance(terms, LabelHierarchyTerms):
            alike = part.subtask.labels == terms.parts[part.name].labels and part.subtask.part is None
        else:
            alike = part.subtask.part == terms.view(request.whole, part.name)
        if not alike:
            raise MessageError(f"part '{part.name}' names other labels or inputs than its whole")
    return terms


def _viewed(request: WholeRequest, terms: WholeTerms) -> WholeRequest:
    """Return the request with each part's view of the whole, which by labels follows from the groups."""

    def viewed(part: WholePart) -> WholePart:
        view = {"part": terms.view(request.whole, part.name)}
        return part.model_copy(update={"subtask": part.subtask.model_copy(update=view)})

    return request.model_copy(update={"parts": tuple(viewed(part) for part in request.parts)})


def _modalities(request: WholeRequest) -> dict[str, Any]:
    """Return the table of a split by modality, as the views of its parts say."""
    views = {part.name: part.subtask.part for part in request.parts}
    modalities = {name: IMAGE if v and v.image else v.columns if v else () for name, v in views.items()}
    first = request.parts[0].subtask.part
    return {
        "by": "modality",
        "modalities": modalities,
        "subtask": {"labels": first.labels if first else ()},
    }


def _outputs(
    desk: Desk, request: WholeRequest, arrays: Arrays, rows: Examples
) -> dict[str, NDArray[np.float64]] | None:
    """Return each part's calibrated probabilities on ``rows``, or None if a model does not fit here.

    A row that lacks a part's modality has NaN.
    """
    found = {}
    for index, part in enumerate(request.parts):
        place = Desk(desk.site, desk.state, part.subtask)
        seen = _seen(part.subtask, rows)
        own_RC: NDArray[np.float64] | None = np.empty((0, part.subtask.outputs))
        if len(seen.examples):
            own_RC = _part_outputs(place, part, f"{index}/", arrays, seen.examples)
        if own_RC is None:
            return None
        found[part.name] = outputs([own_RC], [seen.present_N])[0]
    return found


def _seen(subtask: Subtask, rows: Examples) -> View:
    """Return what the part sees of the rows; nothing where the site's data has not its modality."""
    nothing_N = np.zeros(len(rows), dtype=np.bool_)
    if subtask.part is None or lacks(rows, subtask.part):
        return View(rows.take(nothing_N), nothing_N)
    return inputs_of(rows, subtask.part)


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
