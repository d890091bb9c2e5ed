"""A deployed site's files, and the messages of a few rounds over them. Not a test."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from PIL import Image

from clients.site import from_file
from collab.collaboration import named_kind
from collab.data.preprocess import Preprocessing, measure, merge
from collab.models.contract import build, to_arrays
from collab.rng import derive
from protocol.arrays import Arrays, digest
from protocol.bounds import Frozen
from protocol.messages import Assignment, EvaluationRequest, Subtask, SubtaskQuery
from protocol.quantise_labels import encode_soft_labels
from protocol.records import pack

CLASSES: dict[str, Any] = {"labels": ("no", "yes"), "outputs": 2, "metric": "log_loss", "seed": 3}
# With a stated speed a cold site measures nothing, which takes a fifth of a second a message.
STATED: dict[str, Any] = {"device": "cpu", "memory_mib": 512, "examples_per_s": 1000}
TRAIN = {"optimizer": "adam", "lr": 0.02, "batch_size": 8, "local_epochs": 2}
RISK = Subtask(
    name="risk", data="risk", kind="tabular_classification", exchange="weights", train=TRAIN, **CLASSES
)  # fmt: skip
NOTES = RISK.model_copy(update={"name": "notes", "data": "notes", "kind": "text_classification"})
SCANS = RISK.model_copy(update={"name": "scans", "data": "scans", "kind": "image_classification"})
PROTOTYPES = RISK.model_copy(update={"exchange": "prototypes"})
OPINIONS = RISK.model_copy(update={"exchange": "soft_labels", "asks": ("accuracy",), "selective": 0.25})
MODELS = {"scans": "cnn_small"}


def write_table(path: Path, rows: int = 60, seed: int = 1) -> None:
    """Write numbers with gaps, a category, and an outcome that follows from both."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "dose", "sex", "y"])
        for i in range(rows):
            age, dose, sex = rng.normal(50, 9), rng.normal(), rng.choice(["f", "m"])
            label = ("no", "yes")[int(age + 9 * dose > 50)]
            writer.writerow(["" if i % 9 == 0 else f"{age:.2f}", f"{dose:.4f}", sex, label])


def write_site(folder: Path, **changes: Any) -> Path:
    """Write a site's rows and its site.toml; return the path of that."""
    write_table(folder / "rows.csv")
    write_table(folder / "public.csv", rows=30, seed=2)
    _write_texts(folder / "notes.csv")
    _write_images(folder / "scans")
    table = {"format": "csv", "target": "y", "categorical": ["sex"]}
    site: dict[str, Any] = {
        "name": "north",
        "data": {
            "risk": {"path": "rows.csv", **table},
            "risk-public": {"path": "public.csv", **table},
            "notes": {"format": "text", "path": "notes.csv", "grams": {"buckets": 64}},
            "scans": {"format": "images", "path": "scans", "size": [8, 8], "mode": "L"},
            "sex": {"format": "csv", "path": "rows.csv", "target": "sex", "features": ["dose"]},
            "outcome": {"format": "csv", "path": "rows.csv", "target": "y", "features": ["dose"]},
        },
        "limits": {"device": "cpu", "memory_mib": 512},
    }
    path = folder / "site.toml"
    path.write_text(tomlkit.dumps(site | changes), encoding="utf-8")
    return path


def _write_texts(path: Path) -> None:
    rng = np.random.default_rng(5)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(40):
            words = rng.choice(["ill", "pain", "fever"] if i % 2 else ["well", "fine", "calm"], size=4)
            writer.writerow([" ".join(words.tolist()), ("no", "yes")[i % 2]])


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(6)
    for i in range(40):
        place = folder / ("no", "yes")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, size=(8, 8), dtype=np.uint8) + np.uint8(90 * (i % 2))
        Image.fromarray(pixels).save(place / f"{i}.png")


def ready(subtask: Subtask, path: Path) -> Subtask:
    """Return the subtask as it is once the server has merged the statistics."""
    custody = from_file(path).custody
    preprocessing = Preprocessing.fit(merge([measure(custody.rows(subtask).train)]))
    update: dict[str, Any] = {"preprocessing": preprocessing.model_dump_json()}
    if subtask.exchange == "soft_labels":
        update["public_digest"] = digest({"x": preprocessing.transform(custody.public(subtask))})
    return subtask.model_copy(update=update)


@dataclass
class Node:
    """One node: its app, and what Flower keeps for it."""

    app: ClientApp
    site: Path
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        config: dict[str, Any] = {"site": str(self.site)}
        self.context = Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})

    def ask(self, message_type: str, request: Frozen, arrays: Arrays | None = None) -> RecordDict:
        """Return what the node answers."""
        message = Message(pack(request, arrays), 1, message_type)
        message.metadata.__dict__["_message_id"] = "1"
        return self.app(message, self.context).content


def first(subtask: Subtask) -> dict[str, Any]:
    """Return the arrays that every party starts from."""
    model = MODELS.get(subtask.name, "mlp_small")
    shape = Preprocessing.model_validate_json(subtask.preprocessing or "").input_shape
    seed = derive(subtask.seed, subtask.name, model, "initial")
    assert named_kind(subtask.kind).outputs(subtask.labels) == subtask.outputs
    return to_arrays(build(model, shape, subtask.outputs, seed))


def rounds(node: Node, subtask: Subtask, count: int = 2) -> Iterator[dict[str, Any]]:
    """Have the node work ``count`` rounds; yield the bits of each answer."""
    model = MODELS.get(subtask.name, "mlp_small")
    told: dict[str, Any] = {"run": "r", "subtask": subtask, "site": "north", "model": model}
    yield bits(node.ask("query.summary", SubtaskQuery(subtask=subtask)))
    arrays = first(subtask)
    shared = {} if subtask.exchange != "weights" else arrays
    for round_ in range(1, count + 1):
        assigned = Assignment(round=round_, **told)
        yield bits(node.ask(f"train.{subtask.exchange}", assigned, shared))
        asked = EvaluationRequest(round=round_, **told)
        yield bits(node.ask("evaluate.local", asked))
        yield bits(node.ask("evaluate.model", asked, arrays))
        if subtask.exchange == "soft_labels":
            soft_NC = np.full((30, subtask.outputs), 0.5, dtype=np.float32)
            soft = encode_soft_labels(soft_NC, subtask.wire.form, subtask.wire.top_k)
            yield bits(node.ask("evaluate.digest", asked, soft))
    last = Assignment(round=0, budget=count, **told)
    yield bits(node.ask("train.alone", last))
    yield bits(node.ask("train.finish", last, shared))
    yield bits(node.ask("evaluate.local", EvaluationRequest(round=0, rows="test", **told)))


def bits(content: RecordDict) -> dict[str, Any]:
    """Return all that an answer says, arrays as their bytes."""
    return {
        name: {key: (array.dtype, array.shape, array.data) for key, array in record.items()}
        if isinstance(record, ArrayRecord)
        else dict(record)
        for name, record in content.items()
    }
