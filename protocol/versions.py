"""Which releases of Flower this code was tried on."""

from __future__ import annotations

from importlib.metadata import version

from protocol.errors import UserError

SUPPORTED = ("1.41", "1.42")


def check_flower(found: str | None = None) -> str:
    """Return the installed version of Flower.

    Raises:
        UserError: it is none that this code was tried on; a server or a site must not start with it.
    """
    found = found or version("flwr")
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        raise UserError(
            f"flwr {found} is installed, this release of Consilium works with {' and '.join(SUPPORTED)}: "
            f'pip install "flwr>=1.41,<1.43"'
        )
    return found
