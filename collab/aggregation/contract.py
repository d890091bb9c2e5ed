"""What every aggregation rule is: state in, state out, over the mean that the accumulator kept.

Arrays that are not floating point (counters, index tables) have no mean: the server's own stay,
in every rule. Models here use GroupNorm, so no running statistics hide among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from collab.plugins import unknown
from protocol.arrays import Arrays
from protocol.errors import ConfigError

Options = TypeVar("Options")


class AggregationRule(Protocol):
    """A module of this folder, or an institution's own under ``aggregation.NAME``.

    Laws, checked for every rule: names, shapes and dtypes are kept; inputs are not changed; if the
    mean equals the arrays and the state is fresh, the arrays stay; the same inputs give the same bits.
    """

    def init(self, arrays: Arrays, **options: Any) -> dict[str, NDArray[Any]]:
        """Return the state before the first round; ``{}`` if the rule has none."""
        ...

    def apply(
        self, arrays: Arrays, mean: Arrays, state: Arrays, **options: Any
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Return the next global arrays and the next state."""
        ...


def parse_options(rule: str, kind: type[Options], options: Mapping[str, Any]) -> Options:
    """Return ``kind(**options)``, a dataclass of defaults.

    Raises:
        ConfigError: an unknown option, or a value that is not of the type of the default.
    """
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    allowed = list(defaults)
    for name, value in options.items():
        if name not in allowed:
            raise ConfigError(
                unknown(f"option '{name}' of aggregation '{rule}'", name, allowed or ["no options"])
            )
        if isinstance(value, bool) != isinstance(defaults[name], bool) or not isinstance(
            value, bool | int | float
        ):
            wanted = "true or false" if isinstance(defaults[name], bool) else "a number"
            raise ConfigError(f"aggregation '{rule}': {name} is {wanted}, found {value!r:.60}")
    return kind(**options)


def is_averaged(array: NDArray[Any]) -> bool:
    """Return whether sites' versions of this array have a mean: floating point only."""
    return array.dtype.kind == "f"
