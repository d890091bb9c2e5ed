"""Write the README's tables from the benchmarks' JSON in docs/results/, each between its two marks.

Run: python simulations/benchmarks/readme_tables.py [--check]

Figures are copied, never typed: a test fails where the README and the JSON differ.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from simulations.benchmarks import allocation_tables, clinic_seeds
from simulations.benchmarks.allocation_measures import final_shares, kaplan_meier, minimum_auc, reached

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"

Json = Any

_LADDER = (
    *("mean_logit", "majority_vote", "mean_probability", "entropy_weighted"),
    *("variance_weighted", "class_counts", "class_least_squares"),
)
# Of the same experiment on MNIST, measured before this project; other data, so only the order compares.
_MNIST = {
    "mean_logit": "28.9",
    "majority_vote": "79.1",
    "mean_probability": "81.4",
    "entropy_weighted": "83.8",
    "variance_weighted": "83.1",
    "class_counts": "88.8",
    "class_least_squares": "87.7",
}
_SCALE: Sequence[tuple[str, Callable[[Json], float], str]] = (
    ("a site alone", lambda s: s["alone"]["global"], "32.6"),
    ("average of parameters", lambda s: s["parameter_average"]["global"], "30.2"),
    ("FedAvg, 5 rounds", lambda s: s["fedavg"]["5"]["global"], "66.1"),
    ("FedAvg, 10 rounds", lambda s: s["fedavg"]["10"]["global"], "78.8"),
    ("FedAvg, 20 rounds", lambda s: s["fedavg"]["20"]["global"], "86.4"),
    ("one model of all rows", lambda s: s["central"]["global"], "92.5"),
)
_HEART = (
    *("fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad"),
    *("fedavgm", "normal_equations", "median"),
)


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 3) -> str:
    """Return mean ± standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{scale * statistics.mean(values):.{digits}f} ± {scale * deviation:.{digits}f}"


def clinic(found: Json) -> Iterator[str]:
    """Yield the methods of the scenario `clinic`, then own - alone of each site."""
    yield "| subtask, metric | method | global | own |"
    yield "|---|---|---|---|"
    for subtask in found[0]["subtasks"]:
        yield from clinic_seeds.methods(found, subtask)
    yield ""
    yield "| subtask | site | own − alone, ± standard error | seeds | |"
    yield "|---|---|---|---|---|"
    for subtask in found[0]["subtasks"]:
        yield from clinic_seeds.gains(found, subtask)


def ladder(found: Json) -> Iterator[str]:
    """Yield the one-shot ladder: ensembles, and the students that they teach."""
    seeds = found["seeds"]
    yield f"| % on test, {len(seeds)} seeds | ensemble | student, soft | hard | auto | ensemble, MNIST |"
    yield "|---|---|---|---|---|---|"
    for rule in _LADDER:
        teachers = [s["teachers"]["all"][rule] for s in seeds]
        soft, hard = (_points([t["students"][k]["test"] for t in teachers]) for k in ("1", "hard"))
        auto = _points([t["students"][t["auto"]]["test"] for t in teachers])
        ensemble = _points([s["ensembles"]["all"][rule] for s in seeds])
        yield f"| {rule} | {ensemble} | {soft} | {hard} | {auto} | {_MNIST[rule]} |"
    for name, figure, mnist in _SCALE:
        yield f"| for scale: {name} | {_points([figure(s) for s in seeds])} | | | | {mnist} |"


def heart(found: Json) -> Iterator[str]:
    """Yield Fed-Heart: each rule at FLamby's rates beside what FLamby published, and tuned."""
    scores = {(s["name"], s["tuned"]): s["union"] for s in found["scores"] if _as_flamby(s)}
    published = found["published"]
    yield "| accuracy, 5 seeds | FLamby's rates | FLamby, published | tuned | − tuned fedavg, points |"
    yield "|---|---|---|---|---|"
    for rule in ("pooled", *_HEART):
        theirs = published.get(rule)
        tuned, difference = scores.get((rule, True)), found["minus_fedavg"].get(rule, {}).get("tuned")
        cells = [
            _flamby(scores[rule, False]),
            _flamby(theirs["union"]) if theirs else "",
            _flamby(tuned) if tuned else "",
            f"{difference['points']:+.1f} ± {difference['se_seeds']:.1f}" if difference else "",
        ]
        yield f"| {rule} | {' | '.join(cells)} |"


def wire(found: Json) -> Iterator[str]:
    """Yield what a contribution weighs on the wire."""
    sizes, kl = found["bytes"], _kl(found)
    weights = sizes["weights, fp32"]
    yield "| contribution | bytes | fewer than fp32 weights | KL to what was sent |"
    yield "|---|---|---|---|"
    for name, size in sizes.items():
        form = name.removeprefix("soft labels, ")
        yield f"| {name} | {size:,} | {weights / size:,.0f}x | {kl.get(form, '')} |"


def byzantine(found: Json) -> Iterator[str]:
    """Yield what attackers do to each rule: 8 of 20 sites, and what a rule costs where nobody attacks."""
    for exchange, attacks in _ATTACKS.items():
        yield f"| {exchange}, 8 of 20 attack | nobody | {' | '.join(attacks)} |"
        yield "|---|" + "---|" * (len(attacks) + 1)
        arms = [arm for seed in found["found"] if seed["exchange"] == exchange for arm in seed["arms"]]
        for rule in dict.fromkeys(arm["rule"] for arm in arms):
            cells = []
            for attack in ("none", *attacks):
                same = [a["found"] for a in arms if (a["rule"], a["attack"], a["f"]) == (rule, attack, 8)]
                known = [value for value in same if isinstance(value, float)]
                cells.append(_points(known) if known else "refused")
            yield f"| {rule} | {' | '.join(cells)} |"
        yield ""


_ATTACKS = {
    "weights": ("label_flip", "sign_flip", "alie"),
    "soft_labels": ("label_flip", "sign_flip", "alie", "soft_label_swap"),
}


def unlike(found: Json) -> Iterator[str]:
    """Yield the arms among unlike architectures: accuracy, and what they cost."""
    alphas = sorted({run["alpha"] for run in found["runs"]})
    heads = [f"{what}, {alpha:g}" for alpha in alphas for what in ("global", "own")]
    yield f"| accuracy in %, Dirichlet | {' | '.join(heads)} | MB, {alphas[0]:g} |"
    yield "|---|" + "---|" * (len(heads) + 1)
    for arm in dict.fromkeys(run["arm"] for run in found["runs"]):
        runs = {a: [r for r in found["runs"] if (r["arm"], r["alpha"]) == (arm, a)] for a in alphas}
        cells = []
        for alpha in alphas:
            for what in ("global", "own"):
                known = [r[what] for r in runs[alpha] if r[what] is not None]
                cells.append(_points(known) if known else "-")
        size = statistics.mean(r["totals"]["bytes"] / 1e6 for r in runs[alphas[0]])
        yield f"| {arm} | {' | '.join(cells)} | {size:.1f} |"


def _kl(found: Json) -> dict[str, str]:
    forms = {"fp16", "uint8", "topk"}
    values: dict[str, list[float]] = {form: [] for form in forms}
    for seed in found["seeds"]:
        for labels in seed["labels"].values():
            for form in forms:
                values[form].append(abs(labels[form]))
    return {form: f"{statistics.mean(v):.0e}" for form, v in values.items()}


def _as_flamby(score: Json) -> bool:
    return bool(score["test"] == "federated" and (score["train"] == "centre" or score["name"] == "pooled"))


def _flamby(values: Sequence[float]) -> str:
    """Return mean ± standard deviation as FLamby publishes it: divided by n."""
    return f"{statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}"


def _points(values: Sequence[float]) -> str:
    return spread(values, 100, 1)


def allocation(found: Json) -> Iterator[str]:
    """Yield the policies on the simulated clock: time to all targets, over random's, and what it cost."""
    runs, targets = found["runs"], found["targets"]
    yield (
        "| policy | seeds | seconds, median | ratio to random [95 %] | rounds | worst subtask | end, mean "
        "| MB | paid |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    horizon = max(reached(run, "simulated_s", targets).at for run in runs)
    for name in allocation_tables.names(runs):
        mine = [run for run in runs if run["name"] == name]
        seconds = kaplan_meier([reached(run, "simulated_s", targets) for run in mine], horizon)
        against = allocation_tables.compare(runs, targets, name, allocation_tables.BASELINE)
        paired = against["log2 of seconds"]
        cells = [
            f"**{name}**" if name == allocation_tables.OURS else name,
            str(len(mine)),
            "not reached" if seconds.median is None else f"{seconds.median:.0f}",
            "1" if name == allocation_tables.BASELINE or paired is None else allocation_tables.ratio(paired),
            f"{statistics.mean(reached(run, 'round', targets).at for run in mine):.1f}",
            spread([minimum_auc(run, targets, allocation_tables.HORIZON_S) for run in mine]),
            spread([float(final_shares(run, targets).mean()) for run in mine]),
            f"{statistics.mean(run['bytes'] / 1e6 for run in mine):.0f}",
            f"{statistics.mean(run['payment'] for run in mine):.0f}"
            if any(r["payment"] for r in mine)
            else "-",
        ]
        yield f"| {' | '.join(cells)} |"


TABLES: dict[str, Callable[[Json], Iterator[str]]] = {
    "clinic": clinic,
    "one_shot_ladder": ladder,
    "flamby_heart": heart,
    "wire_bytes": wire,
    "unlike": unlike,
    "byzantine": byzantine,
    "allocation": allocation,
}


def written(text: str) -> str:
    """Return the README's text with each table drawn anew.

    Raises:
        SystemExit: a table has no place in it.
    """
    for name, table in TABLES.items():
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        body = "\n".join(table(found))
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, _between(body), text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"README.md: expected one place for {name}, found {count}")
    return text


def _between(body: str) -> Callable[[re.Match[str]], str]:
    return lambda marks: f"{marks[1]}{body}\n{marks[2]}"


def main() -> None:
    """Write the README, or with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    before = README.read_text(encoding="utf-8")
    after = written(before)
    if parser.parse_args().check:
        sys.exit("README.md differs from docs/results" if before != after else 0)
    README.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
