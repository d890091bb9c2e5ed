"""A site's memory as bytes: what ``clients.state`` keeps in Flower's records, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from protocol.errors import MessageError
from protocol.records import BLOB, STYPE

_CONFIG, _ARRAYS = b"C", b"A"


def freeze(record: object) -> bytes:
    """Return a record of the site's memory as bytes.

    Raises:
        MessageError: it is of a kind that the memory does not hold.
    """
    if isinstance(record, ConfigRecord):
        try:
            return _CONFIG + json.dumps(dict(record), sort_keys=True).encode()
        except TypeError:
            raise MessageError("a site's memory does not hold bytes beside arrays") from None
    if isinstance(record, ArrayRecord) and set(record) == {BLOB} and record[BLOB].stype == STYPE:
        return _ARRAYS + record[BLOB].data
    raise MessageError(f"a site's memory does not hold a {type(record).__name__}")


def thaw(data: bytes) -> ConfigRecord | ArrayRecord:
    """Return the record that ``freeze`` made these bytes of."""
    if data[:1] == _CONFIG:
        return ConfigRecord(json.loads(data[1:]))
    if data[:1] == _ARRAYS:
        blob = data[1:]
        return ArrayRecord({BLOB: Array(dtype="uint8", shape=(len(blob),), stype=STYPE, data=blob)})
    raise MessageError("not a record of a site's memory")


def changes(before: Mapping[str, object], after: RecordDict) -> Iterator[tuple[str, bytes | None]]:
    """Yield the keys whose record was put anew, with its bytes; None for those that are gone."""
    for key in before.keys() - after.keys():
        yield key, None
    for key, record in after.items():
        if before.get(key) is not record:
            yield key, freeze(record)
