"""What all trials came to, as Markdown and as JSON; a trial that failed is always listed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simulations.chaos.plan import failure_bound
from simulations.chaos.real import Calm, Result
from simulations.chaos.sites_lost import Lost

_HEAD = "| killed | trials | completed | same bits | work repeated | recovered after: median | p99 |"
_LOST_HEAD = "| sites lost | where | closed after | bound | contributed | examples | then |"


def passed(results: Sequence[Result], losses: Sequence[Lost]) -> bool:
    """Return whether there are trials, and each keeps the pass rule."""
    everything: list[Result | Lost] = [*results, *losses]
    return bool(everything) and all(one.passed for one in everything)


def as_json(calm: Calm, results: Sequence[Result], losses: Sequence[Lost], seed: int) -> dict[str, Any]:
    """Return all that was measured."""
    everything: list[Result | Lost] = [*results, *losses]
    return {
        "seed": seed,
        "undisturbed_s": calm.seconds,
        "undisturbed_trainings": calm.trainings,
        "passed": passed(results, losses),
        "failures": [one.as_json() for one in everything if not one.passed],
        "failure_bound_95": failure_bound(len(results)) if all(r.passed for r in results) else None,
        "trials": [result.as_json() for result in results],
        "sites_lost": [loss.as_json() for loss in losses],
    }


def combined(parts: Sequence[Mapping[str, Any]]) -> tuple[Calm, list[Result], list[Lost]]:
    """Return what the parts came to together, each as ``as_json`` gave it; the slowest calm run counts."""
    trials = [Result(**_own(one, "kinds")) for part in parts for one in part["trials"]]
    losses = [Lost(**_own(one)) for part in parts for one in part["sites_lost"]]
    calm = max((part["undisturbed_s"], part["undisturbed_trainings"]) for part in parts)
    return Calm(calm[0], {}, calm[1]), sorted(trials, key=lambda t: t.number), losses


def _own(one: Mapping[str, Any], *tuples: str) -> dict[str, Any]:
    return {k: tuple(v) if k in tuples else v for k, v in one.items() if k != "passed"}


def markdown(calm: Calm, results: Sequence[Result], losses: Sequence[Lost]) -> str:
    """Return the tables, and what they say in words."""
    parts = []
    if results:
        parts += [_HEAD, "|---" * 7 + "|", *_rows(results), "", _words(calm, results)]
    if losses:
        parts += ["", _LOST_HEAD, "|---" * 7 + "|", *(_lost_row(loss) for loss in losses)]
    failures = [_failure(r) for r in results if not r.passed]
    failures += [_lost_failure(loss) for loss in losses if not loss.passed]
    if failures:
        parts += ["", f"**{len(failures)} failed:**", "", *failures]
    return "\n".join(parts) + "\n"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so great a share of them does not exceed; of few, p99 is the largest."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _rows(results: Sequence[Result]) -> list[str]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        name = result.kinds[0] if result.form == "single" else result.form
        groups.setdefault(f"{name}{_FORMS.get(result.form, '')}", []).append(result)
    return [*(_row(name, found) for name, found in groups.items()), _row("all", results)]


_FORMS = {
    "resume": ": killed, and again on its return",
    "double": ": two processes at once",
    "stop": ": SIGSTOP, then SIGCONT",
}


def _row(name: str, results: Sequence[Result]) -> str:
    recovered = [r.recover_s for r in results if r.recover_s is not None]
    repeated = [r.repeated for r in results if r.repeated is not None]
    completed, equal = sum(r.state == "finished" for r in results), sum(r.bit_equal for r in results)
    cells = [
        name,
        str(len(results)),
        str(completed),
        str(equal),
        f"{sum(repeated)} trainings, {max(repeated)} at most" if repeated else "",
        f"{quantile(recovered, 0.5):.1f} s" if recovered else "",
        f"{quantile(recovered, 0.99):.1f} s" if recovered else "",
    ]
    return f"| {' | '.join(cells)} |"


def _words(calm: Calm, results: Sequence[Result]) -> str:
    orphans = [r.orphans_s for r in results if r.orphans_s is not None]
    lines = [
        f"A run takes {calm.seconds:.1f} s and {calm.trainings} trainings when nothing is disturbed.",
        "Recovered: further than ever before, from the last kill on (of what was stopped: from SIGCONT on).",
        f"At most {max(r.most_serves for r in results)} process worked on a run at one moment.",
    ]
    if orphans:
        lines.append(f"Children of a killed supervisor lived on for {max(orphans):.2f} s at most.")
    if all(r.passed for r in results):
        share = failure_bound(len(results))
        lines.append(
            f"{len(results)} trials, none failed: the chance of a failure is below 3/{len(results)} = "
            f"{share:.1%} with a confidence of 95%."
        )
    late = [str(r.number) for r in results if r.tries > 1]
    if late:
        lines.append(f"Made again, as the run had ended before the blow: trial {', '.join(late)}.")
    return " ".join(lines)


def _lost_row(loss: Lost) -> str:
    then = "stopped, and said so" if loss.stopped else "went on"
    cells = [
        f"{loss.k} of {loss.n}",
        loss.place,
        f"{loss.closed_after_s:.2f} s" if loss.closed_after_s is not None else "",
        f"{loss.bound_s:.2f} s" if loss.bound_s is not None else "",
        f"{loss.contributed} of {loss.n}",
        f"{loss.expected:.1%} (at least {loss.min_coverage:.0%})",
        then if loss.passed else "**wrong**",
    ]
    return f"| {' | '.join(cells)} |"


def _failure(result: Result) -> str:
    head = f"- trial {result.number} (seed {result.seed}, {result.name}, run {result.run}): "
    return head + result.why.split("\n", maxsplit=1)[0][:500]


def _lost_failure(loss: Lost) -> str:
    head = f"- {loss.k} of {loss.n} lost, {loss.place} (seed {loss.seed}, run {loss.run}): "
    return head + loss.why.split("\n", maxsplit=1)[0][:500]
