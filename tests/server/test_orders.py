"""The order book: what is submitted is kept whole, and a reader never sees half of a change."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from server.orders import LIVE, MAX_TEXT, Order, OrderBook, read_json, write_aside


@pytest.fixture
def book(tmp_path: Path) -> OrderBook:
    """An empty book."""
    return OrderBook(tmp_path / "orders")


def test_an_order_is_kept(book: OrderBook, tmp_path: Path) -> None:
    """What was submitted is there for another process, with its text."""
    order = book.submit("r1", 'name = "ä"\n', 5.0)
    assert order == Order(run="r1", state="queued", submitted_at=5.0, since=5.0)
    other = OrderBook(tmp_path / "orders")
    assert other.get("r1") == order
    assert other.text_path("r1").read_text(encoding="utf-8") == 'name = "ä"\n'
    assert stat.S_IMODE((tmp_path / "orders").stat().st_mode) == 0o700
    changed = order.model_copy(update={"state": "running", "starts": 2})
    other.put(changed)
    assert book.get("r1") == changed


def test_a_name_is_used_once(book: OrderBook) -> None:
    """A second order of the same name is refused and changes nothing of the first."""
    book.submit("r1", "first", 1.0)
    with pytest.raises(ConfigError, match="'r1' is there already"):
        book.submit("r1", "second", 2.0)
    assert book.text_path("r1").read_text() == "first"
    assert [order.submitted_at for order in book.all()] == [1.0]


def test_texts_have_bounds(book: OrderBook) -> None:
    """A text that is too long in bytes, or no text, leaves nothing behind: its name stays free."""
    book.submit("most", "x" * MAX_TEXT, 1.0)
    for text, why in (("ä" * (MAX_TEXT // 2 + 1), "more than"), ("\ud800", "UTF-8")):
        with pytest.raises(ConfigError, match=why):
            book.submit("r1", text, 1.0)
    assert not book.text_path("r1").exists()
    book.submit("r1", "", 1.0)


def test_a_run_that_ended_goes_on(book: OrderBook, tmp_path: Path) -> None:
    """Marked by whoever is asked, it is queued by whoever works: without stop mark, its count anew."""
    order = book.submit("r1", "", 1.0).model_copy(update={"state": "stopped", "starts": 9, "why": "asked"})
    book.put(order)
    book.ask_stop("r1")
    assert book.next_live() is None
    OrderBook(tmp_path / "orders").ask_resume("r1")
    found = book.next_live()
    assert found is not None
    assert (found.state, found.starts, found.why, found.submitted_at) == ("queued", 0, "", 1.0)
    assert not book.is_to_stop("r1")
    assert sorted(p.name for p in (tmp_path / "orders").iterdir()) == ["r1.json", "r1.toml"]


def test_a_live_run_is_not_queued_twice(book: OrderBook) -> None:
    """To resume what is being worked on changes nothing; of a run that is not there, neither."""
    order = book.submit("r1", "", 1.0).model_copy(update={"state": "running", "starts": 3})
    book.put(order)
    book.ask_resume("r1")
    book.ask_resume("nobody")
    assert book.next_live() == order


def test_baselines_are_kept(book: OrderBook) -> None:
    """Whether each site trains alone as well is the order's; orders of earlier servers say yes."""
    assert not book.submit("r1", "", 1.0, baselines=False).baselines
    found = book.get("r1")
    assert found is not None
    assert not found.baselines
    assert book.submit("r2", "", 1.0).baselines
    assert Order.model_validate({"run": "r3", "submitted_at": 1.0, "since": 1.0}).baselines


def test_a_submission_that_was_cut_off(
    book: OrderBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, there is a whole order or none; a text without its order is written over."""
    real, left = os.fsync, 0

    def full(fd: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    for writes in (0, 1, 2):
        left = writes
        with pytest.raises(OSError, match="No space"):
            book.submit("r1", "old", 1.0)
        assert (book.get("r1"), book.next_live()) == (None, None)
    assert book.text_path("r1").read_text() == "old"
    left = 4
    book.submit("r1", "new", 2.0)
    assert book.text_path("r1").read_text() == "new"
    assert [order.submitted_at for order in book.all()] == [2.0]


def test_what_is_next(book: OrderBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that has not ended; what has ended is read once, for a server keeps all its orders."""
    assert book.next_live() is None
    for number in range(20):
        order = book.submit(f"old-{number}", "", 1.0)
        book.put(order.model_copy(update={"state": ("finished", "failed", "stopped")[number % 3]}))
    for run, at in (("b", 3.0), ("c", 2.0), ("a", 3.0)):
        book.submit(run, "", at)
    reads = list[str]()
    real = OrderBook.get

    def get(self: OrderBook, run: str) -> Order | None:
        reads.append(run)
        return real(self, run)

    monkeypatch.setattr(OrderBook, "get", get)
    for run in ("c", "a", "b"):
        for state in ("queued", "running", "stopping"):
            found = book.next_live()
            assert found is not None
            assert found.run == run
            book.put(found.model_copy(update={"state": state}))
        book.put(found.model_copy(update={"state": "finished"}))
    assert book.next_live() is None
    assert sum(run.startswith("old") for run in reads) == 20
    book.submit("d", "", 9.0)
    assert book.next_live() == book.get("d")


def test_the_order_of_submission(book: OrderBook) -> None:
    """Orders come by the time of their submission, those of one moment by name."""
    for run, at in (("b", 2.0), ("c", 1.0), ("a", 2.0)):
        book.submit(run, "", at)
    assert [order.run for order in book.all()] == ["c", "a", "b"]


def test_what_cannot_be_read_is_no_order(book: OrderBook, tmp_path: Path) -> None:
    """A missing, broken or foreign file harms no other order."""
    book.submit("r1", "", 1.0)
    for name, text in (("cut", '{"run": "cu'), ("other", '{"run": "other"}'), ("more", "[]")):
        (tmp_path / "orders" / f"{name}.json").write_text(text)
        assert book.get(name) is None
    (tmp_path / "orders/.r2.json.77").write_text("{}")  # of a process that was killed while it wrote
    assert book.get("none") is None
    assert [order.run for order in book.all()] == ["r1"]


def test_stop_marks(book: OrderBook, tmp_path: Path) -> None:
    """A mark is seen by all processes and may be set twice."""
    book.submit("r1", "", 1.0)
    assert not book.is_to_stop("r1")
    book.ask_stop("r1")
    book.ask_stop("r1")
    assert OrderBook(tmp_path / "orders").is_to_stop("r1")
    assert not book.is_to_stop("r2")
    assert [order.run for order in book.all()] == ["r1"]


def test_states() -> None:
    """An order lives until it has ended."""
    assert set(LIVE) == {"queued", "running", "stopping"}


def test_a_reader_sees_the_old_or_the_new(tmp_path: Path) -> None:
    """While a file is written again and again, every look at it finds one whole text."""
    path, looks = tmp_path / "status.json", 0
    write_aside(path, json.dumps({"n": 0, "pad": ""}))
    done = threading.Event()

    def write() -> None:
        for n in range(60):
            write_aside(path, json.dumps({"n": n, "pad": "x" * 200_000}))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    last = 0
    while not done.is_set():
        found = read_json(path)
        assert found["n"] >= last
        last, looks = found["n"], looks + 1
    writer.join()
    assert looks > 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves what was there; the bytes are on the disk before the name is."""
    path, calls = tmp_path / "a", list[str]()
    write_aside(path, "old")
    real, replace = os.fsync, Path.replace

    def sync(fd: int) -> None:
        calls.append("sync")
        real(fd)

    def rename(aside: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(aside, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    write_aside(path, "new")
    assert calls == ["sync", "rename", "sync"]

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_aside(path, "newer")
    assert path.read_text() == "new"


@pytest.mark.parametrize("text", ["", "{", "[1]", "1", "\x80"])
def test_no_table(tmp_path: Path, text: str) -> None:
    """What is no table in JSON, or not there, is an empty one."""
    path = tmp_path / "x.json"
    assert read_json(path) == {}
    path.write_bytes(text.encode("latin-1"))
    assert read_json(path) == {}
