"""Fed-Heart by modality: a model each of history, laboratory, ecg and scan, against one of all columns.

Run: python simulations/benchmarks/modality.py [--seeds 5] [--json FILE]

Both arms have the same hospitals, rows, split, rounds and model family; the one model imputes what is
missing with the federated means (a missing category is none of them). Learning rates are chosen on
validation log loss with equal trials: one for the one model, one a modality. Both final models are
calibrated. Prints, as Markdown, test rows of all hospitals, mean ± standard deviation over seeds, and the
paired difference with its standard error over seeds. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from server.environment import be_quiet

be_quiet()

from collab.metrics import LOWER_IS_BETTER  # noqa: E402 - Flower reads the environment at its import
from collab.settings import parse, parse_toml, read_text  # noqa: E402
from simulations.simulate import Order, ready, scenario_path, simulate  # noqa: E402

RATES = (0.01, 0.03, 0.1)
FAMILIES = ("linear", "mlp_small")
METRICS = ("log_loss", "accuracy", "auroc")
WHOLE = "heart"

Tables = dict[str, Any]


def tables(seed: int, family: str, rate: float) -> Tables:
    """Return the scenario's tables with this seed, model and learning rate."""
    path = scenario_path("heart_modality")
    made = parse_toml(read_text(path), str(path))
    made["seed"] = seed
    made["subtasks"][WHOLE]["models"] = [family]
    made["subtasks"][WHOLE]["train"]["lr"] = rate
    return made


def run(made: Tables) -> Tables:
    """Return the summary of one run without baselines."""
    base = scenario_path("heart_modality").parent
    with TemporaryDirectory() as folder:
        collaboration = ready(parse(made, "heart_modality"), base)
        return simulate(collaboration, Order("r", Path(folder), baselines=False), lambda _: None)


def best_rate(summaries: Mapping[float, Tables], subtask: str) -> float:
    """Return the rate with the lowest log loss on validation rows after the last round."""
    losses = {rate: float(s["subtasks"][subtask]["curve"][-1]["value"]) for rate, s in summaries.items()}
    return min(losses, key=losses.__getitem__)


def one_model(seed: int, family: str) -> Tables:
    """Return the figures of one model of all columns, at the rate that is best on validation."""
    found = {}
    for rate in RATES:
        made = tables(seed, family, rate)
        del made["decomposition"]
        found[rate] = run(made)
    best = best_rate(found, WHOLE)
    return {"rate": best, "test": _chosen(found[best]["subtasks"][WHOLE]["fusion"]["metrics"])}


def by_modality(seed: int, family: str) -> Tables:
    """Return the figures of the product of modalities, each at its own best rate."""
    found = {rate: run(tables(seed, family, rate)) for rate in RATES}
    made = tables(seed, family, RATES[0])
    modalities = made["decomposition"][WHOLE]["modalities"]
    rates = {part: best_rate(found, f"{WHOLE}-{part}") for part in modalities}
    train = made["subtasks"][WHOLE]["train"]
    made["decomposition"][WHOLE]["parts"] = {p: {"train": {**train, "lr": r}} for p, r in rates.items()}
    whole = run(made)["decompositions"][WHOLE]
    shown = {key: whole[key] for key in ("alone", "best_alone", "rows", "prior", "sites")}
    return {"rates": rates, "test": _chosen(whole["metrics"]), **shown}


def _chosen(found: Mapping[str, float]) -> dict[str, float]:
    return {metric: found[metric] for metric in METRICS}


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation over seeds."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def paired(differences: Sequence[float], metric: str) -> str:
    """Return the mean difference, its standard error over seeds, and whether it is a gain."""
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    better = -mean if metric in LOWER_IS_BETTER else mean
    verdict = "better" if better > 2 * error else "worse" if better < -2 * error else "even"
    return f"{mean:+.3f} ± {error:.3f} | {verdict}"


def rows(seeds: Sequence[Tables]) -> Iterator[str]:
    """Yield the tables: both arms, then each modality alone."""
    yield "| family, metric | product of modalities | one model, all columns | difference, ± s.e. | |"
    yield "|---|---|---|---|---|"
    for family in FAMILIES:
        for metric in METRICS:
            split, one = ([s[family][arm]["test"][metric] for s in seeds] for arm in ("modality", "one"))
            apart = [a - b for a, b in zip(split, one, strict=True)]
            yield f"| {family}, {metric} | {spread(split)} | {spread(one)} | {paired(apart, metric)} |"
    yield ""
    yield "| log loss of a modality alone, on the same rows | linear | mlp_small | rows that have it |"
    yield "|---|---|---|---|"
    for part in seeds[0]["linear"]["modality"]["alone"]:
        alone = [spread([s[family]["modality"]["alone"][part] for s in seeds]) for family in FAMILIES]
        count = statistics.mean(s["linear"]["modality"]["rows"][part] for s in seeds)
        yield f"| {part} | {alone[0]} | {alone[1]} | {count:.0f} |"


def main() -> None:
    """Run all seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write all figures of all seeds here")
    arguments = parser.parse_args()
    found = [
        {"seed": seed} | {f: {"modality": by_modality(seed, f), "one": one_model(seed, f)} for f in FAMILIES}
        for seed in range(1, arguments.seeds + 1)
    ]
    print(f"Fed-Heart by modality, {arguments.seeds} seeds, test rows of four hospitals, mean ± sd\n")
    print("\n".join(rows(found)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
