"""Federated averaging: the next global arrays are the weighted mean of the sites' arrays.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017. The weights are those given to the accumulator, by default numbers of examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from collab.aggregation.contract import is_averaged, parse_options
from protocol.arrays import Arrays, check_spec, spec_of


@dataclass(frozen=True)
class Options:
    """Federated averaging has no options."""


def init(arrays: Arrays, **options: Any) -> dict[str, NDArray[Any]]:  # noqa: ARG001
    """Return ``{}``: averaging has no state."""
    parse_options("fedavg", Options, options)
    return {}


def apply(
    arrays: Arrays, mean: Arrays, state: Arrays, **options: Any
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the mean as the next global arrays (the server's own where not floating), and the state.

    Raises:
        ArraysError: ``mean`` has other names, shapes or dtypes than ``arrays``.
        ConfigError: there are options.
    """
    parse_options("fedavg", Options, options)
    check_spec(mean, spec_of(arrays))
    return {name: (mean[name] if is_averaged(own) else own).copy() for name, own in arrays.items()}, dict(
        state
    )
