"""What a resident process keeps from message to message: the site, its rows, and the tensors made of them.

Every result has the same bits as without it. What is kept is known by all that it depends on; files by
their stamps, so that one that has changed is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch

from clients import device, site_file, stamp
from clients.counters import Counters, ProcessCounters, process_counters
from clients.reading import Reading, SiteRows, split_rows
from clients.site import SITE_KEY, Site, from_config, from_context
from clients.store import Store, parts
from collab.data.dataset import load_site
from collab.data.examples import Examples
from collab.data.formats import load_public
from protocol.errors import DataError

__all__ = ["Counters", "ProcessCounters", "Warm", "process_counters"]

T = TypeVar("T")

_MIB = 2**20


@dataclass(frozen=True)
class _Known:
    """A site, and the stamp of the file that it was made from."""

    site: Site
    stamp: stamp.Stamp


class Warm:
    """The memory of one resident process; whoever composes the process makes one and hands it on.

    Args:
        max_bytes: how much it may keep of rows and tensors in the machine's memory. None: half of
            ``limits.memory_mib``, or of the machine's memory. Of a GPU's it keeps at most half of what the
            site may use.

    It is not for several threads at once: a site answers one message after the other.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.counters = Counters()
        self._is_bounded = max_bytes is not None
        self._host, self._gpu = Store(max_bytes or 0), Store(0)
        self._sites: dict[Path, _Known] = {}
        self._speeds: dict[str, float] = {}

    @property
    def used(self) -> int:
        """How many bytes of rows and tensors are kept, of the machine's memory and the GPU's."""
        return self._host.used + self._gpu.used

    def site(self, node_config: Mapping[str, object], run_config: Mapping[str, object], root: Path) -> Site:
        """Return the site of this node as ``from_context`` does; its file is read when it has changed.

        A simulated site is made anew: what it shares with others is kept by ``collab.scenario``.
        """
        if SITE_KEY not in node_config:
            return from_context(node_config, run_config, root)
        return self._from_file(Path(str(node_config[SITE_KEY])))

    def clear(self) -> None:
        """Forget all rows and tensors, as when memory has run out; the site and its speed stay."""
        self._host.clear()
        self._gpu.clear()

    def rows(self, reading: Reading) -> SiteRows:
        """Return all rows of a site's own file, split."""
        r = reading

        def load() -> SiteRows:
            found = load_site(r.config, labels=r.labels, output=r.output, inputs=r.inputs, base=r.base)
            return split_rows(found, r)

        return self._read(("rows", reading), reading, load)

    def public(self, reading: Reading) -> Examples:
        """Return the rows of a public set, without labels."""
        return self._read(
            ("public", reading), reading, lambda: load_public(reading.config, reading.inputs, reading.base)
        )

    def derived(self, source: object, key: Hashable, build: Callable[[], T]) -> T:
        """Return what ``build`` makes of ``source``; it goes when ``source`` goes."""
        # An id is used again once its object is gone, but by then the entry is gone too.
        place = (id(source), key)
        for store in (self._host, self._gpu):
            found = store.get(place, None)
            if found is not None:
                self.counters.hits += 1
                return cast("T", found)
        made = build()
        store = self._host
        if tensors := [part for part in parts(made) if isinstance(part, torch.Tensor)]:
            self.counters.tensor_builds += 1
            store = self._gpu if tensors[0].device.type == "cuda" else self._host
        store.put(place, None, made, source)
        return made

    def _from_file(self, path: Path) -> Site:
        place = path.absolute()
        try:
            found = stamp.of_file(place)
        except OSError:
            found = ()  # loading it says what is wrong
        known = self._sites.get(place)
        if known is not None and found and known.stamp == found:
            self.counters.hits += 1
            return known.site
        self._sites.pop(place, None)
        self.counters.site_loads += 1
        made = from_config(site_file.load(path), path.parent, keeper=self, measure_speed=self._speed)
        self._sites[place] = _Known(made, found)
        self._bound(made)
        return made

    def _bound(self, site: Site) -> None:
        if not self._is_bounded:
            self._host.max_bytes = int(site.capability.memory_mib * _MIB / 2)
        self._gpu.max_bytes = int(site.capability.gpu_memory_mib * _MIB / 2)

    def _speed(self, where: torch.device) -> float:
        """Return the speed of a device, measured once: it tells a machine, and no moment's load."""
        if str(where) not in self._speeds:
            self.counters.speed_measurements += 1
            self._speeds[str(where)] = device.measure_speed(where)
        return self._speeds[str(where)]

    def _read(self, key: Hashable, reading: Reading, load: Callable[[], T]) -> T:
        try:
            # Before the file is read: one that changes meanwhile is read again the next time.
            stamps = stamp.of_data(reading.config, reading.base)
        except (OSError, DataError):
            self.counters.data_loads += 1
            return load()  # says itself what is wrong with the file
        found = self._host.get(key, stamps)
        if found is not None:
            self.counters.hits += 1
            return cast("T", found)
        self.counters.data_loads += 1
        made = load()
        self._host.put(key, stamps, made)
        return made
