"""What lies in a kit: the files that a person reads or fills in, and the list of checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import tomlkit

from server.federation_file import FederationFile

SUMS = "SHA256SUMS"
SITE_TOML, SERVER_TOML = "site.toml", "server.toml"
FILLED_IN = frozenset({SITE_TOML, SERVER_TOML})

_SITE = """\
# What this site is, which data it brings, and what may leave it. Fill in and keep it beside the keys.

name = {name}

# Where the server is. Its certificate must say so and be signed by authority.pem.
[server]
host = {host}
port = {port}

# One table for each subtask of a collaboration that this site has data for: the format, the path (relative
# to this file) and the column to predict. Nothing of these rows leaves the site.
# [data.SUBTASK]
# format = "csv"
# path = "rows.csv"
# target = "outcome"

# What of this machine may be used; what is left out is measured.
# [limits]
# memory_mib = 8192
# device = "auto"            # auto, cpu or cuda

# What may leave this site, whatever the server asks for. These are the defaults of a site.
# [egress]
# models = false             # its own models, for the others to fuse
# label_histogram = "rounded" # exact, rounded or mask
"""
_SERVER = """\
# Where sites find the server of this federation. The roster and the certificate in this folder say the same:
# for other hosts or another port, change federation.toml and run `consilium provision` again.

name = {name}
hosts = {hosts}
port = {port}
"""


def site_toml(federation: FederationFile, site: str) -> bytes:
    """Return the ``site.toml`` that a site fills in."""
    host = federation.server.hosts[0]
    return _SITE.format(name=_toml(site), host=_toml(host), port=federation.server.port).encode()


def server_toml(federation: FederationFile) -> bytes:
    """Return the server's ``server.toml``."""
    hosts = _toml(list(federation.server.hosts))
    return _SERVER.format(name=_toml(federation.name), hosts=hosts, port=federation.server.port).encode()


def fingerprint_text(federation: str, fingerprint: str) -> bytes:
    """Return what a site compares with the authority by another way than that by which the kit came."""
    lines = [f"Authority of {federation}, SHA-256 of authority.pem (DER):", "", f"    {fingerprint}", ""]
    return "\n".join([*lines, "Have it read to you over the phone before you use this kit.", ""]).encode()


def sums(files: Mapping[str, bytes]) -> bytes:
    """Return the lines that ``sha256sum -c`` checks, of all but what a person fills in."""
    named = [(name, files[name]) for name in sorted(files) if name not in FILLED_IN]
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in named).encode()


def _toml(value: str | Sequence[str]) -> str:
    return tomlkit.item(value).as_string()
