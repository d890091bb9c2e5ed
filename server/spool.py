"""Contributions wait on disk until their round closes, so memory does not grow with the sites."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from protocol.arrays import Arrays
from protocol.codec import decode, encode
from protocol.records import MAX_ARRAY_BYTES
from server.record import Record


class Spool:
    """The arrays of the open round's contributions, in the record's content: one file a contribution."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._refs: dict[str, str] = {}

    def put(self, key: str, arrays: Arrays) -> None:
        """Write the arrays of the contribution ``key``."""
        self.drop(key)
        self._refs[key] = self.record.content.put(encode(arrays))

    def again(self, key: str, ref: str) -> None:
        """Take up arrays that the run wrote before it was killed."""
        self.drop(key)
        self.record.content.use(ref)
        self._refs[key] = ref

    def ref(self, key: str) -> str:
        """Return the reference to the arrays of ``key``."""
        return self._refs[key]

    def read(self, key: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``key``."""
        return decode(self.record.content.read(self._refs[key]), MAX_ARRAY_BYTES)

    def take(self, key: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``key`` and forget them."""
        arrays = self.read(key)
        self.drop(key)
        return arrays

    def drop(self, key: str) -> None:
        """Forget the arrays of ``key``, if there are any."""
        ref = self._refs.pop(key, None)
        if ref is not None:
            self.record.content.drop(ref)
