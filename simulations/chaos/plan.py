"""What is killed, when and how: a function of the seed alone, fixed before anything is run.

A trial is one run of the same small collaboration, disturbed once. Moments are shares of the time that a run
takes when nothing is disturbed.

The pass rule, of each trial without exception:

- the run is finished, after the last blow in at most ``LIMIT_S`` and ``LIMIT_RUNS`` times an undisturbed run;
- every model file has the SHA-256 that it has in the undisturbed run;
- never two processes work on a run at the same moment;
- when the supervisor was killed, its children have ended within ``ORPHANS_S``.

A trial whose blow came when the run had ended already (runs do not take equally long) disturbs nothing: it is
carried out again, ``MOST_TRIES`` times at most, each time ``EARLIER`` times as far into the run. If N trials
pass and none fails, the chance of a failure is below 3/N with a confidence of 95%.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from collab.rng import generator

Kind = Literal["serve", "link", "supervisor", "node", "agent", "worker"]
Form = Literal["single", "resume", "double", "stop"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# What ``python -m`` runs in each; of the supervisor it is the command itself.
MODULES: Final[dict[Kind, str]] = {
    "serve": "server.serve",
    "link": "server.link",
    "supervisor": "consilium",
    "node": "clients.node",
    "agent": "clients.agent",
    "worker": "clients.worker",
}
AT_SITES: Final = frozenset({"node", "agent", "worker"})
EACH: Final = 6  # single kills of each kind in the long form
STOP_S: Final = 90.0
SHORT_STOP_S: Final = 3.0
RESUME_S: Final = 8.0  # a process takes some 3 s to begin, and then reads its journal
LIMIT_S: Final = 300.0
LIMIT_RUNS: Final = 3.0
ORPHANS_S: Final = 5.0
MOST_TRIES: Final = 3
EARLIER: Final = 0.8
FAILURE_BOUND: Final = 3.0  # over N: the exact bound 1 - 0.05^(1/N) is a little below


@dataclass(frozen=True)
class Target:
    """A process; ``site`` is the number of its site, None at the server."""

    kind: Kind
    site: int | None = None


@dataclass(frozen=True)
class Trial:
    """One run and its blow.

    Attributes:
        number: from 1; also of its randomness.
        form: ``single``: one kill. ``resume``: killed again ``gap_s`` after it was there again. ``double``:
            two processes at once. ``stop``: SIGSTOP, and SIGCONT after ``stop_s``.
        at: share of the undisturbed run's time, in [0, 1).
    """

    number: int
    seed: int
    form: Form
    targets: tuple[Target, ...]
    at: float
    gap_s: float = 0.0
    stop_s: float = 0.0

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.form}: {' + '.join(t.kind for t in self.targets)}"


def long_form(seed: int, sites: int) -> tuple[Trial, ...]:
    """Return the 54 trials of the long form: 36 single kills, and 6 each of the other forms."""
    singles: list[tuple[Form, Kind]] = [("single", kind) for kind in KINDS for _ in range(EACH)]
    others: list[tuple[Form, Kind]] = [(f, kind) for f in ("resume", "double", "stop") for kind in KINDS]
    return _trials(seed, sites, [*singles, *others], STOP_S)


def short_form(seed: int, sites: int) -> tuple[Trial, ...]:
    """Return four trials, one of each form; SIGSTOP for seconds only."""
    chosen: list[tuple[Form, Kind]] = [
        ("single", "supervisor"),
        ("resume", "serve"),
        ("double", "agent"),
        ("stop", "link"),
    ]
    return _trials(seed, sites, chosen, SHORT_STOP_S)


def failure_bound(trials: int) -> float:
    """Return the upper bound, with 95% confidence, of the chance of a failure if none of so many failed."""
    return min(1.0, FAILURE_BOUND / trials) if trials else 1.0


def _trials(seed: int, sites: int, chosen: list[tuple[Form, Kind]], stop_s: float) -> tuple[Trial, ...]:
    return tuple(_trial(seed, sites, n, form, kind, stop_s) for n, (form, kind) in enumerate(chosen, 1))


def _trial(seed: int, sites: int, number: int, form: Form, kind: Kind, stop_s: float) -> Trial:
    rng = generator(seed, number, "chaos")
    at = float(rng.random())
    targets = [_target(rng, kind, sites)]
    if form == "double":
        others = [k for k in KINDS if k != kind]
        targets.append(_target(rng, others[int(rng.integers(len(others)))], sites))
    gap_s = float(rng.uniform(0.1, RESUME_S)) if form == "resume" else 0.0
    return Trial(number, seed, form, tuple(targets), at, gap_s, stop_s if form == "stop" else 0.0)


def _target(rng: np.random.Generator, kind: Kind, sites: int) -> Target:
    return Target(kind, int(rng.integers(sites)) if kind in AT_SITES else None)
