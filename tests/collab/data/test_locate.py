"""Data files are found in one order, checked, and never silently replaced."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from collab.data.locate import ORIGINS, Origin, locate
from protocol.errors import DataError

BODY = b"63,1,145\n"


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
        pass


@pytest.fixture
def origin_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server on the loopback that serves one file."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.data").write_bytes(BODY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.data"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONSILIUM_DATA", raising=False)


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_text(text)
    return folder


def test_nearer_places_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path is itself; a relative one lies beside the collaboration, else under CONSILIUM_DATA."""
    base, shared = _write(tmp_path / "base", "near"), _write(tmp_path / "shared", "far")
    monkeypatch.setenv("CONSILIUM_DATA", str(shared))
    assert locate("a.csv", base).read_text() == "near"
    assert locate("a.csv", None).read_text() == "far"
    assert locate("a.csv", tmp_path).read_text() == "far"
    assert locate(str(base / "a.csv"), None).read_text() == "near"


def test_a_missing_file_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """The message names where was looked and the environment variable."""
    with pytest.raises(DataError, match="CONSILIUM_DATA") as caught:
        locate("nothing/here.csv", tmp_path)
    assert str(tmp_path / "nothing/here.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is missing"):
        locate(str(tmp_path), None)


def test_a_known_file_is_fetched_once_and_checked(tmp_path: Path, origin_url: str) -> None:
    """A file of known origin is downloaded to the cache; later calls do not need the network."""
    origins = {"x/a.data": Origin(origin_url, hashlib.sha256(BODY).hexdigest())}
    found = locate("x/a.data", tmp_path, origins=origins, cache=tmp_path / "cache")
    assert found.read_bytes() == BODY
    assert found.is_relative_to(tmp_path / "cache")
    offline = {"x/a.data": Origin("http://127.0.0.1:9/a.data", origins["x/a.data"].sha256)}
    assert locate("x/a.data", tmp_path, origins=offline, cache=tmp_path / "cache") == found


def test_other_bytes_than_known_are_refused(tmp_path: Path, origin_url: str) -> None:
    """A download whose SHA-256 differs is an error and leaves nothing in the cache."""
    origins = {"x/a.data": Origin(origin_url, "0" * 64)}
    with pytest.raises(DataError, match="does not match its SHA-256"):
        locate("x/a.data", tmp_path, origins=origins, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_no_network_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the origin cannot be reached the message offers CONSILIUM_DATA and the internet."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    origins = {"x/a.data": Origin("http://127.0.0.1:9/a.data", "0" * 64)}
    with pytest.raises(DataError, match=r"CONSILIUM_DATA.*internet"):
        locate("x/a.data", tmp_path, origins=origins, cache=tmp_path / "cache")


def test_every_origin_is_encrypted_and_has_a_checksum() -> None:
    """The list of known files holds https addresses and whole SHA-256 sums."""
    for origin in ORIGINS.values():
        assert origin.url.startswith("https://")
        assert len(bytes.fromhex(origin.sha256)) == 32
