"""The laws of every soft-label combination, and what counts as soft labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab import plugins
from collab.soft_labels import class_counts, mean_probability
from collab.soft_labels.contract import SoftLabels, check_soft_labels
from protocol.errors import ArraysError, RunError

RULES = plugins.names("soft_labels")
CASES = st.tuples(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 8), st.integers(2, 5))


def _votes(seed: int, sites: int, rows: int, classes: int, abstain: float = 0.3) -> list[SoftLabels]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 50, (sites, classes)) * (rng.random((sites, classes)) >= abstain)
    return [
        SoftLabels(rng.dirichlet(np.ones(classes), rows).astype(np.float32), count.astype(np.float64))
        for count in counts
    ]


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=30)
@given(case=CASES)
def test_rows_sum_to_one_and_a_class_nobody_knows_gets_nothing(
    name: str, case: tuple[int, int, int, int]
) -> None:
    """The result is float32 soft labels; a class from which all abstain has no mass, unless all are so."""
    votes = _votes(*case)
    combined_NC = plugins.load("soft_labels", name).combine(votes)
    _, _, rows, classes = case
    assert combined_NC.dtype == np.float32
    check_soft_labels(combined_NC, rows, classes)
    np.testing.assert_allclose(combined_NC.sum(axis=1), 1.0, atol=1e-5)
    voted_C = np.sum([vote.class_counts_C for vote in votes], axis=0) > 0
    if voted_C.any():
        assert (combined_NC[:, ~voted_C] == 0).all()


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=30)
@given(case=CASES)
def test_equal_votes_come_back(name: str, case: tuple[int, int, int, int]) -> None:
    """Where nobody abstains and all agree, the combination is what they agree on."""
    seed, sites, rows, classes = case
    votes = _votes(seed, sites, rows, classes, abstain=0.0)
    same = [SoftLabels(votes[0].probabilities_NC, vote.class_counts_C) for vote in votes]
    combined_NC = plugins.load("soft_labels", name).combine(same)
    np.testing.assert_allclose(combined_NC, votes[0].probabilities_NC, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=30)
@given(case=CASES, data=st.data())
def test_an_abstention_is_not_a_zero(name: str, case: tuple[int, int, int, int], data: st.DataObject) -> None:
    """A voter that abstains from some classes moves no ratio among them; from all, it moves nothing."""
    seed, sites, rows, classes = case
    rule, votes = plugins.load("soft_labels", name), _votes(seed, sites, rows, classes, abstain=0.0)
    silent_C = np.array(data.draw(st.lists(st.booleans(), min_size=classes, max_size=classes)))
    (late,) = _votes(seed + 1, 1, rows, classes, abstain=0.0)
    joined = [*votes, SoftLabels(late.probabilities_NC, np.where(silent_C, 0.0, late.class_counts_C))]
    before_NC, after_NC = rule.combine(votes)[:, silent_C], rule.combine(joined)[:, silent_C]
    if silent_C.any():
        shares = [array / array.sum(axis=1, keepdims=True) for array in (before_NC, after_NC)]
        np.testing.assert_allclose(shares[0], shares[1], rtol=1e-4, atol=1e-6)
    if silent_C.all():
        np.testing.assert_array_equal(before_NC, after_NC)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=30)
@given(case=CASES, data=st.data())
def test_order_does_not_matter_and_inputs_stay(
    name: str, case: tuple[int, int, int, int], data: st.DataObject
) -> None:
    """Any order of votes gives the same soft labels to 1e-6, and no vote is changed."""
    rule, votes = plugins.load("soft_labels", name), _votes(*case)
    for vote in votes:
        vote.probabilities_NC.flags.writeable = vote.class_counts_C.flags.writeable = False
    permuted = data.draw(st.permutations(votes))
    np.testing.assert_allclose(rule.combine(votes), rule.combine(permuted), atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_rows_about_which_nothing_is_said_are_uniform(name: str) -> None:
    """All abstaining gives 1/C; mass only on classes one abstains from gives 1 over the classes known."""
    rule = plugins.load("soft_labels", name)
    nobody = [SoftLabels(np.array([[0.2, 0.3, 0.5]]), np.zeros(3))]
    elsewhere = [SoftLabels(np.array([[0.0, 0.0, 1.0]]), np.array([4.0, 2.0, 0.0]))]
    np.testing.assert_allclose(rule.combine(nobody), [[1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(rule.combine(elsewhere), [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize("name", RULES)
def test_no_vote_and_foreign_shapes_are_refused(name: str) -> None:
    """Nothing to combine, and votes about other rows or classes, are errors."""
    rule = plugins.load("soft_labels", name)
    with pytest.raises(RunError, match="no site"):
        rule.combine([])
    with pytest.raises(ArraysError, match="shape"):
        rule.combine([*_votes(0, 1, 3, 2), *_votes(0, 1, 4, 2)])


def test_the_definitions_by_hand() -> None:
    """Two sites, one unsure of class 1 and one without class 2: both rules as written on paper."""
    votes = [
        SoftLabels(np.array([[0.6, 0.2, 0.2]]), np.array([30.0, 10.0, 0.0])),
        SoftLabels(np.array([[0.1, 0.4, 0.5]]), np.array([10.0, 10.0, 5.0])),
    ]
    mean = np.array([(0.6 + 0.1) / 2, (0.2 + 0.4) / 2, 0.5])
    counts = np.array([0.75 * 0.6 + 0.25 * 0.1, 0.5 * 0.2 + 0.5 * 0.4, 0.5])
    np.testing.assert_allclose(mean_probability.combine(votes)[0], mean / mean.sum(), rtol=1e-6)
    np.testing.assert_allclose(class_counts.combine(votes)[0], counts / counts.sum(), rtol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(case=CASES)
def test_class_counts_of_a_mask_are_mean_probability(case: tuple[int, int, int, int]) -> None:
    """Where sites tell only which classes they have seen, both rules agree."""
    masked = [
        SoftLabels(vote.probabilities_NC, (vote.class_counts_C > 0).astype(np.float64))
        for vote in _votes(*case)
    ]
    np.testing.assert_array_equal(class_counts.combine(masked), mean_probability.combine(masked))


@pytest.mark.parametrize(
    ("probabilities_NC", "found"),
    [
        (np.full((2, 3), 1 / 3), "shape"),
        (np.full((3, 2), 1), "dtype"),
        (np.full((3, 2), np.nan), "NaN"),
        (np.full((3, 2), np.inf), "NaN"),
        (np.tile([1.2, -0.2], (3, 1)), "outside"),
        (np.array([[0.5, 0.5], [0.5, 0.4], [0.5, 0.5]]), "1 of 3 rows"),
    ],
)
def test_what_is_no_soft_label_is_refused(probabilities_NC: NDArray[Any], found: str) -> None:
    """Other shapes, integers, NaN, values outside 0 to 1 and rows that sum to less are refused by name."""
    with pytest.raises(ArraysError, match=found):
        check_soft_labels(probabilities_NC, rows=3, classes=2)


def test_float16_soft_labels_pass() -> None:
    """Rows rounded to float16 on the way still count as soft labels."""
    probabilities_NC = np.random.default_rng(0).dirichlet(np.ones(10), 50).astype(np.float16)
    check_soft_labels(probabilities_NC, rows=50, classes=10)


@pytest.mark.parametrize("counts_C", [np.ones(3), np.array([1.0, -1.0]), np.array([1.0, np.nan])])
def test_bad_class_counts_are_refused(counts_C: NDArray[Any]) -> None:
    """Class counts of another length, negative or NaN never reach a combination."""
    with pytest.raises(ArraysError, match="class counts"):
        SoftLabels(np.full((2, 2), 0.5), counts_C)


def test_votes_do_not_show_themselves() -> None:
    """The repr of a vote holds neither probabilities nor counts."""
    assert repr(_votes(0, 1, 2, 2)[0]) == "SoftLabels()"
