"""A comparison such as ``> 0`` or ``== 'yes'``: parsed by one regular expression, never evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        ">=": operator.ge,
        "<=": operator.le,
        ">": operator.gt,
        "<": operator.lt,
    }
)
_PATTERN: Final = re.compile(
    r"""\s*(?P<operator>==|!=|>=|<=|>|<)\s*
        (?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<number>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?))\s*""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Comparison:
    """One operator and the number or text that cells are compared with."""

    operator: str
    value: float | str

    @property
    def is_numeric(self) -> bool:
        """True if cells are compared as numbers, False if as text."""
        return isinstance(self.value, float)

    def holds(self, cells_N: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each cell whether it holds; cells are floats if ``is_numeric``, else text."""
        return np.asarray(_OPERATORS[self.operator](cells_N, self.value), dtype=np.bool_)


def parse(text: str) -> Comparison:
    """Parse ``text``: an operator, then a finite number or a quoted text.

    Raises:
        ConfigError: anything else. Text takes == and != alone: its order depends on the language.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"cannot read the comparison '{text[:80]}': write one such as \"> 0\" or \"== 'yes'\""
        )
    sign = match["operator"]
    if match["number"] is not None:
        return Comparison(sign, _number(match["number"]))
    if sign not in ("==", "!="):
        raise ConfigError(f"the comparison '{text[:80]}' orders text: text is compared by == or != alone")
    quoted = match["single"] if match["single"] is not None else match["double"]
    return Comparison(sign, quoted)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(f"cannot read the number '{text[:80]}' of a comparison: write one such as 0 or 1.5")
    return value
