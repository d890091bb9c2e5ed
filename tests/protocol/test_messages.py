"""Messages: one JSON form each, immutable, bounded in every field."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from protocol.bounds import Frozen, Name
from protocol.fusing import FusionRequest, WholeRequest
from protocol.messages import Personal, Wire, assignment_id
from protocol.parts import PartOf
from tests.protocol.message_cases import CASES, TYPES

every_message = pytest.mark.parametrize(("message", "text"), CASES, ids=[type(m).__name__ for m, _ in CASES])
laws = settings(deadline=None, max_examples=100, derandomize=True)

# Instead of any number: what no finite bound admits. JSON itself has none of the words, but parsers do.
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "1e300", "-1e300", "-1")
SIGNED = frozenset({"mean"})  # what may well be below zero
HOLE = "the value that is replaced"


def holes(value: Any, spared: Collection[str] = ()) -> Iterator[Any]:
    """Yield ``value`` once for every number in it that is not under a spared key, replaced by HOLE."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in spared:
                yield from ({**value, key: changed} for changed in holes(inner, spared))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in holes(inner, spared))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield HOLE


def unbounded(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the path of everything in a JSON schema that may be as large as its sender likes."""
    for inner in schema.get("anyOf", ()):
        yield from unbounded(inner, path)
    kind, keys = schema.get("type"), schema.keys()
    if kind in {"integer", "number"}:
        if not keys & {"minimum", "exclusiveMinimum"} or not keys & {"maximum", "exclusiveMaximum"}:
            yield path
    elif kind == "string":
        endless = re.search(r"[*+]|^[^^]|[^$]$", schema.get("pattern", "*"))
        if endless and not keys & {"maxLength", "enum", "const"}:
            yield path
    elif kind == "array":
        yield from [] if "maxItems" in keys else [path]
        yield from unbounded(schema.get("items", {}), f"{path}[]")
    elif kind == "object":
        yield from unbounded_map(schema, path)


def unbounded_map(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield what is endless in a map: its number of keys, its keys, its values."""
    by_pattern = schema.get("patternProperties", {})
    names = [schema["propertyNames"]] if "propertyNames" in schema else [{"pattern": p} for p in by_pattern]
    values = [v for v in (schema.get("additionalProperties"), *by_pattern.values()) if isinstance(v, dict)]
    yield from [] if "maxProperties" in schema else [path]
    for name in names or [{}]:
        yield from unbounded({"type": "string", **name}, f"{path}(key)")
    for value in values:
        yield from unbounded(value, f"{path}(value)")


def test_every_type_has_a_case() -> None:
    """A message that is added must be added to the golden ones."""
    assert {type(message) for message, _ in CASES} == set(TYPES)


@every_message
def test_the_json_of_a_message_never_changes(message: Frozen, text: str) -> None:
    """Two releases of one protocol version write the same bytes and read each other's."""
    assert message.model_dump_json() == text
    assert type(message).model_validate_json(text) == message


@every_message
def test_a_message_cannot_be_changed(message: Frozen, text: str) -> None:
    """No field can be set, and none added."""
    for name in [*type(message).model_fields, "more"]:
        with pytest.raises(ValidationError):
            setattr(message, name, None)


@every_message
def test_an_unknown_field_is_refused(message: Frozen, text: str) -> None:
    """A sender that means more than this version knows is not half understood."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(message).model_validate_json(text[:-1] + ',"more":0}')


@every_message
def test_a_missing_field_is_refused(message: Frozen, text: str) -> None:
    """A field without a default must be there."""
    for name, info in type(message).model_fields.items():
        rest = {key: value for key, value in json.loads(text).items() if key != name}
        if info.is_required():
            with pytest.raises(ValidationError, match="Field required"):
                type(message).model_validate(rest)
        else:
            type(message).model_validate(rest)


@every_message
@pytest.mark.parametrize("number", NOT_NUMBERS)
def test_no_number_is_infinite_or_out_of_bounds(message: Frozen, text: str, number: str) -> None:
    """NaN, infinities, the huge and, but for a mean, the negative are refused wherever a number stands."""
    for changed in holes(json.loads(text), SIGNED if number == "-1" else ()):
        with pytest.raises(ValidationError):
            type(message).model_validate_json(json.dumps(changed).replace(f'"{HOLE}"', number))


@pytest.mark.parametrize("kind", TYPES)
def test_every_field_is_bounded(kind: type[Frozen]) -> None:
    """Every string, list and map has a largest length, every number a least and a largest value."""
    fields = kind.model_json_schema()["properties"]  # a message in a message is checked by itself
    assert [path for name, field in fields.items() for path in unbounded(field, name)] == []


def test_the_check_of_bounds_finds_what_has_none() -> None:
    """The law above can fail: each kind of field without a bound is found, in a map and a list too."""

    class Loose(Frozen):
        text: str
        number: float
        half: Annotated[int, Field(ge=0)]
        pattern: Annotated[str, StringConstraints(pattern="^a+$")]
        items: tuple[Name, ...] | None
        pairs: dict[str, float]
        fine: Name

    fields = Loose.model_json_schema()["properties"]
    found = [path for name, field in fields.items() for path in unbounded(field, name)]
    endless_map = ["pairs", "pairs(key)", "pairs(value)"]
    assert found == ["text", "number", "half", "pattern", "items", *endless_map]


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "../a", ".a", "-a", "a\n", "a\0", "é", "a" * 65, "<b>", "a\u202eb", "a:b", "~"]
)
def test_a_name_is_safe_in_a_path_a_log_and_html(name: str) -> None:
    """No name has a separator, a control character, markup, or more than 64 characters."""
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,10}\Z")
parts = st.tuples(names, st.integers(0, 99), names, names, st.integers(1, 99))


@laws
@given(parts, parts)
def test_an_assignment_id_names_one_assignment(a: Any, b: Any) -> None:
    """Two assignments share an id if and only if they are the same."""
    assert (assignment_id(*a) == assignment_id(*b)) == (a == b)


def test_an_assignment_and_its_contribution_share_the_id() -> None:
    """What comes back is matched by the id of what was asked."""
    ids = {message.id for message, _ in CASES if hasattr(message, "id")}
    assert ids == {"r1/3/tumour/north/2"}


def test_two_candidates_of_one_name_are_refused() -> None:
    """A fusion weight belongs to one candidate."""
    text = next(text for message, text in CASES if isinstance(message, FusionRequest))
    twice = text.replace('"candidates":[', '"candidates":[{"name":"final","model":"mlp"},')
    with pytest.raises(ValidationError, match="two candidates have one name"):
        FusionRequest.model_validate_json(twice)


def test_a_bare_word_is_the_form_or_the_rule() -> None:
    """What has sensible parameters is written as one word, which means the same as the table."""
    assert Wire.model_validate("uint8") == Wire(form="uint8")
    assert Personal.model_validate("ditto") == Personal(rule="ditto")
    for kind in (Wire, Personal):
        with pytest.raises(ValidationError, match="Input should be"):
            kind.model_validate("fp23")


@pytest.mark.parametrize(
    ("rule", "keeps"), [("fedper", True), ("fedrep", True), ("fedbn", True), ("ditto", False)]
)
def test_only_ditto_leaves_the_global_model_whole(rule: Any, keeps: bool) -> None:
    """All other personal rules keep layers at the sites, so that no party has a whole global model."""
    assert Personal(rule=rule).keeps_layers is keeps


def test_groups_go_with_their_fusion() -> None:
    """A product is of modalities, every other fusion of groups; and a part of before has neither."""
    whole = next(message for message, _ in CASES if isinstance(message, WholeRequest))
    with pytest.raises(ValidationError, match="of modalities"):
        WholeRequest.model_validate(whole.model_dump() | {"fusion": "product"})
    with pytest.raises(ValidationError, match="of modalities"):
        WholeRequest.model_validate(whole.model_dump() | {"groups": {}, "outside": None})
    old = PartOf.model_validate_json('{"whole":"w","labels":["a"],"classes":[0]}')
    assert not old.is_modality
