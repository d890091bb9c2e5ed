"""What a child of the tests runs: ``python -m tests.protocol.child_module``. Not a test."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from protocol.children import Child, inherit


def main() -> None:
    """Do what the parent asks for under ``do``."""
    given, tell = inherit()
    do = given.get("do", "echo")
    if do == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if do == "exit":
        tell({"last": "word"})
        sys.exit(given["code"])
    if do == "write":
        os.write(given["fd"], b"from the child")
    if do == "many":
        told = [threading.Thread(target=tell, args=[{f"word {i}": "x" * 5000}]) for i in range(40)]
        for thread in told:
            thread.start()
        for thread in told:
            thread.join()
    if do == "umask":
        tell({"umask": os.umask(0o077)})
    if do == "parent":
        child = Child("grandchild", __spec__.name, {"do": "stubborn"}, Path(given["logs"]))
        child.wait_for("ready", 10)
        tell({"grandchild": child.pid})
    sys.stdout.write(f"a line for the log {given.get('say', '')}\n")
    tell({"ready": True, "given": {k: v for k, v in given.items() if k != "secret"}})
    time.sleep(60)


if __name__ == "__main__":
    main()
