"""Numbers as a person reads them: three significant digits, and a unit with each.

Nothing here knows what a run is; the report and the console share it so that both
print one number in one way.
"""

from __future__ import annotations

import math
from types import MappingProxyType

MISSING = "–"  # noqa: RUF001  (an en dash: the mark for "there is no number")

_METRIC_NAMES = MappingProxyType(
    {"auroc": "AUROC", "ece": "ECE", "f1": "F1", "r2": "R²", "rmse": "RMSE", "mae": "MAE"}
)
_METRIC_UNITS = MappingProxyType(
    {
        "accuracy": "share of rows, 0 to 1",
        "balanced_accuracy": "mean recall of the classes, 0 to 1",
        "auroc": "0.5 is chance, 1 is perfect",
        "f1": "mean over classes, 0 to 1",
        "log_loss": "nats a row",
        "ece": "calibration error, 0 to 1",
        "rmse": "in the target's unit",
        "mae": "in the target's unit",
        "r2": "share of variance explained, at most 1",
    }
)


def real(value: object) -> float | None:
    """Return ``value`` as a finite float, or None for anything else (None, text, NaN, infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: object) -> str:
    """Write a number with three significant digits: 0.0812, 53.3, 1,230; en dash if there is none."""
    return _rounded(value, 3)


def with_error(value: float, standard_error: float | None) -> str:
    """Write a value to the decimals of its standard error, which gets two digits: 0.89 ± 0.21."""
    error = _rounded(standard_error, 2)
    if real(standard_error) is None:
        return number(value)
    if not standard_error or "e" in error:
        return f"{number(value)} ± {error}"
    decimals = len(error.partition(".")[2])
    return f"{value:,.{decimals}f} ± {error}".replace("-", "−")


def _rounded(value: object, digits: int) -> str:
    finite = real(value)
    if finite is None:
        return MISSING
    rounded = float(f"{finite:.{digits}g}")
    if rounded == 0:
        return "0"
    if abs(rounded) < 1e-4:
        return f"{rounded:.{digits - 1}e}".replace("-", "−")
    # The exponent is taken after rounding, so that 0.9996 is 1.00 and not 1.000.
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", "−")


def nbytes(value: object) -> str:
    """Write a number of bytes in SI units: 812 B, 1.20 MB."""
    size = real(value)
    if size is None:
        return MISSING
    factor, unit = byte_unit(size)
    return f"{size:.0f} B" if factor == 1 else f"{number(size / factor)} {unit}"


def byte_unit(largest: float) -> tuple[float, str]:
    """Return (bytes in the unit, the unit's name) that suits values up to ``largest`` bytes."""
    # 999.5 and not 1000: what would be rounded up to 1,000 kB is written as 1.00 MB.
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= 0.9995 * factor:
            return factor, unit
    return 1.0, "B"


def clock_word(engine: object) -> str:
    """Return what a run's seconds are: a deployment's have passed, all others' are simulated."""
    return "elapsed" if engine == "deployment" else "simulated"


def duration(value: object) -> str:
    """Write a number of seconds: 31.2 s, 5.00 min, 2.31 h."""
    seconds = real(value)
    if seconds is None:
        return MISSING
    factor, unit = time_unit(seconds)
    return f"{number(seconds / factor)} {unit}"


def time_unit(largest: float) -> tuple[float, str]:
    """Return (seconds in the unit, the unit's name) that suits times up to ``largest`` seconds."""
    return (3600.0, "h") if largest >= 7200 else (60.0, "min") if largest >= 120 else (1.0, "s")


def percent(value: object) -> str:
    """Write a share as a percentage without decimals: 61 %."""
    share = real(value)
    return MISSING if share is None else f"{100 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 site, 6 sites."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def metric_name(metric: str) -> str:
    """Return the name of a metric as prose writes it: log_loss is "log loss", rmse is "RMSE"."""
    return _METRIC_NAMES.get(metric, metric.replace("_", " "))


def metric_unit(metric: str) -> str:
    """Return what the metric's numbers count; empty for a plug-in's metric, which we cannot know."""
    return _METRIC_UNITS.get(metric, "")


def plain(text: object) -> str:
    """Return the text on one line without characters that do not print.

    A site chooses its own name and its own error details, so terminal escapes, direction
    overrides and lone surrogates end here; each becomes U+FFFD, white space one space.
    """
    characters = (" " if c.isspace() else c if c.isprintable() else "\ufffd" for c in str(text))
    return "".join(characters)
