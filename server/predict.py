"""The overall task's answer for new rows: the fused model of a run, or what one site deploys."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from collab.calibration import apply_temperature
from collab.collaboration import Collaboration, named_kind
from collab.data.config import DataConfig
from collab.data.examples import select
from collab.data.formats import holds_any, load_inputs
from collab.data.preprocess import Preprocessing
from collab.decomposition.chain import inputs
from collab.decomposition.modality import present
from collab.decomposition.modality_terms import ModalityTerms
from collab.decomposition.whole import fuse
from collab.fusion.pool import apply_pool, pool_from_arrays
from collab.kinds.contract import Kind
from collab.models.contract import build, from_arrays, to_arrays
from collab.plugins import load, unknown
from collab.settings import parse, parse_toml, read_text
from collab.training import predict as model_outputs
from protocol.arrays import check, spec_of
from protocol.errors import DataError
from protocol.fusing import FINAL, Candidate
from server.federation import COLLABORATION
from server.models import FUSION, MANIFEST, Manifest, pool_arrays, read_arrays, read_manifest, read_upstream


@dataclass(frozen=True)
class Predictions:
    """Probabilities [N, C] with their labels, or values [N, 1]."""

    outputs_NK: NDArray[np.float64]
    labels: tuple[str, ...] | None

    def records(self) -> list[dict[str, Any]]:
        """Return one dictionary a row: the prediction, and the probability of each label."""
        if self.labels is None:
            return [{"prediction": float(row[0])} for row in self.outputs_NK]
        return [
            {"prediction": self.labels[int(row.argmax())]}
            | {f"p({label})": float(p) for label, p in zip(self.labels, row, strict=True)}
            for row in self.outputs_NK
        ]

    def csv(self) -> str:
        """Return the records as CSV text with a header."""
        columns = ["prediction", *(f"p({label})" for label in self.labels or ())]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for record in self.records():
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in record.items()})
        return text.getvalue()


def predict(folder: Path, subtask: str, source: Path, site: str | None = None) -> Predictions:
    """Predict the rows of ``source`` with the models that a run left in ``folder``.

    ``subtask`` may be a whole that was taken apart: then its parts' final models answer together.

    Raises:
        DataError: the run has no such model, the site's own is not here, or the rows lack a column.
    """
    # A whole has no models of its own: only where there are none is it looked for.
    if not (folder / "models" / subtask / MANIFEST).is_file() and (folder / COLLABORATION).is_file():
        collaboration = _collaboration(folder)
        if subtask in collaboration.wholes:
            return _whole(folder, collaboration, subtask, source, site)
    manifest = read_manifest(folder, subtask)
    x = _inputs(folder, manifest, source)
    kind = named_kind(manifest.subtask.kind)
    if site is None:
        outputs_MNK = np.stack([_calibrated(folder, manifest, c, x, kind) for c in manifest.candidates])
        state = read_arrays(folder, subtask, "_fusion")
        outputs_NK = load("fusion", manifest.rule).apply(outputs_MNK, state)
    else:
        outputs_NK = _deployed(folder, manifest, site, x, kind)
    labels = manifest.subtask.labels
    if kind.output == "value":
        return Predictions(outputs_NK, None)
    names = labels if isinstance(labels, tuple) else tuple(map(str, range(manifest.subtask.outputs)))
    return Predictions(outputs_NK, names)


def _inputs(folder: Path, manifest: Manifest, source: Path) -> torch.Tensor:
    """Return the preprocessed rows of ``source``, with what upstream models predict of them."""
    subtask = manifest.subtask
    config = _data_config(folder, subtask.name)
    above = read_upstream(folder, [one.name for one in subtask.upstream])
    arrays = {name: found for name, (_, found) in above.items()}
    return torch.as_tensor(inputs(subtask, lambda wanted: load_inputs(source, config, wanted), arrays))


def _whole(
    folder: Path, collaboration: Collaboration, name: str, source: Path, site: str | None
) -> Predictions:
    """Return the fused answer of a decomposition, made as it was measured: of the parts' final models."""
    if site is not None:
        raise DataError(f"'{name}' is answered by its parts' final models, the same at all sites: no --site")
    terms, found = collaboration.wholes[name], {}
    for part, subtask in collaboration.parts_of(name).items():
        manifest = read_manifest(folder, subtask)
        finals = [c for c in manifest.candidates if c.name == FINAL]
        if not finals:
            raise DataError(f"{folder}: '{name}' cannot answer: its part '{subtask}' left no final model")
        said = _part(folder, manifest, finals[0], source)
        if said is not None:
            found[part] = said
    if not found:
        raise DataError(f"{source.name}: has none of the modalities of '{name}'")
    rows = {len(said_NC) for said_NC in found.values()}
    if len(rows) > 1:
        raise DataError(f"{source.name}: its modalities have different numbers of rows: {sorted(rows)}")
    missing_NC = np.full((rows.pop(), len(terms.labels)), np.nan)
    by_modality = isinstance(terms, ModalityTerms)
    has_state = by_modality or (folder / "models" / name / f"{FUSION}.safetensors").is_file()
    state = read_arrays(folder, name, FUSION) if has_state else {}
    said_by_part = {part: found.get(part, missing_NC) for part in terms.names} if by_modality else found
    return Predictions(fuse(terms, said_by_part, state), terms.labels)


def _part(folder: Path, manifest: Manifest, candidate: Candidate, source: Path) -> NDArray[np.float64] | None:
    """Return what a part says of each new row, NaN of one that lacks its modality; None if all do."""
    subtask, view = manifest.subtask, manifest.subtask.part
    preprocessing = Preprocessing.model_validate_json(str(subtask.preprocessing))
    config, kind = _data_config(folder, subtask.name), named_kind(subtask.kind)
    is_modality = view is not None and view.is_modality
    if is_modality and not holds_any(source, config, preprocessing):
        return None
    rows = load_inputs(source, config, preprocessing)
    if is_modality:
        rows = select(rows, preprocessing.numeric_names, preprocessing.categorical_names)
    present_N = present(rows) if is_modality else np.ones(len(rows), dtype=np.bool_)
    said_NC = np.full((len(rows), subtask.outputs), np.nan)
    if present_N.any():
        x = torch.as_tensor(preprocessing.transform(rows.take(present_N)))
        said_NC[present_N] = _calibrated(folder, manifest, candidate, x, kind)
    return said_NC


def _deployed(
    folder: Path, manifest: Manifest, site: str, x: torch.Tensor, kind: Kind
) -> NDArray[np.float64]:
    candidates = {c.name: c for c in manifest.candidates}
    if FINAL not in candidates and site in candidates:  # no global model: a site deploys its own
        return _outputs(folder, manifest, candidates[site], x, kind)
    if site not in manifest.pools or FINAL not in candidates:
        raise DataError(unknown(f"site '{site}' with a deployed pool in this run", site, manifest.pools))
    pool = pool_from_arrays(pool_arrays(manifest.pools[site]), manifest.subtask.outputs)
    if pool.mixing > 0 and site not in candidates:
        raise DataError(f"the own model of '{site}' stayed at the site: ask there, or leave out --site")
    final_NK = _outputs(folder, manifest, candidates[FINAL], x, kind)
    local_NK = _outputs(folder, manifest, candidates[site], x, kind) if pool.mixing > 0 else None
    return apply_pool(local_NK, final_NK, pool, kind.task)


def _calibrated(
    folder: Path, manifest: Manifest, candidate: Candidate, x: torch.Tensor, kind: Kind
) -> NDArray[np.float64]:
    """Return a candidate's outputs as a fusion takes them: classes at the candidate's temperature."""
    outputs_NK = _outputs(folder, manifest, candidate, x, kind)
    return apply_temperature(outputs_NK, candidate.temperature) if kind.output == "classes" else outputs_NK


def _outputs(
    folder: Path, manifest: Manifest, candidate: Candidate, x: torch.Tensor, kind: Kind
) -> NDArray[np.float64]:
    shape = tuple(x.shape[1:])
    module = build(candidate.model, shape, manifest.subtask.outputs, seed=0)
    arrays = read_arrays(folder, manifest.subtask.name, candidate.name)
    check(arrays, spec_of(to_arrays(module)))
    from_arrays(module, arrays)
    return model_outputs(module, x, kind)


def _data_config(folder: Path, subtask: str) -> DataConfig:
    """Return the data block that the model was trained with."""
    collaboration = _collaboration(folder)
    name = str(collaboration.subtasks[subtask].data)
    return collaboration.data.get(name) or DataConfig(format="csv", path="-", target="-")


def _collaboration(folder: Path) -> Collaboration:
    path = folder / COLLABORATION
    return parse(parse_toml(read_text(path), str(path)), str(path))
