"""Which files of its machine a server reads for a run: those in the folders that its kit names.

Whoever may submit a run writes the paths in its file; what they point at goes to sites as a public set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from collab.collaboration import Collaboration
from collab.data.locate import DATA_VARIABLE, locate
from protocol.errors import ConfigError, DataError
from server.kit import ServerKit


def check_paths(collaboration: Collaboration, kit: ServerKit) -> None:
    """Raise a ``ConfigError`` for a path that leads out of the server's data folders.

    Links are followed first. A path that leads nowhere is let pass: whoever opens it says so.
    """
    folders = [(kit.folder / folder).resolve() for folder in kit.config.data]
    if os.environ.get(DATA_VARIABLE):
        folders.append(Path(os.environ[DATA_VARIABLE]).resolve())
    for name, path in _paths(collaboration):
        found = _located(path, kit)
        if found is not None and not any(found.is_relative_to(folder) for folder in folders):
            raise ConfigError(
                f"{name}: '{path}' is in none of the server's data folders: put it there, or name its folder "
                "in server.toml, data = [...]"
            )


def _paths(collaboration: Collaboration) -> Iterator[tuple[str, str]]:
    for name, config in collaboration.data.items():
        found: list[str] = []
        config.with_paths(lambda path, kept=found: kept.append(path) or path)  # type: ignore[misc]
        yield from ((f"data.{name}", path) for path in found)
    for name, terms in collaboration.subtasks.items():
        if terms.teacher is not None:
            yield f"subtasks.{name}.teacher", terms.teacher.path


def _located(path: str, kit: ServerKit) -> Path | None:
    try:
        return locate(path, kit.orders, origins={}, accept_folder=True).resolve()
    except DataError:
        return None
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be looked at ({error.strerror})") from None
