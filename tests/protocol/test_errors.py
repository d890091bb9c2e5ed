"""The exception family: the tree in its docstring is the tree of its classes."""

from __future__ import annotations

import inspect
import re

import pytest
from pydantic import TypeAdapter

from protocol import errors
from protocol.bounds import Name

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.ConsiliumError)]


def test_the_docstring_draws_the_classes() -> None:
    """Every class stands once in the drawing, under its base, and nothing else does."""
    drawn, above = {}, {"": ""}
    for indent, mark, name in re.findall(r"^( *)([*x+-]) (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = "*x+-".index(mark)
        assert len(indent) == 2 * depth
        above[mark] = name
        drawn[name] = above["*x+-"[depth - 1]] if depth else "Exception"
    assert drawn == {c.__name__: c.__base__.__name__ for c in CLASSES if c.__base__ is not None}


def test_codes_tell_the_classes_apart() -> None:
    """A code stands for one class in logs and on the wire, so it is unique and a name."""
    codes = [c.code for c in CLASSES]
    assert len(codes) == len(set(codes))
    assert all(TypeAdapter(Name).validate_python(code) == code for code in codes)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_its_message(kind: type[errors.ConsiliumError]) -> None:
    """What is raised prints as the one line that it was given."""
    assert str(kind("file, line 3: a date is missing")) == "file, line 3: a date is missing"
