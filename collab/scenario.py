"""The data of a scenario: read once, dealt out to the sites, the public set held out of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from collab.collaboration import Collaboration, kind_of, named_kind
from collab.data.config import DataConfig
from collab.data.dataset import ScenarioData, build_scenario_examples, load_site
from collab.data.examples import Examples
from collab.data.formats import load_public
from protocol.errors import DataError


def scenario_data(collaboration: Collaboration, subtask: str) -> ScenarioData:
    """Return the data of a scenario's subtask, dealt out to its sites; the last few stay in memory."""
    return _scenario_data(collaboration.model_dump_json(), subtask)


def public_set(collaboration: Collaboration, subtask: str) -> Examples:
    """Return the public set of a scenario's subtask, without labels."""
    terms = collaboration.subtasks[subtask]
    source = terms.soft_labels.public.data if terms.soft_labels else None
    if source is not None:
        return load_public(collaboration.data[source], kind_of(terms).inputs, None)
    public = scenario_data(collaboration, subtask).public
    if public is None:
        raise DataError(f"subtask '{subtask}' has no public set: give soft_labels.public")
    return public


@lru_cache(maxsize=16)
def _scenario_data(collaboration_json: str, subtask: str) -> ScenarioData:
    # A pure function of its arguments: the cache only saves reading and dealing out again.
    c = Collaboration.model_validate_json(collaboration_json)
    terms = c.subtasks[subtask]
    kind = kind_of(terms)
    holdout = terms.soft_labels.public.holdout if terms.soft_labels else None
    return build_scenario_examples(
        config=c.data[str(terms.data)],
        partition=c.partition_of(subtask),
        sites=c.sites_of(subtask),
        labels=terms.labels,
        output=kind.output,
        inputs=kind.inputs,
        seed=c.seed,
        data_name=str(terms.data),
        holdout=holdout or 0,
        base=None,
    )


@lru_cache(maxsize=16)
def site_file(
    config: DataConfig, kind_name: str, labels: tuple[str, ...] | int | None, base: Path
) -> Examples:
    """Return all rows of a real site's file, as the kind wants them; ``base`` is where paths start."""
    kind = named_kind(kind_name)
    return load_site(config, labels=labels, output=kind.output, inputs=kind.inputs, base=base)
