"""A site: its name, limits and egress rules, from ``site.toml`` or from a scenario's profile."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from clients import device, line, site_file
from clients.custody import Custody, DeploymentCustody, ScenarioCustody
from clients.reading import ANEW, Keeper
from clients.site_file import SiteConfig
from collab.collaboration import Collaboration
from collab.settings import from_run_config
from collab.terms import EgressTerms
from protocol.errors import ConfigError
from protocol.messages import Capability

logger = logging.getLogger("consilium.worker")
PARTITION_KEY = "partition-id"
SITE_KEY = "site"


@dataclass(frozen=True)
class Site:
    """A party as its own code sees it; ``keeper`` has what is made of its rows."""

    name: str
    egress: EgressTerms
    device: torch.device
    capability: Capability
    custody: Custody
    keeper: Keeper = ANEW


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
    return from_config(site_file.load(path), path.parent)


def from_config(
    config: SiteConfig,
    base: Path,
    keeper: Keeper = ANEW,
    measure_speed: Callable[[torch.device], float] = device.measure_speed,
) -> Site:
    """Return the site that ``config`` describes; what it does not state is measured.

    Args:
        config: what ``site.toml`` says.
        base: the folder that relative paths of data start from.
        keeper: where rows come from.
        measure_speed: is asked for the speed of the device if ``config`` does not state it.
    """
    limits = config.limits
    chosen = device.choose(limits.device)
    device.bound_memory(chosen, limits.gpu_memory_share)
    logger.info("computes on %s (%s)", device.described(chosen), device.fingerprint(chosen))
    return Site(
        name=config.name,
        egress=config.egress,
        device=chosen,
        custody=DeploymentCustody(config.data, base, config.name, keeper),
        keeper=keeper,
        capability=Capability(
            site=config.name,
            memory_mib=limits.memory_mib or memory_mib(),
            gpu=chosen.type == "cuda",
            gpu_memory_mib=device.gpu_memory_mib(chosen, limits.gpu_memory_share),
            examples_per_s=limits.examples_per_s or measure_speed(chosen),
            bandwidth_mbit=limits.bandwidth_mbit or line.mbit(base),
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


def memory_mib() -> float:
    """Return the memory of this machine in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
