"""A site's memory between messages: Flower's ``Context.state``, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from protocol.arrays import Arrays
from protocol.records import pack_arrays, unpack_arrays


@dataclass(frozen=True)
class Kept:
    """A model that the site keeps: its architecture and its arrays."""

    model: str
    arrays: Mapping[str, NDArray[Any]]


class SiteState:
    """Models by subtask and role.

    ``local`` is the last one trained on private rows, ``digested`` the one that has taken in the
    others' soft labels since, ``alone`` the one trained without others, ``upstream`` the final one of a
    subtask that another comes after (its digest in the place of its architecture).
    """

    def __init__(self, records: RecordDict) -> None:
        self._records = records

    def get(self, subtask: str, role: str = "local") -> Kept | None:
        """Return the kept model, or None if there is none yet."""
        head = self._records.get(f"{role}.{subtask}.head")
        if not isinstance(head, ConfigRecord):
            return None
        arrays = unpack_arrays(self._records[f"{role}.{subtask}.arrays"])
        return Kept(str(head["model"]), arrays)

    def put(self, subtask: str, model: str, arrays: Arrays, role: str = "local") -> None:
        """Keep a model in the place of the last one."""
        self._records[f"{role}.{subtask}.head"] = ConfigRecord({"model": model})
        self._records[f"{role}.{subtask}.arrays"] = pack_arrays(arrays)

    def forget(self, subtask: str, role: str) -> None:
        """Drop a kept model, if there is one."""
        for part in ("head", "arrays"):
            self._records.pop(f"{role}.{subtask}.{part}", None)
