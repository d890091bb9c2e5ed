"""The server's link process: Flower's SuperLink behind the public door, and the listener on loopback.

Started by the supervisor as ``python -m server.link``; everything it needs comes by ``inherit``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.bundle import bundle_digest, make_bundle, package_version
from protocol.children import Words, inherit
from protocol.errors import ConsiliumError
from protocol.keys import expiry_warning, load_certificate
from protocol.messages import PROTOCOL_VERSION
from protocol.versions import check_flower
from server.environment import be_quiet
from server.kit import ServerKit, load_kit, open_roster_book
from server.orders import OrderBook, read_json

_RELOAD_S = 1.0
_CLEAN_S = 30.0
_TAIL_BYTES = 2**20
_WARN_EVERY_S = 6 * 3600.0
_PASSES = 503  # a refusal that the site repeats until it is let in

logger = logging.getLogger("consilium.link")


@dataclass
class _Link:
    """What the process holds."""

    kit: ServerKit
    given: dict[str, Any]
    refusals: dict[str, dict[str, Any]] = field(default_factory=dict)
    registered: dict[str, int] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    epoch: int = 0  # of the roster whose nodes are registered
    _logged_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from server.flwr_adapter.link import SuperLink, speaks_for_itself  # noqa: PLC0415  be_quiet comes first

        for noisy in ("flwr", "alembic"):  # Flower sets its own level when it is imported
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._speaks = speaks_for_itself
        self.book = open_roster_book(self.kit)
        self.superlink = SuperLink(self.kit.state / "superlink.db", bytes.fromhex(self.given["superexec"]))
        self.about = {
            "federation": self.kit.config.name,
            "version": package_version(),
            "protocol": PROTOCOL_VERSION,
            "flower": check_flower(),
            "bundle": bundle_digest(make_bundle()),
        }
        self._warned_at, self._stamp = 0.0, _stamp(self.kit.certificate)
        self._cleaned_at = 0.0
        self.register()

    def register(self) -> None:
        """Let Flower know the nodes of the roster, and forget those that it no longer names."""
        roster = self.book.current
        named = {site.name: site.node_key.encode() for site in roster.sites}
        known = self.superlink.nodes()
        for key, view in known.items():
            if key not in named.values():
                with suppress(ValueError):
                    self.superlink.unregister(view.node)
        self.keys = named
        self.registered = self.superlink.register(named)
        for site in sorted(set(named) - set(self.registered)):
            logger.warning("%s cannot come in: its node key was taken away before; give it a new one", site)
        self.epoch = roster.epoch

    def info(self) -> dict[str, Any]:
        """What sites are told: versions, and the roster with its signature."""
        roster = self.book.current
        text = self.kit.roster.read_text(encoding="utf-8")
        return {**self.about, "epoch": roster.epoch, "roster": text}

    def told(self, who: str, path: str, why: str, status: int) -> None:
        """Keep what was refused for good, for the status; log each caller at most once a second."""
        before = self.refusals.get(who)
        if status != _PASSES:
            count = (before or {"count": 0})["count"] + 1
            self.refusals[who] = {"at": time.time(), "why": why, "count": count}
        if time.monotonic() > self._logged_at.get(who, 0.0) + 1.0:
            self._logged_at[who] = time.monotonic()
            logger.warning("refused %s at %s: %s", who, path, why)

    def pushes(self, body: bytes) -> None:
        """Refuse replies in another node's name."""
        from server.door import Refused  # noqa: PLC0415

        # Pieces of 5 MiB, and a few that hold no array.
        pieces = round(self.kit.config.max_reply_mib / 5) + 64
        if not self._speaks(body, pieces):
            raise Refused(403, "a reply in another node's name, or of too many pieces")

    def sites(self) -> dict[str, Any]:
        """What is known of each site of the roster: whether it is connected, and what it was refused."""
        nodes, found = self.superlink.nodes(), {}
        for site, key in sorted(self.keys.items()):
            view = nodes.get(key)
            status = "online" if view and view.status == "online" else "offline"
            ever = view is not None and view.status != "registered"
            found[site] = {"connection": status, "ever": ever, "refused": self.refusals.get(site)}
        return found

    async def keep_current(self, context: Any) -> None:
        """Take in a new roster and new certificates without a restart, and warn before they expire."""
        while True:
            await asyncio.sleep(_RELOAD_S)
            for look in (self._look_at_roster, lambda: self._look_at_certificate(context), self._clean):
                try:
                    await look()
                except Exception as error:  # noqa: BLE001  whatever it is: if this ended, nobody could be revoked
                    logger.warning("the roster or certificate on disk is not taken: %s", error)

    async def _look_at_roster(self) -> None:
        await asyncio.to_thread(self.book.reload)
        if self.book.current.epoch != self.epoch:
            await asyncio.to_thread(self.register)
            logger.warning("the roster of epoch %s is in force", self.epoch)

    async def _clean(self) -> None:
        if time.monotonic() > self._cleaned_at + _CLEAN_S:
            self._cleaned_at = time.monotonic()
            await asyncio.to_thread(self.superlink.clean)

    async def _look_at_certificate(self, context: Any) -> None:
        if (now := _stamp(self.kit.certificate)) != self._stamp:
            context.load_cert_chain(self.kit.certificate, self.kit.key)
            self._stamp = now
            logger.warning("the new certificate is in use")
        if time.monotonic() > self._warned_at:
            self._warned_at = time.monotonic() + _WARN_EVERY_S
            if said := expiry_warning(load_certificate(self.kit.certificate), time.time()):
                logger.warning("%s", said)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            found = deque(file.read().decode("utf-8", "replace").splitlines(), max(1, min(lines, 10_000)))
    except OSError:
        return []
    return list(found)


async def _serve(link: _Link, tell: Callable[[Words], None]) -> None:
    from server.door import Door  # noqa: PLC0415  these import Flower: be_quiet comes first
    from server.inner import Commands, Inner  # noqa: PLC0415
    from server.listeners import listen, public_context, serve  # noqa: PLC0415

    kit, app = link.kit, link.superlink.app
    context = public_context(kit.certificate, kit.key, kit.authority)
    allowance = 2 * kit.config.max_reply_mib * 2**20 + 64 * 2**20
    door = Door(app, link.book, time.time, link.info, link.told, link.pushes, allowance)
    commands = Commands(
        OrderBook(kit.orders),
        link.sites,
        lambda run: read_json(kit.state / f"status-{run}.json"),
        lambda run, lines: tail(kit.logs / f"run-{run}.log", lines),
    )
    inner = Inner(app, link.given["secret"], link.given["control"], commands)
    sockets = {name: socket.socket(fileno=link.given[f"{name}_fd"]) for name in ("public", "inner")}
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    servers = {
        "public": (listen(door, context, door.who), sockets["public"]),
        "inner": (listen(inner), sockets["inner"]),
    }
    async with link.superlink.lifespan():
        current = asyncio.create_task(link.keep_current(context))
        tell({"ready": True})
        await serve(servers, stop)
        current.cancel()


def main() -> None:
    """Serve until the supervisor ends this process, or is gone."""
    be_quiet()
    given, tell = inherit()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("uvicorn", "flwr", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        kit = load_kit(Path(given["kit"]))
        asyncio.run(_serve(_Link(kit, given), tell))
    except ConsiliumError as error:
        tell({"failed": json.dumps(str(error))})
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
