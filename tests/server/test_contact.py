"""How a command finds and asks the running server: what goes wrong is one line that says what to do."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ConfigError, RunError, UserError
from server import contact
from server.contact import ask
from server.inner import SECRET_HEADER
from tests.command import assert_one_line, command
from tests.protocol.key_cases import as_nobody

SECRET = "f" * 64


class Answers(BaseHTTPRequestHandler):
    """Answers what the test wants, and keeps what it was asked."""

    status = 200
    body = b"{}"
    asked: list[tuple[str, str, str | None, bytes]] = []

    def do_POST(self) -> None:
        """Keep the request and answer it."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((self.command, self.path, self.headers[SECRET_HEADER], body))
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Answers]]]:
    """An address, and what it answers."""

    class Mine(Answers):
        asked: list[tuple[str, str, str | None, bytes]] = []

    with HTTPServer(("127.0.0.1", 0), Mine) as http:
        thread = threading.Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        yield f"127.0.0.1:{http.server_port}", Mine
        http.shutdown()
        thread.join(10)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """The kit of no server yet."""
    (tmp_path / "state").mkdir()
    return tmp_path


def speaks(kit: Path, address: str, **more: Any) -> Path:
    """Write what a running server writes."""
    path = kit / "state/contact.json"
    path.write_text(json.dumps({"address": address, "secret": SECRET, "port": 1, "pid": 1, **more}))
    return path


def test_a_question_and_its_answer(
    kit: Path, server: tuple[str, type[Answers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret goes in a header, what is asked in path, query and body; no proxy is asked."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    address, answers = server
    answers.body = b'{"runs": {}}'
    speaks(kit, address)
    assert ask(kit, "status") == {"runs": {}}
    assert ask(kit, "stop", {"run": "a&b=c d"}, given={"x": "ä"}) == {"runs": {}}
    assert answers.asked == [
        ("GET", "/v1/consilium/status?", SECRET, b""),
        ("POST", "/v1/consilium/stop?run=a%26b%3Dc+d", SECRET, b'{"x": "\\u00e4"}'),
    ]


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (400, b'{"error": "run r1 has ended"}', UserError, "run r1 has ended"),
        (404, b'{"error": "not here"}', UserError, "not here"),
        (503, b'{"error": "the disk is full"}', RunError, "the disk is full"),
        (500, b"Internal Server Error", RunError, "answers 500"),
        (404, b"[]", UserError, "answers 404"),
        (200, b"no JSON", RunError, "does not answer"),
        (200, b"[1]", RunError, "no table"),
    ],
)
def test_what_the_server_says(
    kit: Path,
    server: tuple[str, type[Answers]],
    status: int,
    body: bytes,
    error: type[Exception],
    says: str,
) -> None:
    """What the person can mend is his error, what the server cannot do is the run's."""
    address, answers = server
    answers.status, answers.body = status, body
    speaks(kit, address)
    with pytest.raises(error, match=says) as raised:
        ask(kit, "status")
    assert type(raised.value) is error
    assert SECRET not in str(raised.value)


def test_nobody_answers(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that died or hangs is told from one that was never there."""
    import socket

    with pytest.raises(UserError, match=r"no server runs on the kit .*consilium server up"):
        ask(kit, "status")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        speaks(kit, address)
        with pytest.raises(RunError, match="is it running"):  # it does not listen
            ask(kit, "status")
        silent.listen(1)
        monkeypatch.setattr(contact, "_TIMEOUT_S", 0.05)
        with pytest.raises(RunError, match="is it running"):
            ask(kit, "status")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"address": "x"}', "\x80"])
def test_a_broken_file(kit: Path, text: str) -> None:
    """A file that no server wrote is named."""
    speaks(kit, "x").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"contact\.json: cannot be read; start the server again"):
        ask(kit, "status")


def test_a_file_of_somebody_elses(kit: Path, tmp_path: Path) -> None:
    """A link is not followed: it could lead to another's server."""
    path = speaks(kit, "127.0.0.1:1")
    path.rename(tmp_path / "other.json")
    path.symlink_to(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="no file of a server"):
        ask(kit, "status")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user(kit: Path) -> None:
    """Who may not read the file, or not even pass its folder, is told who may."""
    path = speaks(kit, "127.0.0.1:1")
    folders = [folder for folder in [kit, *kit.parents] if "pytest" in str(folder)]
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    path.chmod(0o640)
    told = "UserError: .*contact.json: may be read by the server's user, and by the group in server.toml"
    try:
        for folder in folders:
            folder.chmod(0o711)
        for mode in (0o711, 0o700):
            (kit / "state").chmod(mode)
            said = as_nobody(lambda: ask(kit, "status"))
            assert re.fullmatch(told, said), said
            assert SECRET not in said
    finally:
        for folder, before in modes.items():
            folder.chmod(before)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "r1"],
        ["logs", "r1"],
        ["stop", "r1"],
        ["status", "--watch"],
        ["status", "--json"],
    ],
)
def test_the_commands_say_it_in_one_line(
    kit: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a server each command ends with one line and the code for the person's own error."""
    run = command(monkeypatch, capsys)
    assert "consilium server up" in assert_one_line(run(*arguments, "--kit", kit), 2)
    monkeypatch.setenv("CONSILIUM_KIT", str(kit / "elsewhere"))
    assert "elsewhere" in assert_one_line(run(*arguments), 2)
