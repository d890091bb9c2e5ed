"""The site's ledger against a model of plain tables, whatever happens in whatever order, and kills."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clients.ledger import Known, Ledger, Result
from protocol.errors import RunError, StateError
from tests.clients.ledger_cases import KIND, LONG, opened, result

KEYS = ("local", "residual", "upstream")
QUERY = "query.trial"
RUN = "r"
Memory = dict[str, bytes]


@dataclass(frozen=True)
class Done:
    """A result as the model knows it: what it started from, and the memory that it left behind."""

    kind: str
    parent: bytes
    given: Result
    after: Memory


class Books(RuleBasedStateMachine):
    """One run at a site. The model keeps every memory whole; the ledger has changes and undoes them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.book = Ledger(self.folder, 64)
        self.done: dict[bytes, Done] = {}
        self.head, self.lease, self.count = b"", 1, 0

    def teardown(self) -> None:
        """Close the book."""
        self.book.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        """The first message."""
        self.book.fence(RUN, self.lease)

    def line(self, version: bytes) -> list[bytes]:
        """A version and all that it came from, as far as that is kept."""
        found = [version]
        while found[-1] in self.done:
            found.append(self.done[found[-1]].parent)
        return found

    def is_here(self, version: bytes) -> bool:
        """Whether the memory can be of a version."""
        return bool(set(self.line(version)) & set(self.line(self.head)))

    def memory_of(self, version: bytes) -> Memory:
        """The memory of a version: what a result left behind, or what one that is forgotten must have."""
        return self.known[version]

    known: dict[bytes, Memory]

    @initialize()
    def no_memory(self) -> None:
        """Before any work."""
        self.known = {b"": {}}

    def forget(self, name: bytes) -> None:
        """What is made anew takes all that came of it along."""
        for other in [one for one, done in self.done.items() if done.parent == name and one != name]:
            self.forget(other)
        self.done.pop(name, None)

    def work(self, name: bytes, kind: str, data: st.DataObject) -> None:
        """Do a work from the memory that there is, and keep it."""
        self.count += 1
        values = st.sampled_from([None, b"short", b"long"])
        drawn = data.draw(st.dictionaries(st.sampled_from(KEYS), values, max_size=3))
        mark = b"%d" % self.count
        changes = {k: v and (mark * LONG if v == b"long" else v + mark) for k, v in drawn.items()}
        before, given = self.memory_of(self.head), result(mark, mark * LONG, kind=kind)
        self.book.commit(RUN, kind, name, given, changes, parent=self.head, lease=self.lease)
        self.forget(name)
        after = dict(before)
        if kind == KIND:
            after |= {k: v for k, v in changes.items() if v is not None}
            after = {k: v for k, v in after.items() if changes.get(k, v) is not None}
            self.known[name] = after
        self.done[name] = Done(kind, self.head, given, after)
        self.head = name if kind == KIND else self.head

    @rule(
        number=st.integers(0, 5),
        about=st.integers(0, 6),
        kind=st.sampled_from([KIND, KIND, QUERY]),
        data=st.data(),
    )
    def ask(self, number: int, about: int, kind: str, data: st.DataObject) -> None:
        """Ask for one of a few works, from any version that there ever was; do it where that is needed."""
        name = b"%s-%d" % (kind[:5].encode(), number)
        versions = [b"", *(n for n in sorted(self.known) if n), self.head]
        previous = versions[min(about, len(versions) - 1)]
        expected = self._expected(name, kind, previous)
        if expected == "state":
            with pytest.raises(StateError):
                self.book.recall(RUN, kind, name, previous)
            return
        assert self.book.recall(RUN, kind, name, previous) == expected
        if isinstance(expected, Known):
            self.head = self.head if kind == QUERY or name in self.line(previous) else name
            return
        self.book.turn(RUN, previous)
        self.head = previous
        self.work(name, kind, data)

    def _expected(self, name: bytes, kind: str, previous: bytes) -> Known | str | None:
        done, behind = self.done.get(name), self.line(previous)
        if kind == QUERY:
            if done is not None and done.parent in (b"", *behind):
                return Known(done.given, previous)
        elif name in behind:
            return Known(done.given, previous) if done is not None else "state"
        elif done is not None and done.parent == previous:
            return Known(done.given, name) if self.is_here(name) else "state"
        return None if self.is_here(previous) else "state"

    @rule(about=st.integers(0, 6))
    def turn(self, about: int) -> None:
        """Go to any version that there ever was, if it is still here."""
        versions = sorted(self.known)
        version = versions[min(about, len(versions) - 1)]
        if self.is_here(version):
            self.book.turn(RUN, version)
            self.head = version
        else:
            with pytest.raises(StateError):
                self.book.turn(RUN, version)

    @precondition(lambda self: len(self.done) > 0)
    @rule(data=st.data())
    def stale(self, data: st.DataObject) -> None:
        """A work that started from another version than there is now is not kept."""
        other = data.draw(st.sampled_from([b"?", *sorted(self.known)]))
        if other != self.head:
            with pytest.raises(StateError):
                self.book.commit(RUN, KIND, b"stale", result(b"x"), {"local": b"x"}, parent=other, lease=99)
            assert self.book.result(RUN, b"stale") is None

    @rule()
    def reopen(self) -> None:
        """The agent was started again."""
        self.book.close()
        self.book = Ledger(self.folder, 64)

    @rule(by=st.integers(0, 2))
    def another_process(self, by: int) -> None:
        """The server's process was replaced: the memory stays."""
        self.lease += by
        self.book.fence(RUN, self.lease)

    @rule()
    def replaced_process(self) -> None:
        """One that was replaced is refused, and so is what it asked for."""
        if self.lease > 1:
            with pytest.raises(RunError):
                self.book.fence(RUN, self.lease - 1)
            with pytest.raises(RunError):
                self.book.commit(RUN, KIND, b"old", result(b"x"), {}, parent=self.head, lease=self.lease - 1)

    @rule(many=st.integers(1, 3))
    def make_room(self, many: int) -> None:
        """The oldest results go, but for the one that the memory came from."""
        for _ in range(many):
            names = self.book._db.execute("SELECT asked FROM results ORDER BY number").fetchall()
            oldest = [name for (name,) in names if name != self.head][:1]
            if oldest:
                (total,) = self.book._db.execute("SELECT SUM(bytes) FROM results").fetchone()
                self.book._max_bytes = (total - 1) * 4 // 3 + 2
                self.book._make_room(RUN, self.book._max_bytes - total + 1)
        left = {name for (name,) in self.book._db.execute("SELECT asked FROM results")}
        assert self.head in left or self.head not in self.done
        self.done = {name: done for name, done in self.done.items() if name in left}
        self.book._max_bytes = 2**26

    @invariant()
    def the_memory_is_that_of_its_version(self) -> None:
        """And every result that is kept has the bytes that it had."""
        assert self.book.memory(RUN) == self.memory_of(self.head)
        for name, done in self.done.items():
            assert self.book.result(RUN, name) == done.given


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# Kills.


def _killed_after(folder: Path, statements: int) -> bool:
    """Turn from version 3 to the branch of ``other`` in a child that kills itself; say if it was killed."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        book, count = Ledger(folder, 64), [0]

        def tick(sql: str) -> None:
            count[0] += 1
            if count[0] > statements:
                os.kill(os.getpid(), signal.SIGKILL)

        book._db.set_trace_callback(tick)
        book.turn(RUN, b"other")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_a_site_that_is_killed_on_the_way_back_is_at_one_end_of_it(tmp_path: Path) -> None:
    """Before any statement of undoing three results and redoing another: the memory is of one of the two."""
    with opened(tmp_path) as book:
        book.commit(RUN, KIND, b"other", result(b"o"), {"o": b"o" * LONG}, parent=b"")
        book.turn(RUN, b"")
        parent = b""
        for name in (b"1", b"2", b"3"):
            book.commit(RUN, KIND, name, result(name), {"n": name * LONG, name.decode(): name}, parent=parent)
            parent = name
    ends = {b"3": {"n": b"3" * LONG, "1": b"1", "2": b"2", "3": b"3"}, b"other": {"o": b"o" * LONG}}
    seen = set()
    for step in range(200):
        killed = _killed_after(tmp_path, step)
        with opened(tmp_path) as book:
            memory = book.memory(RUN)
            head = book._db.execute("SELECT head FROM heads").fetchone()[0]
            assert memory == ends[head]
            seen.add(head)
            book.turn(RUN, b"3")
            assert book.memory(RUN) == ends[b"3"]
        if not killed:
            break
    assert not killed
    assert step > 10
    assert seen == set(ends)
