"""Negative controls: where there is nothing to gain, nothing must be found.

Run: python simulations/benchmarks/negative_controls.py [--seeds 3] [--json PATH]

On scikit-learn's digits. IID sites: what collaborating gains beside what it gains under label skew.
Identical sites: equal fusion weights, up to the rounding that their own orders of rows leave in their
models, and class counts that say no more than a mean. A public set of noise, or of black images: is the
student refused, and what is left of own? One subtask, everyone, fedavg: the parameters of a loop by
hand. Prints Markdown, mean ± sd over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.environment import be_quiet

be_quiet()

import torch  # noqa: E402 - Flower reads the environment at its import
from flwr.app import RecordDict  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from clients.app import app as client_app  # noqa: E402
from clients.site import from_scenario  # noqa: E402
from clients.state import SiteState  # noqa: E402
from clients.weights import train_weights  # noqa: E402
from clients.work import Desk  # noqa: E402
from collab.collaboration import Collaboration, models_of  # noqa: E402
from collab.data.preprocess import Preprocessing, measure, merge  # noqa: E402
from collab.fusion.least_squares import RIDGE  # noqa: E402
from collab.models.contract import to_arrays  # noqa: E402
from collab.settings import parse  # noqa: E402
from protocol.messages import Assignment, Subtask  # noqa: E402
from server.description import describe  # noqa: E402
from server.federation import Terms, federate, to_toml  # noqa: E402
from simulations.benchmarks import control_cases as cases  # noqa: E402
from simulations.local_engine import run_locally  # noqa: E402
from simulations.simulate import ready  # noqa: E402

Figures = dict[str, Any]
Tables = dict[str, Any]

NAME: Final = "digits"
PUBLIC: Final = 300
LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "iid": "digits, IID",
        "skewed": "digits, Dirichlet 0.1",
        "noise": "noise, Dirichlet 0.1",
        "black": "black images, Dirichlet 0.1",
    }
)
# Sites that are alike still sum their rows in their own order: their models differ by the rounding of
# float32, and the ridge that makes the weights unique lets so much more of it through.
EQUAL: Final = float(np.finfo(np.float32).eps) / RIDGE


def run(tables: Tables, folder: Path, *, baselines: bool = False) -> tuple[Tables, Tables]:
    """Return a run's summary and its subtask's entry; its folder is ``folder``/run."""
    collaboration, found = ready(parse(tables, "control"), folder), list[Tables]()

    def serve(grid: Grid) -> None:
        terms = Terms("run", folder / "run", "simulated", "local", baselines=baselines)
        found.append(federate(grid, collaboration, terms, lambda _: None))

    config = {"collaboration": to_toml(collaboration)}
    run_locally(serve, client_app, num_nodes=len(collaboration.sites), run_config=config)
    return found[0], found[0]["subtasks"][NAME]


def gains(seed: int, alpha: float | None, rounds: int, public: str | None = None) -> Figures:
    """Return what the sites have together and alone; ``public`` names a set that holds no digits."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases.images(folder, seed, noise=PUBLIC)
        source: Tables = {"data": public} if public else {"holdout": PUBLIC}
        tables = cases.federation(folder, seed, alpha, source, rounds)
        summary, entry = run(tables, folder, baselines=True)
    alone = entry["baselines"]["local_mean"]
    return {
        "global": entry["collaboration"]["global"],
        "own": entry["collaboration"]["own"],
        "alone_global": alone["global"],
        "alone_own": alone["own"],
        "student": entry["student"],
        "notes": summary["notes"],
    }


def identical(seed: int, sites: int = 3, rows: int = 400) -> Figures:
    """Return how far apart the fusion weights of sites with the same rows are."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases.copies(folder, sites, rows)
        tables = cases.identical(folder, seed, sites)
        _, entry = run(tables, folder)
        weights = entry["fusion"]["weights"]
        soft = _with_soft_labels(tables, rule="class_counts")
        _, counted = run(soft, folder / "counted")
        _, averaged = run(_with_soft_labels(tables, rule="mean_probability"), folder / "averaged")
    own = [w for name, w in weights.items() if name in tables["sites"]]
    return {
        "weights": weights,
        "weights_apart": max(own) - min(own),
        "class_counts": counted["collaboration"]["global"],
        "mean_probability": averaged["collaboration"]["global"],
        "curves_apart": max(
            abs(a["value"] - b["value"]) for a, b in zip(counted["curve"], averaged["curve"], strict=True)
        ),
    }


def _with_soft_labels(tables: Tables, rule: str) -> Tables:
    subtask = {
        **tables["subtasks"][NAME],
        "exchange": "soft_labels",
        "soft_labels": {"combine": rule, "public": {"data": "inputs"}},
        "distillation": {"epochs": 5, "sharpen": "none"},
    }
    source = {"format": "csv", "path": tables["data"][NAME]["path"], "drop": ["digit", "site", "side"]}
    return {**tables, "subtasks": {NAME: subtask}, "data": {**tables["data"], "inputs": source}}


def fedavg(seed: int, rounds: int = 3) -> Figures:
    """Return the largest difference of a run's parameters to those by hand, and how far these went."""
    tables = cases.plain(seed, rounds)
    with TemporaryDirectory() as scratch:
        run(tables, Path(scratch))
        found = load_file(Path(scratch) / "run" / "models" / NAME / "final.safetensors")
    start, expected = by_hand(ready(parse(tables, "control"), Path()), rounds)
    return {
        "apart": max(float(np.abs(found[n] - a).max()) for n, a in expected.items()),
        "moved": max(float(np.abs(start[n] - a).max()) for n, a in expected.items()),
    }


def by_hand(
    collaboration: Collaboration, rounds: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the first and the last parameters of FedAvg: sites train one after the other, then a mean."""
    desks = _desks(collaboration)
    model = models_of(collaboration.subtasks[NAME])[0].name
    arrays = start = to_arrays(next(iter(desks.values())).fresh(model))
    sizes = {site: len(desk.raw().train) for site, desk in desks.items()}
    total = sum(sizes.values())
    for round_ in range(1, rounds + 1):
        sums = {name: np.zeros(a.shape) for name, a in arrays.items()}
        for site, desk in desks.items():
            asked = Assignment(run="hand", round=round_, subtask=desk.subtask, site=site, model=model)
            for name, array in train_weights(desk, asked, arrays)[1].items():
                sums[name] += array.astype(np.float64) * (sizes[site] / total)
        arrays = {name: total_.astype(arrays[name].dtype) for name, total_ in sums.items()}
    return start, arrays


def _desks(collaboration: Collaboration) -> dict[str, Desk]:
    def at(site: str, subtask: Subtask) -> Desk:
        return Desk(from_scenario(collaboration, site), SiteState(RecordDict()), subtask)

    subtask = describe(collaboration, NAME)
    names = collaboration.sites_of(NAME)
    statistics_ = merge([measure(at(site, subtask).raw().train) for site in names])
    fitted = subtask.model_copy(update={"preprocessing": Preprocessing.fit(statistics_).model_dump_json()})
    return {site: at(site, fitted) for site in names}


def controls(seeds: Iterable[int], rounds: int = 2) -> dict[str, list[Figures]]:
    """Return the figures of every control, a seed each."""
    made: Mapping[str, Callable[[int], Figures]] = {
        "iid": lambda seed: gains(seed, None, rounds),
        "skewed": lambda seed: gains(seed, 0.1, rounds),
        "noise": lambda seed: gains(seed, 0.1, rounds, "noise"),
        "black": lambda seed: gains(seed, 0.1, rounds, "black"),
        "identical": identical,
        "fedavg": fedavg,
    }
    numbers = list(seeds)
    return {name: [one(seed) for seed in numbers] for name, one in made.items()}


def lines(found: Mapping[str, list[Figures]]) -> list[str]:
    """Return what is printed."""
    text = [
        "| public set, sites | global | − alone | own | − alone | students accepted |",
        "|---|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        rows = found[name]
        cells = [_spread(r[key] for r in rows) for key in ("global", "own")]
        more = [_gain(rows, key) for key in ("global", "own")]
        accepted = f"{sum(r['student']['accepted'] for r in rows)} of {len(rows)}"
        text.append(f"| {label} | {cells[0]} | {more[0]} | {cells[1]} | {more[1]} | {accepted} |")
    apart = max(r["weights_apart"] for r in found["identical"])
    curves = max(r["curves_apart"] for r in found["identical"])
    hand, moved = (max(r[key] for r in found["fedavg"]) for key in ("apart", "moved"))
    return [
        *text,
        "",
        "| control | found | wanted |",
        "|---|---|---|",
        f"| identical sites: least-squares weights apart | {apart:.1e} | ≤ {EQUAL:.1e} |",
        f"| identical sites: class_counts against mean_probability, each round | {curves:.1e} | 0 |",
        f"| one subtask, everyone: apart from FedAvg by hand | {hand:.1e} (moved {moved:.2f}) | ≤ 1e-5 |",
    ]


def _spread(values: Iterable[float | None]) -> str:
    known = [100 * v for v in values if v is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.1f} ± {statistics.stdev(known) if len(known) > 1 else 0:.1f}"


def _gain(rows: Iterable[Figures], key: str) -> str:
    return _spread(r[key] - r[f"alone_{key}"] for r in rows if r[key] is not None)


def main() -> None:
    """Run the controls and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    found = controls(range(1, arguments.seeds + 1))
    print(f"Digits, six sites, seeds 1 to {arguments.seeds}, accuracy in %, mean ± sd\n")
    print("\n".join(lines(found)))
    print(f"\n{time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
