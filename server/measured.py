"""What a subtask's outcome comes to as figures: means over the sites, the sites alone, the calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from collab.metrics import summarise
from protocol.fusing import FINAL
from server.finale import Outcome

Json = dict[str, Any]

CALIBRATION_ERROR = "ece"


def alone(outcome: Outcome, metric: str) -> Json | None:
    """Return the baselines' table with what each site came to alone; None if no site was measured so."""
    local = {
        site: {
            "global": summarise(outcome.alone_global.get(site, {})).get(metric),
            "own": outcome.at(site, "alone").get(metric),
        }
        for site in sorted(outcome.sites)
        if outcome.at(site, "alone")
    }
    if not local:
        return None
    return {
        "local_mean": {key: _average(entry[key] for entry in local.values()) for key in ("global", "own")},
        "local": local,
        "pooled": None,
        "fedavg_smallest": None,
    }


def calibration(outcome: Outcome, temperature: float) -> Json | None:
    """Return the calibration errors before and after a temperature; None where nothing has one.

    The final model's is on the union of the test rows, at ``temperature``; the sites' own models'
    is the mean over the sites, each at its own temperature.
    """
    has_final = any(candidate.name == FINAL for candidate in outcome.candidates)
    final = [outcome.merged(method).get(CALIBRATION_ERROR) for method in ("final", "calibrated")]
    local = [mean(outcome, method, CALIBRATION_ERROR) for method in ("local", "local_calibrated")]
    if all(error is None for error in (*final, *local)):
        return None
    return {
        "temperature": temperature if has_final else None,
        CALIBRATION_ERROR: {
            "final": {"before": final[0], "after": final[1]},
            "local": {"before": local[0], "after": local[1]},
        },
    }


def examples(outcome: Outcome, site: str) -> int:
    """Return how many test rows a site measured on."""
    stats = outcome.sites[site].get("own") or outcome.sites[site].get("fused") or {}
    return int(stats["num_examples"][0]) if "num_examples" in stats else 0


def mean(outcome: Outcome, method: str, metric: str) -> float | None:
    """Return the mean over the sites of one metric of ``method``; None if no site has it."""
    return _average(outcome.at(site, method).get(metric) for site in sorted(outcome.sites))


def means(outcome: Outcome, method: str) -> dict[str, float]:
    """Return the mean over the sites of every metric of ``method``."""
    found = [outcome.at(site, method) for site in sorted(outcome.sites)]
    names = sorted({name for metrics in found for name in metrics})
    values = {name: _average(m.get(name) for m in found) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _average(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None
