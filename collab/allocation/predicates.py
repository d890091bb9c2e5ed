"""Rules of ``[allocation.rules]``: predicates on a site, parsed and never evaluated as code.

    memory_mib >= 256 and "digits" in data
    gpu or 100 < examples["digits"] <= 5000

A rule is walked once against a short list of what may stand in it; each piece becomes a
closure with a known type, so a comparison of unlike things is refused when the file is read
and not in round 7.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from collab.allocation.contract import SiteView
from collab.plugins import unknown
from protocol.errors import ConfigError

Rule = Callable[[SiteView], bool]

MAX_LENGTH = 500
MAX_DEPTH = 20

NUMBERS = ("memory_mib", "gpu_memory_mib", "examples_per_s", "bandwidth_mbit", "price")
NAMES = (*NUMBERS, "gpu", "data", "examples")

_ALLOWED = (
    "allowed are and, or, not, comparisons, in, not in, numbers, quoted subtasks, true, false, "
    + ", ".join((*NUMBERS, "gpu", "data"))
    + ' and examples["SUBTASK"]'
)

_COMPARISONS = (
    "<, <=, > and >= take numbers, == and != numbers or conditions, in and not in a quoted subtask and data"
)

_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = MappingProxyType(
    {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
)
_EQUALITY: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = MappingProxyType(
    {ast.Eq: operator.eq, ast.NotEq: operator.ne}
)
_MEMBERSHIP: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = MappingProxyType(
    {ast.In: lambda name, names: name in names, ast.NotIn: lambda name, names: name not in names}
)


@dataclass(frozen=True)
class _Term:
    """A compiled piece: the type of its value and how to get it from a site."""

    type: str  # "a number", "a condition", "a quoted subtask" or "data"
    value: Callable[[SiteView], Any]


def compile_rule(text: str, subtasks: Collection[str] | None = None) -> Rule:
    """Return the predicate that ``text`` describes.

    Args:
        text: the rule, at most 500 characters.
        subtasks: if given, the names that may stand in quotes.

    Raises:
        ConfigError: ``text`` is no rule; the message names the piece and what is allowed.
    """
    term = _Compiler(text, subtasks).compile()
    return lambda site: bool(term.value(site))


class _Compiler:
    """Walks one rule; keeps its text for the messages."""

    def __init__(self, text: str, subtasks: Collection[str] | None) -> None:
        self._text = text
        self._subtasks = subtasks
        self._handlers: Mapping[type[ast.expr], Callable[[Any], _Term]] = {
            ast.BoolOp: self._all_or_any,
            ast.UnaryOp: self._unary,
            ast.Compare: self._compare,
            ast.Constant: self._constant,
            ast.Name: self._name,
            ast.Subscript: self._examples,
        }

    def compile(self) -> _Term:
        return self._boolean(_parse(self._text))

    def _term(self, node: ast.expr) -> _Term:
        handler = self._handlers.get(type(node))
        if handler is None:
            raise self._refusal(node, "is not allowed")
        return handler(node)

    def _boolean(self, node: ast.expr) -> _Term:
        term = self._term(node)
        if term.type != "a condition":
            raise self._refusal(node, f"is {term.type} where a condition is needed")
        return term

    def _all_or_any(self, node: ast.BoolOp) -> _Term:
        values = [self._boolean(value).value for value in node.values]
        if isinstance(node.op, ast.And):
            return _Term("a condition", lambda site: all(value(site) for value in values))
        return _Term("a condition", lambda site: any(value(site) for value in values))

    def _unary(self, node: ast.UnaryOp) -> _Term:
        if isinstance(node.op, ast.Not):
            denied = self._boolean(node.operand).value
            return _Term("a condition", lambda site: not denied(site))
        number = self._term(node.operand)
        if not isinstance(node.op, ast.USub) or not isinstance(node.operand, ast.Constant):
            raise self._refusal(node, "is not allowed")
        if number.type != "a number":
            raise self._refusal(node, "is not a number")
        return _Term("a number", lambda site: -number.value(site))

    def _compare(self, node: ast.Compare) -> _Term:
        sides = [self._term(side) for side in (node.left, *node.comparators)]
        links = [
            (left.value, self._comparison(node, op, left, right), right.value)
            for op, left, right in zip(node.ops, sides, sides[1:], strict=False)
        ]
        return _Term("a condition", lambda site: all(holds(a(site), b(site)) for a, holds, b in links))

    def _comparison(
        self, node: ast.Compare, op: ast.cmpop, left: _Term, right: _Term
    ) -> Callable[[Any, Any], bool]:
        pair = (left.type, right.type)
        if type(op) in _ORDER and pair == ("a number", "a number"):
            return _ORDER[type(op)]
        if type(op) in _EQUALITY and left.type == right.type and left.type in {"a number", "a condition"}:
            return _EQUALITY[type(op)]
        if type(op) in _MEMBERSHIP and pair == ("a quoted subtask", "data"):
            return _MEMBERSHIP[type(op)]
        raise self._refusal(node, f"does not go between {left.type} and {right.type}; {_COMPARISONS}")

    def _constant(self, node: ast.Constant) -> _Term:
        value = node.value
        if isinstance(value, bool):
            return _Term("a condition", lambda _site: value)
        if isinstance(value, (int, float)) and abs(value) < math.inf:
            return _Term("a number", lambda _site: value)
        if isinstance(value, str):
            name = self._known(value)
            return _Term("a quoted subtask", lambda _site: name)
        raise self._refusal(node, "is not allowed")

    def _name(self, node: ast.Name) -> _Term:
        name = node.id
        if name in NUMBERS:
            return _Term("a number", operator.attrgetter(name))
        if name in {"true", "false"}:
            return _Term("a condition", lambda _site: name == "true")
        if name == "examples":
            raise self._refusal(node, 'needs a subtask: examples["SUBTASK"]')
        if name not in NAMES:
            raise ConfigError(unknown(f"name '{name}' in rule {self._text!r}", name, NAMES))
        return _Term("a condition", operator.attrgetter("gpu")) if name == "gpu" else _Term("data", _data)

    def _examples(self, node: ast.Subscript) -> _Term:
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if not (isinstance(node.value, ast.Name) and node.value.id == "examples" and isinstance(key, str)):
            raise self._refusal(node, "is not allowed")
        name = self._known(key)
        return _Term("a number", lambda site: site.examples.get(name, 0))

    def _known(self, name: str) -> str:
        if self._subtasks is not None and name not in self._subtasks:
            raise ConfigError(unknown(f"subtask '{name}' in rule {self._text!r}", name, self._subtasks))
        return name

    def _refusal(self, node: ast.expr, problem: str) -> ConfigError:
        source = ast.get_source_segment(self._text.strip(), node) or ""
        piece = " ".join(source.split())  # a rule may run over lines, a message may not
        return ConfigError(f"rule {self._text!r}: '{piece}' {problem}; {_ALLOWED}")


def _data(site: SiteView) -> frozenset[str]:
    return frozenset(name for name, count in site.examples.items() if count > 0)


def _parse(text: str) -> ast.expr:
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"a rule must be text that is not empty; {_ALLOWED}")
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"a rule has {len(text)} characters, at most {MAX_LENGTH} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python only warns about, such as '1in data', is refused
            body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
        raise ConfigError(f"rule {text!r} is no condition: {problem}; {_ALLOWED}") from None
    _check_depth(body, text)
    return body


def _check_depth(body: ast.expr, text: str) -> None:
    # Level by level and not by recursion, which a hostile text could exhaust.
    level: list[ast.AST] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            child for node in level for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)
        ]
        if not level:
            return
    raise ConfigError(f"rule {text!r} is nested deeper than {MAX_DEPTH} levels: write it flatter")
