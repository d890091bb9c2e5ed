"""Rules on a site: what they mean, and that nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.allocation.contract import SiteView
from collab.allocation.predicates import MAX_DEPTH, MAX_LENGTH, NUMBERS, compile_rule
from protocol.errors import ConfigError

SITE = SiteView(
    name="north",
    memory_mib=512.0,
    gpu=True,
    gpu_memory_mib=8192.0,
    examples_per_s=300.0,
    bandwidth_mbit=20.0,
    price=1.5,
    examples={"digits": 120, "tumour": 0},
    seconds={},
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('memory_mib >= 256 and "digits" in data', True),
        ("memory_mib > 512", False),
        ("memory_mib >= 512", True),
        ("100 < memory_mib <= 512", True),
        ("100 < memory_mib < 512", False),
        ("gpu", True),
        ("not gpu", False),
        ("gpu == false", False),
        ("gpu != False", True),
        ("true", True),
        ("gpu and gpu_memory_mib >= 1e4", False),
        ("gpu_memory_mib >= 1e4 or price < 2", True),
        ("not (gpu and price > 2)", True),
        ("bandwidth_mbit == 20", True),
        ("examples_per_s != 300", False),
        ("price > -1", True),
        ('"tumour" in data', False),
        ('"notes" not in data', True),
        ("'digits' in data", True),
        ('examples["digits"] >= 100', True),
        ('examples["notes"] == 0', True),
        ('  100 < examples["digits"] < examples_per_s  ', True),
        ("(memory_mib >= 256\n and gpu)", True),
    ],
)
def test_a_rule_means_what_it_says(text: str, holds: bool) -> None:
    """Rules read as in Python; a subtask without examples is not in the data and has 0 of them."""
    assert compile_rule(text)(SITE) is holds


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("data.clear()", "data.clear()"),
        ("gpu if gpu else gpu", "gpu if gpu else gpu"),
        ("(lambda: gpu)()", "(lambda: gpu)()"),
        ("[s for s in data] == data", "[s for s in data]"),
        ("memory_mib * 2 > 100", "memory_mib * 2"),
        ("-memory_mib < 0", "-memory_mib"),
        ("+1 < 2", "+1"),
        ("(x := 3) > 2", "x := 3"),
        ("price > 1e999", "1e999"),
        ("price > 2j", "2j"),
        ("price > None", "None"),
        ('price["digits"] > 1', 'price["digits"]'),
        ("examples[0] > 1", "examples[0]"),
        ("examples > 1", "examples"),
        ("f'{price}' in data", "f'{price}'"),
        ("gpu.__class__", "gpu.__class__"),
        ("price.real > 1", "price.real"),
        ("(memory_mib\n * 2) > 1", "memory_mib * 2"),
    ],
)
def test_what_is_not_on_the_list_is_named(text: str, piece: str) -> None:
    """Anything but the listed pieces is refused with the piece and with what is allowed."""
    with pytest.raises(ConfigError, match="allowed are and, or, not") as refused:
        compile_rule(text)
    assert piece in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        '"a" > 3',
        '"digits" == "digits"',
        "gpu > 1",
        "gpu == 1",
        "memory_mib in data",
        "data in data",
        "data == data",
        '"digits" in "digits"',
        "gpu is True",
        "memory_mib and gpu",
        "not price",
        "memory_mib",
        '"digits"',
        "data",
        "3",
        "-True < 2",
        '-"a" < 2',
    ],
)
def test_unlike_things_are_refused_when_read(text: str) -> None:
    """Types are checked at parse time, before any site is seen."""
    with pytest.raises(ConfigError, match="rule "):
        compile_rule(text)


@pytest.mark.parametrize(
    "text",
    ["", "   ", "memory_mib >=", "1in data", "gpu; gpu", "gpu = true", r"'\d' in data", "\0", "(" * 300],
)
def test_what_is_no_expression_is_a_config_error(text: str) -> None:
    """Text that Python cannot read, or reads with a warning, is refused as a rule."""
    with pytest.raises(ConfigError, match="rule"):
        compile_rule(text)


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the pen is answered with the name that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'memory_mib'"):
        compile_rule("memory >= 256")


@pytest.mark.parametrize("text", ['"digts" in data', 'examples["digts"] > 3'])
def test_an_unknown_subtask_suggests_the_nearest_if_they_are_given(text: str) -> None:
    """With the subtasks at hand a misspelt one is an error, not a rule that never holds."""
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        compile_rule(text, subtasks=["digits", "tumour"])
    assert compile_rule(text)(SITE) is False


def test_length_and_depth_are_bounded() -> None:
    """A rule at the bounds is read; one beyond them is refused, and no nesting ends in a RecursionError."""
    longest = "gpu" + " and gpu" * ((MAX_LENGTH - 3) // 8)
    assert compile_rule(longest)(SITE) is True
    with pytest.raises(ConfigError, match=f"at most {MAX_LENGTH}"):
        compile_rule("gpu" + " " * MAX_LENGTH)
    assert compile_rule("not " * (MAX_DEPTH - 2) + "gpu")(SITE) is True
    for deep in ("not " * 120 + "gpu", "-" * 490 + "1 < 2", "gpu" + ".a" * 240, "2" + "**2" * 150 + " > 1"):
        with pytest.raises(ConfigError, match=r"deeper|allowed"):
            compile_rule(deep)


PIECES = (*"()[]'\"<>=!-.,:0 1\n", *NUMBERS, "gpu", " and ", " not ", " in ", "data", "examples", "digits")


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text())
def test_any_text_is_a_rule_or_a_config_error(text: str) -> None:
    """Whatever is written, compiling gives a predicate that answers true or false, or a ConfigError."""
    try:
        rule = compile_rule(text)
    except ConfigError:
        return
    assert rule(SITE) in {True, False}


@settings(deadline=None, derandomize=True)
@given(name=st.sampled_from(NUMBERS), bound=st.floats(0, 1e6), value=st.floats(0, 1e6))
def test_comparisons_agree_with_python(name: str, bound: float, value: float) -> None:
    """``NAME >= x`` holds for exactly the sites whose value is at least x."""
    changed = SiteView(**{**vars(SITE), name: value})
    assert compile_rule(f"{name} >= {bound!r}")(changed) is (value >= bound)
