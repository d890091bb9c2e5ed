"""Bytes of one round: soft labels in each form against weights, and what quantising costs.

Run: python simulations/benchmarks/wire_bytes.py [--seeds 3] [--json PATH]

Prints, as Markdown: bytes of packed messages (soft labels of 5,000 x 10 against one ResNet-18); how
far each form moves trained soft labels; how far int8 of the delta moves trained weights, beside
int8 of the weights themselves; what error feedback keeps; the block sizes compared; and time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collab.rng import generator
from protocol.arrays import Arrays, digest, spec_of
from protocol.bounds import Exchange
from protocol.codec import encode
from protocol.messages import Contribution
from protocol.quantise_delta import decode_delta, encode_delta
from protocol.quantise_labels import encode_soft_labels
from protocol.records import pack, wire_bytes
from simulations.benchmarks.wire_cases import PUBLIC_ROWS, resnet18
from simulations.benchmarks.wire_errors import BLOCKS, FEEDBACK_ROUNDS, FORMS, WARM_EPOCHS, measure

REPEATS = 5
FP32, INT8 = "weights, fp32", "weights, int8 of the delta"

Found = Sequence[Mapping[str, Any]]


def message_bytes(exchange: Exchange, arrays: Arrays) -> int:
    """Return the bytes of a contribution with ``arrays``: message, safetensors header and payload."""
    message = Contribution(
        run="benchmark",
        round=1,
        subtask="images",
        site="hospital-1",
        attempt=1,
        model="resnet18",
        exchange=exchange,
        num_examples=3000,
        examples_processed=3000,
        computed_on="0" * 16,
        class_counts=(300.0,) * 10,
        digest=digest(arrays),
    )
    return wire_bytes(pack(message, arrays))


def sizes() -> dict[str, int]:
    """Return the bytes of one contribution of each kind."""
    weights = resnet18(generator(0, "wire", "resnet18"))
    labels_NC = generator(0, "wire", "labels").dirichlet(np.full(10, 0.3), PUBLIC_ROWS)
    found = {
        FP32: message_bytes("weights", weights),
        INT8: message_bytes("weights", encode_delta(weights)[0]),
    }
    return found | {
        f"soft labels, {form}": message_bytes("soft_labels", encode_soft_labels(labels_NC, form))
        for form in FORMS
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of ``work``."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def times() -> dict[str, float]:
    """Return seconds to encode and decode one ResNet-18, with its error feedback."""
    weights = resnet18(generator(0, "wire", "resnet18"))
    wire, residual = encode_delta(weights)
    return {
        "plain encode": seconds(lambda: encode(weights)),
        "int8 delta, encode": seconds(lambda: encode(encode_delta(weights, residual)[0])),
        "int8 delta, decode": seconds(lambda: decode_delta(wire, spec_of(weights))),
    }


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2g} ± {deviation:.1g}"


def byte_table(found: Mapping[str, int]) -> Iterator[str]:
    """Yield bytes of each message and how many times fewer they are than weights'."""
    yield from header("contribution", ["bytes", "fewer than fp32 weights", "fewer than int8 of the delta"])
    for name, size in found.items():
        yield f"| {name} | {size:,} | {found[FP32] / size:,.1f}x | {found[INT8] / size:,.1f}x |"


def label_table(found: Found) -> Iterator[str]:
    """Yield the mean KL(sent || received) of each form after one local epoch from each start."""
    yield from header("form", [f"KL, warm {epochs}" for epochs in WARM_EPOCHS])
    for form in found[0]["labels"][str(WARM_EPOCHS[0])]:
        cells = [[f["labels"][str(epochs)][form] for f in found] for epochs in WARM_EPOCHS]
        yield f"| {form} | " + " | ".join(map(spread, cells)) + " |"


def weight_table(found: Found) -> Iterator[str]:
    """Yield the relative error of each weight codec after one local epoch from each start."""
    names = {
        "update": "what the epoch changed",
        "direct": "direct int8, a scale an array",
        "direct_blocks": "direct int8, a scale a block",
        "delta": "int8 of the delta",
        "ratio": "direct, a scale an array / delta",
    }
    yield from header("relative L2", [f"warm {epochs}" for epochs in WARM_EPOCHS])
    for key, name in names.items():
        cells = [[f["rounds"][str(epochs)][key] for f in found] for epochs in WARM_EPOCHS]
        yield f"| {name} | " + " | ".join(map(spread, cells)) + " |"
    for kind in ("with", "without"):
        yield f"\nSum of {FEEDBACK_ROUNDS} deltas, {kind} error feedback: off by " + spread(
            [f["feedback"][kind] for f in found]
        )


def block_table(found: Found) -> Iterator[str]:
    """Yield error and bytes of each block size."""
    yield from header("block", ["bytes a number", "error of the delta"])
    for block in BLOCKS:
        yield f"| {block} | {1 + 4 / block:.4f} | {spread([f['blocks'][str(block)] for f in found])} |"


def bars(found: Found, sent: Mapping[str, int]) -> Iterator[str]:
    """Yield what was asked for beside what was found; the weights' bar for each start."""
    labels = sent["soft labels, uint8"]
    worst = max(f["labels"][str(epochs)]["uint8"] for f in found for epochs in WARM_EPOCHS)
    figures = [
        ("uint8 soft labels, fewer bytes than fp32 weights", sent[FP32] / labels, 450, True),
        ("uint8 soft labels, fewer bytes than int8 of the delta", sent[INT8] / labels, 100, True),
        ("uint8 soft labels, worst mean KL of a seed", worst, 1e-4, False),
    ]
    for epochs in WARM_EPOCHS:
        ratio = statistics.mean(f["rounds"][str(epochs)]["ratio"] for f in found)
        figures.append((f"int8 of the delta, error below direct int8, warm {epochs}", ratio, 20, True))
    yield from header("bar", ["found", "asked", ""])
    for name, value, asked, larger in figures:
        met = value >= asked if larger else value <= asked
        sign, verdict = "≥" if larger else "≤", "met" if met else "**not met**"
        yield f"| {name} | {value:.3g} | {sign} {asked:g} | {verdict} |"


def header(first: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a table's first two lines."""
    yield f"| {first} | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"


def main() -> None:
    """Measure all seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write all figures of all seeds here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sent, taken = sizes(), times()
    found = [measure(seed) for seed in range(1, arguments.seeds + 1)]
    print(f"Seeds 1 to {arguments.seeds}, mean ± sd; warm: epochs that the shared model had trained\n")
    for table in (byte_table(sent), label_table(found), weight_table(found), block_table(found)):
        print("\n".join(table), end="\n\n")
    print("\n".join(bars(found, sent)), end="\n\n")
    plain = taken["plain encode"]
    print("; ".join(f"{name} {s:.3f} s ({s / plain:.1f} x plain)" for name, s in taken.items()))
    if arguments.json:
        report = {"bytes": sent, "seconds": taken, "seeds": found}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
