"""The app bundle that Flower hands from server to site: a label, not code.

Flower sends an app to every node of a run. A site never runs what it was sent; it runs the code that it
installed. So the bundle is a minimal one, made from the installed package: it names the version and the
digest of the code that a site runs. Both parties make it for themselves, and must come to the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from protocol.messages import PROTOCOL_VERSION

RUN_KEY = "run"  # the only word of the run's config: the Consilium run's id
_ROOT = Path(__file__).resolve().parent.parent
_CODE = ("protocol", "collab", "clients")
_MADE = (1980, 1, 1, 0, 0, 0)  # the first date that a zip file can hold: no clock in the bytes

_PYPROJECT = """\
[project]
name = "consilium"
version = "{version}"
description = "Each site runs the Consilium that it installed; nothing here is ever imported."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "consilium"

[tool.flwr.app.components]
serverapp = "consilium:nothing"
clientapp = "consilium:nothing"

[tool.flwr.app.config]
run = ""
"""


def package_version() -> str:
    """Return the installed version of Consilium."""
    try:
        return version("consilium")
    except PackageNotFoundError:
        return "0+uninstalled"


def code_digest(root: Path = _ROOT) -> str:
    """Return the SHA-256, in hex, of the Python files that a site runs, with their paths."""
    sha = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((root / folder).rglob("*.py")):
            name, content = path.relative_to(root).as_posix().encode(), path.read_bytes()
            sha.update(len(name).to_bytes(4, "big") + name + len(content).to_bytes(8, "big") + content)
    return sha.hexdigest()


def make_bundle(root: Path = _ROOT) -> bytes:
    """Return the bundle of the installed package: the same bytes wherever the same code is installed."""
    label = {"version": package_version(), "protocol": PROTOCOL_VERSION, "code": code_digest(root)}
    # Flower reads versions of three numbers; the label has the whole one.
    plain = label["version"] if str(label["version"])[0].isdigit() else "0.0.0"
    files = {
        "consilium.json": json.dumps(label, sort_keys=True),
        "pyproject.toml": _PYPROJECT.format(version=plain),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _MADE), text)
    return buffer.getvalue()


def bundle_digest(bundle: bytes) -> str:
    """Return how Flower names a bundle: its SHA-256 in hex."""
    return hashlib.sha256(bundle).hexdigest()
