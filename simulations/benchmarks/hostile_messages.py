"""Sealed messages with faults put in at random: none may be accepted, none may bring the server down.

An honest contribution is sealed, something in it is changed (bits of header, signature or body, lengths,
whole fields, parts of another message, another record), and the server opens it. Whatever opens counts as
accepted; a crash is any error that is not one of the protocol's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from protocol.errors import ConsiliumError, SealError
from protocol.header import digest
from protocol.messages import Contribution
from protocol.records import ARRAYS, BLOB, SEAL, STYPE, pack, parts_of, with_seal
from protocol.roster import SERVER
from server.envelopes import Envelopes
from simulations.sealed import Party, parties

RUN, TASK, KIND = "run", "run/1/risk/east/1", "train.weights"
ASKED = digest([b"what was asked"])[0]


def main() -> None:
    """Measure and print; see ``--help``."""
    parser = argparse.ArgumentParser(description="Sealed messages with faults put in at random.")
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.mutations, options.seed)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    refused = ", ".join(f"{why} {count}" for why, count in found["refused"].items())
    print(
        f"{found['mutations']} mutations: {found['accepted']} accepted, {found['crashes']} crashes; {refused}"
    )
    print(f"honest messages among them: {found['honest']} opened; {found['ms_each']:.2f} ms each")


def measure(mutations: int, seed: int) -> dict[str, Any]:
    """Return how many of so many changed messages were accepted, crashed it, or were refused and why."""
    rng, everybody = np.random.default_rng(seed), parties([SERVER, "east", "west"])
    server = everybody[SERVER]
    refused: Counter[str] = Counter()
    accepted = crashes = honest = 0
    begun = time.perf_counter()
    for number in range(mutations):
        envelopes = Envelopes(RUN, server.signer, server.verifier)
        size = 300_000 if number % 10 == 0 else 20  # long messages keep their arrays beside the seal
        good, other = (_sealed(everybody["east"], rng, size, mark) for mark in (1.0, 2.0))
        fault = FAULTS[number % len(FAULTS)]
        try:
            envelopes.open(fault(good, other, rng), "east", TASK, ASKED)
            accepted += 1
        except ConsiliumError as error:
            refused[error.reason if isinstance(error, SealError) else error.code] += 1
        except Exception:  # noqa: BLE001  what must not happen is counted
            crashes += 1
        if number % 20 == 0:
            envelopes.open(_sealed(everybody["east"], rng, size, 3.0), "east", TASK, ASKED)
            honest += 1
    ms = (time.perf_counter() - begun) * 1000 / mutations
    return {
        "mutations": mutations,
        "accepted": accepted,
        "crashes": crashes,
        "refused": dict(refused.most_common()),
        "honest": honest,
        "ms_each": ms,
    }


def _sealed(site: Party, rng: np.random.Generator, size: int, mark: float) -> RecordDict:
    """Return an honest contribution under seal."""
    arrays = {"weight": rng.normal(size=size).astype(np.float32) * mark}
    said = Contribution(
        run=RUN,
        round=1,
        subtask="risk",
        site="east",
        attempt=1,
        model="linear",
        exchange="weights",
        num_examples=60,
        examples_processed=60,
        computed_on="0" * 16,
        digest="0" * 64,
    )
    record = pack(said, arrays)
    seal = site.signer.seal(parts_of(record), run=RUN, task=TASK, kind=KIND, recipient=SERVER, answers=ASKED)
    return with_seal(record, seal)


Fault = Callable[[RecordDict, RecordDict, np.random.Generator], RecordDict]


def _field(name: str, change: Callable[[bytes, bytes, np.random.Generator], bytes]) -> Fault:
    """Return a fault in one field of the seal; in the arrays beside it where the message is long."""

    def fault(good: RecordDict, other: RecordDict, rng: np.random.Generator) -> RecordDict:
        ours, theirs = dict(_seal(good)), dict(_seal(other))
        if name in ours:
            ours[name] = change(ours[name], theirs[name], rng)
            return RecordDict({**good, SEAL: ConfigRecord(dict(ours))})
        data = change(_blob(good), _blob(other), rng)
        blob = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
        return RecordDict({**good, ARRAYS: ArrayRecord({BLOB: blob})})

    return fault


def _seal(record: RecordDict) -> dict[str, bytes]:
    sealed = record[SEAL]
    return {key: value for key, value in sealed.items() if isinstance(value, bytes)}


def _blob(record: RecordDict) -> bytes:
    return bytes(record[ARRAYS][BLOB].data)  # type: ignore[union-attr]


def _flipped(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, len(changed), size=int(rng.integers(1, 4))):
        changed[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed) if bytes(changed) != data else data[:-1] + bytes([data[-1] ^ 1])


def _cut(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _longer(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 200)))


def _others(data: bytes, other: bytes, _: np.random.Generator) -> bytes:
    return other if other != data else data[::-1]


def _spliced(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(1, max(2, min(len(data), len(other)))))
    made = data[:at] + other[at:]
    return made if made not in (data, other) else _flipped(data, other, rng)


def _noise(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(len(data))


def _dropped(good: RecordDict, _: RecordDict, rng: np.random.Generator) -> RecordDict:
    keys = list(good)
    gone = keys[int(rng.integers(0, len(keys)))]
    return RecordDict({key: value for key, value in good.items() if key != gone})


def _added(good: RecordDict, _: RecordDict, rng: np.random.Generator) -> RecordDict:
    return RecordDict({**good, f"k{int(rng.integers(0, 9))}": ConfigRecord({"x": 1})})


def _typed(good: RecordDict, _: RecordDict, rng: np.random.Generator) -> RecordDict:
    """Give a field of the seal another type."""
    sealed: dict[str, object] = dict(_seal(good))
    keys = list(sealed)
    wrong = (1, "text", 2.5, True, [1, 2])[int(rng.integers(0, 5))]
    sealed[keys[int(rng.integers(0, len(keys)))]] = wrong
    return RecordDict({**good, SEAL: ConfigRecord(sealed)})  # type: ignore[arg-type]


FAULTS: tuple[Fault, ...] = (
    *(
        _field(name, change)
        for name in ("header", "signature", "parts")
        for change in (_flipped, _cut, _longer, _others, _spliced, _noise)
    ),
    _dropped,
    _added,
    _typed,
)


if __name__ == "__main__":
    main()
