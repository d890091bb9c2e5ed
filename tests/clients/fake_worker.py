"""A worker that does as its message's kind says, started as the agent starts its own. Not a test."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

from clients import frames
from protocol.children import inherit


def main() -> None:
    """Work until the agent is gone."""
    given, _ = inherit()
    folder = Path(given["site_toml"]).parent
    if (folder / "no-start").exists():
        os._exit(3)
    with (folder / "starts").open("a") as file:
        file.write(".")
    while (folder / "slow-start").exists():
        time.sleep(0.01)
    sock = socket.socket(fileno=given["fd"])
    frames.send(sock, {"op": "ready", "counters": {"pid": os.getpid()}})
    memory: dict[str, dict[str, bytes]] = {}
    while True:
        try:
            head, blobs = frames.receive(sock)
        except EOFError:
            os._exit(0)
        if head["op"] == "memory":
            memory = {head["run"]: dict(zip(head["keys"], blobs, strict=True))}
        elif head["op"] == "work":
            _work(sock, folder, head, blobs, memory.setdefault(head["run"], {}))


def _work(
    sock: socket.socket, folder: Path, head: dict[str, Any], blobs: list[bytes], memory: dict[str, bytes]
) -> None:
    asked = head["asked"]
    kind = head["kind"].removeprefix("train.")
    match kind:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die.once" if not (folder / "died").exists():
            (folder / "died").touch()
            frames.send(sock, {"op": "progress", "asked": asked, "share": 0.5})
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            frames.send(sock, {"op": "failed", "asked": asked, "why": "ValueError"})
            return
        case "odd":
            frames.send(sock, {"op": "done", "asked": asked, "parts": 1, "keys": ["a"], "gone": []}, [b""])
            return
        case "garbage":
            sock.sendall(struct.pack(">I", 3) + b"???")
            time.sleep(30)
        case "mute" | "deaf":
            _hang(sock, asked if kind == "deaf" else "")
        case "slow":
            frames.send(sock, {"op": "progress", "asked": asked, "share": 0.25})
            frames.send(sock, {"op": "progress", "asked": "ff" * 32, "share": 0.9})  # of some other work
            while (said := frames.receive(sock)[0]) != {"op": "cancel", "asked": asked}:
                assert said["op"] == "cancel"
    memory["count"] = str(int(memory.get("count", b"0")) + 1).encode()
    told = json.dumps({key: value.decode() for key, value in sorted(memory.items())}).encode()
    said = {"op": "done", "asked": asked, "parts": 2, "keys": ["count"], "gone": ["old"]}
    counters = {"counters": {"pid": os.getpid()}}
    frames.send(sock, said | counters, [told, blobs[0][:9] if blobs else b"", memory["count"]])
    if kind == "numb":
        time.sleep(60)


def _hang(sock: socket.socket, asked: str) -> None:
    """Heed nothing; say how far the work is, if it has a name."""
    while True:
        if asked:
            frames.send(sock, {"op": "progress", "asked": asked, "share": 0.5})
        time.sleep(0.02)


if __name__ == "__main__":
    main()
