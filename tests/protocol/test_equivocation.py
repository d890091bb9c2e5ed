"""The book of answers: the same again is fine, another answer is not, and the book has an end."""

from __future__ import annotations

import pytest

from protocol.equivocation import Answers
from protocol.errors import EquivocationError

ASKED, BODY, OTHER = b"q" * 32, b"a" * 32, b"b" * 32


def test_two_answers_are_one_too_many() -> None:
    """The same answer is told apart from the first; another one names the sender, and the first one stays."""
    book = Answers()
    assert book.note("north", "train", "t", ASKED, BODY) == "new"
    assert book.note("north", "train", "t", ASKED, BODY) == "same"
    with pytest.raises(EquivocationError, match="'north' has given two answers"):
        book.note("north", "train", "t", ASKED, OTHER)
    assert book.note("north", "train", "t", ASKED, BODY) == "same"


def test_other_questions_have_other_answers() -> None:
    """Sender, kind, task and question together are what is answered."""
    book = Answers()
    questions = [
        ("north", "train", "t", ASKED),
        ("south", "train", "t", ASKED),
        ("north", "eval", "t", ASKED),
    ]
    questions += [
        ("north", "train", "u", ASKED),
        ("north", "train", "t", OTHER),
        ("north", "trai", "nt", ASKED),
    ]
    for i, question in enumerate(questions):
        assert book.note(*question, bytes([i]) * 32) == "new"


def test_the_oldest_is_forgotten() -> None:
    """A sender that answers much forgets its own oldest answers and nobody else's."""
    book = Answers(per_sender=2)
    book.note("south", "train", "t0", ASKED, BODY)
    for i in range(3):
        book.note("north", "train", f"t{i}", ASKED, BODY)
    assert book.note("north", "train", "t2", ASKED, BODY) == "same"
    assert book.note("south", "train", "t0", ASKED, BODY) == "same"
    assert book.note("north", "train", "t0", ASKED, OTHER) == "new"


def test_senders_have_an_end() -> None:
    """There are no more senders in the book than it may hold."""
    book = Answers(senders=2)
    for name in ("a", "b", "c"):
        book.note(name, "train", "t", ASKED, BODY)
    assert book.note("c", "train", "t", ASKED, BODY) == "same"
    assert book.note("a", "train", "t", ASKED, OTHER) == "new"


def test_the_message_is_one_line() -> None:
    """Whatever the task is called, the refusal is printable."""
    book = Answers()
    book.note("north", "train", "a\nb", ASKED, BODY)
    with pytest.raises(EquivocationError) as caught:
        book.note("north", "train", "a\nb", ASKED, OTHER)
    assert str(caught.value).isprintable()
