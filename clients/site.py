"""A site: its name, limits and egress rules, from ``site.toml`` or from a scenario's profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from clients import device
from clients.custody import Custody, DeploymentCustody, ScenarioCustody
from collab.collaboration import Collaboration
from collab.data.config import DataConfig
from collab.settings import from_run_config, parse_toml, read_text, validate
from collab.terms import EgressTerms, Positive
from protocol.bounds import Frozen, Name
from protocol.errors import ConfigError
from protocol.messages import Capability

PARTITION_KEY = "partition-id"
SITE_KEY = "site"


class Limits(Frozen):
    """What a site's machine may be used for; what is left out is measured."""

    memory_mib: Positive | None = None
    examples_per_s: Positive | None = None
    bandwidth_mbit: Positive = 100
    device: Literal["auto", "cpu", "cuda"] = "auto"


class SiteConfig(Frozen):
    """The file ``site.toml``."""

    name: Name
    data: Annotated[dict[Name, DataConfig], Field(min_length=1, max_length=1000)]
    limits: Limits = Limits()
    egress: EgressTerms = EgressTerms(models=False, label_histogram="rounded")
    price: float = Field(1.0, ge=0, le=1e12)


@dataclass(frozen=True)
class Site:
    """A party as its own code sees it."""

    name: str
    egress: EgressTerms
    device: torch.device
    capability: Capability
    custody: Custody


def from_context(node_config: Mapping[str, object], run_config: Mapping[str, object], root: Path) -> Site:
    """Return the site of this node: from its ``site.toml``, or in a simulation from its number.

    Args:
        node_config: has ``site`` (a path) in a deployment, ``partition-id`` in a simulation.
        run_config: has ``collaboration`` (a path or TOML text) in a simulation.
        root: the folder that a relative path of ``collaboration`` starts from.
    """
    if SITE_KEY in node_config:
        return from_file(Path(str(node_config[SITE_KEY])))
    if PARTITION_KEY not in node_config:
        raise ConfigError(f"node config: give '{SITE_KEY}' = path of site.toml")
    collaboration = from_run_config(run_config, root)
    names = sorted(collaboration.sites)
    index = int(str(node_config[PARTITION_KEY]))
    if index >= len(names):
        raise ConfigError(
            f"this simulation has more nodes than the collaboration's {len(names)} sites: "
            f"start it with num-supernodes = {len(names)}"
        )
    return from_scenario(collaboration, names[index])


def from_file(path: Path) -> Site:
    """Return the site that ``site.toml`` describes; what it does not state is measured."""
    config = validate(SiteConfig, parse_toml(read_text(path), str(path)), str(path))
    chosen = device.choose(config.limits.device)
    custody = DeploymentCustody(config.data, path.parent, config.name)
    limits = config.limits
    return Site(
        name=config.name,
        egress=config.egress,
        device=chosen,
        custody=custody,
        capability=Capability(
            site=config.name,
            memory_mib=limits.memory_mib or _memory_mib(),
            gpu=chosen.type == "cuda",
            gpu_memory_mib=device.gpu_memory_mib(chosen),
            examples_per_s=limits.examples_per_s or device.measure_speed(chosen),
            bandwidth_mbit=limits.bandwidth_mbit,
            price=config.price,
            shares_models=config.egress.models,
            subtasks=dict.fromkeys(config.data, 0),
        ),
    )


def from_scenario(collaboration: Collaboration, name: str) -> Site:
    """Return the simulated site ``name``; its speed and memory are its profile's."""
    profile = collaboration.sites[name]
    chosen = device.choose(profile.device)
    subtasks = [s for s in sorted(collaboration.subtasks) if name in collaboration.sites_of(s)]
    return Site(
        name=name,
        egress=profile.egress,
        device=chosen,
        custody=ScenarioCustody(collaboration, name),
        capability=Capability(
            site=name,
            memory_mib=profile.memory_mib,
            gpu=profile.gpu,
            gpu_memory_mib=profile.gpu_memory_mib,
            examples_per_s=profile.examples_per_s,
            bandwidth_mbit=profile.bandwidth_mbit,
            price=profile.price,
            shares_models=profile.egress.models,
            subtasks=dict.fromkeys(subtasks, 0),
        ),
    )


def _memory_mib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
