"""Desks of the small collaborations' sites: rows, kind, memory and the preprocessing that all share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import RecordDict

from clients.site import from_scenario
from clients.state import SiteState
from clients.work import Desk
from collab.data.preprocess import Preprocessing, measure, merge
from collab.models.contract import to_arrays
from collab.scenario import public_set
from protocol.arrays import Arrays, digest
from protocol.messages import Assignment, EvaluationRequest
from server.description import describe
from tests.small import NAMES, Named, Tables, scenario

RUN = "r"


def desks(made: Tables, name: str) -> dict[str, Desk]:
    """Return a desk a site for one subtask, as they are once the server has merged the statistics."""
    collaboration = scenario(made)
    subtask = describe(collaboration, name)
    places = {site: from_scenario(collaboration, site) for site in NAMES}
    statistics = merge([measure(place.custody.rows(subtask).train) for place in places.values()])
    preprocessing = Preprocessing.fit(statistics)
    update: dict[str, Any] = {"preprocessing": preprocessing.model_dump_json()}
    if collaboration.subtasks[name].exchange == "soft_labels":
        x = preprocessing.transform(public_set(collaboration, name))
        update["public_digest"] = digest({"x": x})
    ready = subtask.model_copy(update=update)
    return {site: Desk(place, SiteState(RecordDict()), ready) for site, place in places.items()}


def told(desk: Desk, **fields: Any) -> Desk:
    """Return the same site with the same memory, whose subtask says something else."""
    return replace(desk, subtask=desk.subtask.model_copy(update=fields))


def same(one: Arrays, other: Arrays) -> bool:
    """Whether both have the same names and the same numbers."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def kept(desk: Desk, role: str = "local") -> Named:
    """Return what the site keeps in that role; fail where it keeps nothing."""
    found = desk.state.get(desk.subtask.name, role)
    assert found is not None
    return dict(found.arrays)


def fresh(desk: Desk, model: str = "linear") -> Named:
    """Return the arrays that every party starts from."""
    return to_arrays(desk.fresh(model))


def assignment(desk: Desk, round_: int = 1, **fields: Any) -> Assignment:
    """Return an assignment for this desk."""
    told = {"run": RUN, "round": round_, "subtask": desk.subtask, "site": desk.site.name, "model": "linear"}
    return Assignment.model_validate(told | fields)


def request(desk: Desk, **fields: Any) -> EvaluationRequest:
    """Return a request to measure a model on this desk's rows."""
    told = {"run": RUN, "round": 1, "subtask": desk.subtask, "site": desk.site.name, "model": "linear"}
    return EvaluationRequest.model_validate(told | fields)
