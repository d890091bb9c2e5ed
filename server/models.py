"""The models of a run on disk: safetensors beside one JSON that says how to use them, and a model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from collab.fusion.pool import PoolState, pool_from_arrays, pool_to_arrays
from protocol.arrays import Arrays
from protocol.bounds import Frozen, Name
from protocol.codec import decode, encode
from protocol.errors import ConsiliumError, DataError
from protocol.fusing import FINAL, Candidate
from protocol.messages import Subtask
from protocol.parts import SettledModel
from protocol.records import MAX_ARRAY_BYTES
from server.finale import Outcome
from server.record import Record

CARD = "README.md"
MANIFEST = "model.json"
FUSION = "_fusion"


class Pool(Frozen):
    """A site's deployed pool: its local model's share, the log ratio of its class prior, two temperatures."""

    mixing: float = Field(ge=0, le=1)
    log_prior_ratio: tuple[float, ...] | None = None
    local_temperature: float = Field(1.0, gt=0)
    final_temperature: float = Field(1.0, gt=0)


class Manifest(Frozen):
    """How the safetensors files of one subtask make one prediction.

    ``settled`` is how subtasks that come after this one take its final model; None where none does.
    """

    subtask: Subtask
    rule: Name
    candidates: tuple[Candidate, ...]
    pools: dict[Name, Pool] = {}
    settled: SettledModel | None = None


def write_models(
    folder: Path,
    subtask: Subtask,
    outcome: Outcome,
    summary: Mapping[str, Any],
    settled: SettledModel | None,
    record: Record,
) -> None:
    """Write ``models/SUBTASK/``: one safetensors file a candidate, the fusion's state, manifest and card."""
    target = _made(folder, subtask.name, record)
    if not outcome.candidates:
        return
    for candidate in outcome.candidates:
        record.write(target / f"{candidate.name}.safetensors", encode(outcome.models[candidate.name]))
    record.write(target / f"{FUSION}.safetensors", encode(outcome.state))
    manifest = Manifest(
        subtask=subtask,
        rule=outcome.rule,
        candidates=outcome.candidates,
        pools=_pools(outcome, subtask),
        settled=settled,
    )
    record.write(target / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    record.write(target / CARD, _card(manifest, summary).encode())


def keep_reached(folder: Path, subtask: str, arrays: Arrays, record: Record) -> None:
    """Write the final model of a subtask whose run was stopped: its arrays alone, as nobody measured it."""
    record.write(_made(folder, subtask, record) / f"{FINAL}.safetensors", encode(arrays))


def _made(folder: Path, name: str, record: Record) -> Path:
    """Return the folder ``models/NAME/``, which is there then."""
    target = folder / "models" / name
    record.make_folder(target)
    return target


def read_manifest(folder: Path, subtask: str) -> Manifest:
    """Return the manifest of a run's subtask; ``DataError`` names what is there where it is missing."""
    path = folder / "models" / subtask / MANIFEST
    if not path.is_file() and path.parent.is_dir():
        raise DataError(f"{folder}: subtask '{subtask}' left no model here: there is no global one")
    if not path.is_file():
        there = sorted(p.parent.name for p in folder.glob(f"models/*/{MANIFEST}"))
        raise DataError(
            f"{folder}: no model for subtask '{subtask}'; there are: {', '.join(there) or 'none'}"
        )
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, ValueError):
        raise DataError(f"{path}: is not a manifest of this version") from None


def read_arrays(folder: Path, subtask: str, name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of one safetensors file of a run."""
    path = folder / "models" / subtask / f"{name}.safetensors"
    try:
        return decode(path.read_bytes(), MAX_ARRAY_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def write_state(folder: Path, whole: str, state: Arrays, record: Record) -> None:
    """Write what the fusion of a whole needs beside its parts' models, if anything, to ``models/WHOLE/``."""
    if state:
        record.write(_made(folder, whole, record) / f"{FUSION}.safetensors", encode(state))


def read_upstream(
    folder: Path, names: Iterable[str]
) -> dict[str, tuple[SettledModel, dict[str, NDArray[Any]]]]:
    """Return how the final models of these upstream subtasks are taken, and their arrays.

    Raises:
        DataError: the run left no such model, or none that others came after.
    """
    found = {}
    for name in names:
        settled = read_manifest(folder, name).settled
        if settled is None:
            raise DataError(f"{folder}: subtask '{name}' left no model that others came after")
        found[name] = (settled, read_arrays(folder, name, FINAL))
    return found


def _pools(outcome: Outcome, subtask: Subtask) -> dict[str, Pool]:
    pools = {}
    for site, methods in outcome.sites.items():
        try:
            state = pool_from_arrays(methods.get("pool", {}), subtask.outputs)
        except ConsiliumError:
            continue  # the site keeps its pool to itself
        ratio = state.log_prior_ratio_C
        pools[site] = Pool(
            mixing=state.mixing,
            log_prior_ratio=None if ratio is None else tuple(np.asarray(ratio).tolist()),
            local_temperature=state.local_temperature,
            final_temperature=state.final_temperature,
        )
    return pools


def pool_arrays(pool: Pool) -> Arrays:
    """Return a pool of a manifest as the arrays that ``collab.fusion.pool`` reads."""
    ratio_C = None if pool.log_prior_ratio is None else np.asarray(pool.log_prior_ratio, dtype=np.float64)
    return pool_to_arrays(PoolState(pool.mixing, ratio_C, pool.local_temperature, pool.final_temperature))


def _card(manifest: Manifest, summary: Mapping[str, Any]) -> str:
    subtask = manifest.subtask
    entry = summary["subtasks"][subtask.name]
    weights = "\n".join(f"| {name} | {weight:.3f} |" for name, weight in entry["fusion"]["weights"].items())
    labels = (
        ", ".join(subtask.labels) if isinstance(subtask.labels, tuple) else str(subtask.labels or "a number")
    )
    metric, after = entry["metric"], ", ".join(one.name for one in subtask.upstream if one.direct)
    upstream = (
        f"\n- **Reads what these predict**: the final models of {after}, which lie beside it."
        if after
        else ""
    )
    return f"""# {subtask.name}

{subtask.kind.replace("_", " ").capitalize()}, made by the collaboration `{summary["name"]}` in run
`{summary["run_id"]}` (seed {summary["seed"]}, {summary["rounds"]} rounds, exchange: {entry["exchange"]}).

- **Predicts**: {labels}.
- **Trained on**: rows of {len(entry["models"])} sites, which stayed there:
  {", ".join(sorted(entry["models"]))}.{upstream}
- **Measured on the sites' test rows** ({metric}): final model {_figure(entry["collaboration"]["global"])},
  fused {_figure(entry["fusion"]["global"])}, at the sites (own) {_figure(entry["collaboration"]["own"])}.
- **Not meant for**: decisions without a person, or populations unlike the sites'.

| candidate | fusion weight ({manifest.rule}) |
|---|---|
{weights}

Use: `consilium predict RUN_DIR {subtask.name} --input new.csv`. Files: one safetensors a candidate,
`model.json` with the preprocessing, which was fitted on all sites' train rows.
"""


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
