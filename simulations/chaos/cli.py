"""The command: all trials of a form, then tables; it fails where the pass rule is broken."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from protocol.errors import ConsiliumError
from simulations.chaos import lost_local, lost_real
from simulations.chaos.collaboration import site_names, site_tables, terms
from simulations.chaos.plan import Trial, long_form, short_form
from simulations.chaos.real import Arena, Calm, Result
from simulations.chaos.sites_lost import Lost
from simulations.chaos.tables import as_json, combined, markdown, passed
from simulations.deployed import deployed

_SITES = 3
_MORE_SITES = 5


def main() -> None:
    """Carry out a form and print its tables; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="simulations.chaos", description="Kill processes at seeded moments."
    )
    parser.add_argument("--short", action="store_true", help="four trials, and few cases of lost sites")
    parser.add_argument("--long", action="store_true", help="54 trials, all cases of lost sites (40 minutes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of trials; no lost sites then")
    parser.add_argument("--losses", action="store_true", help="the cases of lost sites alone")
    parser.add_argument("--combine", type=Path, nargs="+", help="show parts that were carried out apart")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (options.short or options.long or options.combine):
        parser.error("give --short, --long or --combine")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # so that every process of the federation is ended
    if options.combine:
        calm, results, losses = combined([json.loads(path.read_text()) for path in options.combine])
    else:
        calm, results, losses = _carried_out(options)
    if options.json:
        found = as_json(calm, results, losses, options.seed)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(markdown(calm, results, losses))
    sys.exit(0 if passed(results, losses) else 1)


def _carried_out(options: argparse.Namespace) -> tuple[Calm, list[Result], list[Lost]]:
    trials = (long_form if options.long else short_form)(options.seed, _SITES)
    if options.only is not None:
        trials = tuple(trial for trial in trials if trial.number in options.only)
    trials = () if options.losses else trials
    with tempfile.TemporaryDirectory(prefix="consilium-chaos-") as scratch:
        folder = Path(scratch)
        calm, results, losses = _on_three(folder, trials, options.seed, with_losses=options.only is None)
        if options.only is None and options.long:
            losses += _on_five(folder, options.seed)
        if options.only is None:
            losses += _in_process(folder, options.seed, is_long=options.long)
    return calm, results, losses


def _on_three(
    folder: Path, trials: Sequence[Trial], seed: int, *, with_losses: bool
) -> tuple[Calm, list[Result], list[Lost]]:
    """Carry the trials out, and the cases of lost sites, on one federation of three sites."""
    names, at_folder = site_names(_SITES), _made(folder / "three")
    with deployed(at_folder, site_tables(at_folder, names)) as at:
        arena = Arena(at, terms(_SITES), names)
        calm = arena.undisturbed() if trials else Calm(0.0, {}, 0)
        _tell(f"undisturbed: {calm.seconds:.1f} s, {calm.trainings} trainings")
        results = [_told(arena.carry_out(trial)) for trial in trials]
        loss = lost_real.Loss(at)
        cases = list(lost_real.cases(names, seed)) if with_losses else []
        return calm, results, [_told_lost(loss.carry_out(case)) for case in cases]


def _on_five(folder: Path, seed: int) -> list[Lost]:
    names, at_folder = site_names(_MORE_SITES), _made(folder / "five")
    try:
        with deployed(at_folder, site_tables(at_folder, names)) as at:
            loss = lost_real.Loss(at)
            return [_told_lost(loss.carry_out(case)) for case in lost_real.cases(names, seed)]
    except ConsiliumError as error:
        return [Lost("real", _MORE_SITES, 0, seed, [], 0.0, why=f"the federation failed: {error}")]


def _in_process(folder: Path, seed: int, *, is_long: bool) -> list[Lost]:
    cases = list(lost_local.cases(seed))
    return [_told_lost(lost_local.carry_out(case, folder)) for case in (cases if is_long else cases[:1])]


def _told(result: Result) -> Result:
    recovered = "" if result.recover_s is None else f", recovered after {result.recover_s:.1f} s"
    word = "passed" if result.passed else f"FAILED: {result.why}"
    _tell(f"trial {result.number}, {result.name}, at {result.struck_share:.0%}: {word}{recovered}")
    return result


def _told_lost(loss: Lost) -> Lost:
    word = "passed" if loss.passed else f"FAILED: {loss.why}"
    _tell(f"{loss.k} of {loss.n} lost, {loss.place}: {word}")
    return loss


def _tell(line: str) -> None:
    """Say on the terminal how far it is; the tables go to standard output."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a signal handler's
    sys.exit(128 + number)
