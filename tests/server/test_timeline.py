"""Geometry of the allocation timeline."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.timeline import Timeline, letters, timeline

ASKED = st.sets(
    st.tuples(st.integers(1, 100), st.integers(0, 39), st.integers(0, 9)), min_size=1, max_size=60
)


def laid_out(asked: set[tuple[int, int, int]]) -> Timeline:
    """Lay out assignments given as (round, site, subtask)."""
    rows: list[dict[str, Any]] = [
        {"round": r, "site": f"site-{s}", "subtask": f"task-{t}", "outcome": "contributed"}
        for r, s, t in sorted(asked)
    ]
    found = timeline({"allocations": rows})
    assert found is not None
    return found


@settings(deadline=None)
@given(ASKED)
def test_boxes_lie_in_the_picture_and_never_overlap(asked: set[tuple[int, int, int]]) -> None:
    """Each assignment has one box of its own, also where a site works on several subtasks in a round."""
    found = laid_out(asked)
    assert len(found.cells) == len(asked)
    for i, one in enumerate(found.cells):
        assert min(one.width, one.height) > 0
        assert 0 <= one.x <= one.x + one.width <= found.width
        assert 0 <= one.y <= one.y + one.height <= found.height
        for other in found.cells[:i]:
            beside = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert beside or one.y + one.height <= other.y or other.y + other.height <= one.y


def test_letters_tell_subtasks_apart() -> None:
    """However many subtasks there are, no two share a mark, though colours repeat."""
    marks = letters([f"task-{i}" for i in range(60)])
    assert len(set(marks.values())) == 60


def test_nothing_asked_nothing_drawn() -> None:
    """Without assignments there is no picture rather than an empty one."""
    assert timeline({"allocations": []}) is None
