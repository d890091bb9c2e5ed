"""The schema of site.toml: where the server is, what the machine may be used for, and no torch to read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from clients.site_file import SiteConfig, load
from protocol.errors import ConfigError

DATA = {"risk": {"format": "csv", "path": "rows.csv", "target": "y"}}
TORCH_FREE = "clients.site_file, clients.egress, clients.counters, collab.progress, protocol.records"


def _load(folder: Path, **tables: Any) -> SiteConfig:
    path = folder / "site.toml"
    path.write_text(tomlkit.dumps({"name": "north", "data": DATA, **tables}), encoding="utf-8")
    return load(path)


def test_reading_the_file_needs_no_torch() -> None:
    """A process that only talks to the server must not pay for torch, by whatever way it would come in."""
    code = f"import sys, {TORCH_FREE}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=120)
    assert found.returncode == 0


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    """A file of today still says all that is needed."""
    config = _load(tmp_path)
    assert config.server is None
    assert (config.limits.gpu_memory_share, config.limits.results_mib) == (None, 2048)


@pytest.mark.parametrize("host", ["consilium.example.org", "server", "10.0.0.7", "2001:db8::1", "a.b."])
def test_a_server_has_a_name_or_an_address(host: str, tmp_path: Path) -> None:
    """DNS names and addresses of both families stand as they are."""
    config = _load(tmp_path, server={"host": host, "port": 443, "proxy": "http://proxy.local:3128"})
    assert config.server is not None
    assert (config.server.host, config.server.port) == (host, 443)
    assert config.server.proxy == "http://proxy.local:3128"


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"server": {"host": "", "port": 1}}, r"server\.host"),
        ({"server": {"host": "a b", "port": 1}}, r"server\.host.*neither"),
        ({"server": {"host": "http://a.org", "port": 1}}, r"server\.host.*neither"),
        ({"server": {"host": "-a.org", "port": 1}}, r"server\.host.*neither"),
        ({"server": {"host": "10.0.0.777", "port": 1}}, r"server\.host.*neither"),
        ({"server": {"host": "a" * 254, "port": 1}}, r"server\.host"),
        ({"server": {"host": "a.org", "port": 0}}, r"server\.port"),
        ({"server": {"host": "a.org", "port": 65536}}, r"server\.port"),
        ({"server": {"host": "a.org"}}, r"server\.port' is required"),
        ({"server": {"host": "a.org", "prot": 1}}, r"server\.prot'.*port"),
        ({"server": {"host": "a.org", "port": 1, "proxy": "proxy.local:3128"}}, r"server: proxy is http"),
        ({"server": {"host": "a.org", "port": 1, "proxy": "http://p:99999"}}, r"server: proxy is http"),
        ({"server": {"host": "a.org", "port": 1, "proxy": "http://a_b:1"}}, r"server: proxy is http"),
        ({"limits": {"gpu_memory_share": 0}}, r"gpu_memory_share"),
        ({"limits": {"gpu_memory_share": 1.1}}, r"gpu_memory_share"),
        ({"limits": {"results_mib": 0}}, r"results_mib"),
    ],
)
def test_what_is_wrong_is_named(tables: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Each mistake is one line that names the key."""
    with pytest.raises(ConfigError, match=says) as raised:
        _load(tmp_path, **tables)
    assert "\n" not in str(raised.value)


def test_a_password_in_the_proxy_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """The refusal may travel to the server: it must not quote what it refuses."""
    server = {"host": "a.org", "port": 1, "proxy": "http://user:hunter2@proxy.local:3128"}
    with pytest.raises(ConfigError, match="without user or password") as raised:
        _load(tmp_path, server=server)
    assert "hunter2" not in str(raised.value)
