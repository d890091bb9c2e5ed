"""All modalities together: each part's own prior divided out, the whole's put in once, honest sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab import metrics
from collab.decomposition.modality_terms import ModalityTerms
from collab.decomposition.whole import check_statistics, fuse, statistics
from collab.decomposition.whole_modality import against, fit, only, told
from protocol.errors import ArraysError

TERMS = ModalityTerms.model_validate(
    {"by": "modality", "modalities": {"a": ["x"], "b": ["z"]}, "subtask": {"labels": ["no", "yes"]}}
)
STATE = {"log_prior": np.log([0.5, 0.5]), "log_priors": np.log([[0.5, 0.5], [0.8, 0.2]])}
NAN = [np.nan, np.nan]


def grouped(sums: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return sums by group, as the server opens them."""
    found: dict[str, dict[str, Any]] = {}
    for key, array in sums.items():
        group, _, rest = key.partition("/")
        found.setdefault(group, {})[rest] = array
    return found


def test_each_prior_is_divided_out_once() -> None:
    """By hand: b learnt where one in five is yes, so its 0.2 says nothing; a row without either has p(y)."""
    outputs = {
        "a": np.array([[0.3, 0.7], [0.3, 0.7], NAN, NAN]),
        "b": np.array([[0.8, 0.2], NAN, [0.5, 0.5], NAN]),
    }
    fused_NC = fuse(TERMS, outputs, STATE)
    yes = 0.5 / 0.2 / (0.5 / 0.2 + 0.5 / 0.8)
    np.testing.assert_allclose(fused_NC[:, 1], [0.7, 0.7, yes, 0.5], atol=1e-9)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_of_independent_modalities_the_answer_is_exact(seed: int) -> None:
    """Parts that know their own sites' class shares give the posterior of the whole, whatever they lack."""
    rng = np.random.default_rng(seed)
    likelihood_MNC = rng.random((2, 40, 2)) + 0.05
    prior_C, priors_MC = rng.dirichlet([3, 3]), rng.dirichlet([3, 3], size=2)
    lost_MN = rng.random((2, 40)) < 0.3
    said_MNC = likelihood_MNC * priors_MC[:, None]
    said_MNC /= said_MNC.sum(axis=2, keepdims=True)
    said_MNC[lost_MN] = np.nan
    expected_NC = prior_C * np.where(lost_MN[:, :, None], 1.0, likelihood_MNC).prod(axis=0)
    expected_NC /= expected_NC.sum(axis=1, keepdims=True)
    state = {"log_prior": np.log(prior_C), "log_priors": np.log(priors_MC)}
    found_NC = fuse(TERMS, dict(zip("ab", said_MNC, strict=True)), state)
    np.testing.assert_allclose(found_NC, expected_NC, atol=1e-6)


def test_priors_are_of_what_sites_tell() -> None:
    """Of the whole a part's largest count stands for each site; a mask spreads the rows evenly."""
    counts = {
        "a": {"north": told(np.array([30.0, 10.0]), 40), "south": told(np.array([1.0, 1.0]), 60)},
        "b": {"north": told(np.array([0.0, 10.0]), 10)},
    }
    state = fit(TERMS, counts)
    np.testing.assert_allclose(np.exp(state["log_priors"]), [[60.5 / 101, 40.5 / 101], [0.5 / 11, 10.5 / 11]])
    np.testing.assert_allclose(np.exp(state["log_prior"]), [60.5 / 101, 40.5 / 101])


@pytest.mark.parametrize(
    ("counts", "rows", "expected"),
    [
        ([3.0, 5.0], 8, [3.0, 5.0]),
        ([10.0, 10.0], 8, [10.0, 10.0]),  # rounded up to tens
        ([1.0, 0.0, 1.0], 30, [15.0, 0.0, 15.0]),  # a mask
        ([1.0, 1.0], 2, [1.0, 1.0]),
        ([0.0, 0.0], 9, [0.0, 0.0]),  # it abstains on every class
        ([4.0, 0.0], 9, [4.0, 0.0]),  # it abstains on one
    ],
)
def test_a_mask_is_told_from_counts(counts: list[float], rows: int, expected: list[float]) -> None:
    """Zeros and ones of more rows than classes are a mask; everything else is taken as it is."""
    assert told(np.array(counts), rows).tolist() == expected


def test_sums_are_of_all_rows_whatever_they_lack() -> None:
    """A part alone answers rows that lack it with the prior; the comparison is of the same rows."""
    outputs = {"a": np.array([[0.9, 0.1], [0.2, 0.8], NAN]), "b": np.array([NAN, [0.8, 0.2], [0.8, 0.2]])}
    y_N = np.array([0, 1, 1])
    sums = statistics(TERMS, outputs, y_N, STATE)
    check_statistics(grouped(sums), TERMS, 3)
    assert sums["rows/counts"].tolist() == [2.0, 2.0]
    alone = -np.log([0.9, 0.8, 0.5])
    assert sums["only.a/log_loss"][0] == pytest.approx(alone.sum())
    expected = metrics.classification_statistics(fuse(TERMS, outputs, STATE), y_N)
    np.testing.assert_allclose(sums["fused/log_loss"], expected["log_loss"])
    difference = sums["fused/log_loss"][0] - sums["only.a/log_loss"][0]
    assert sums[f"{against('a')}/log_loss"][0] == pytest.approx(difference)


def test_sums_that_no_rows_have_are_refused() -> None:
    """Other rows, more rows with a modality than there are, impossible comparisons, or a lost group."""
    outputs = {"a": np.array([[0.9, 0.1], [0.2, 0.8]]), "b": np.array([NAN, [0.8, 0.2]])}
    good = grouped(statistics(TERMS, outputs, np.array([0, 1]), STATE))
    check_statistics(good, TERMS, 2)
    large = {**good[against("a")], "log_loss": np.array([50.0, 1.0])}
    for bad, rows in (
        (good, 3),
        ({k: v for k, v in good.items() if k != only("b")}, 2),
        (good | {"rows": {"counts": np.array([3.0, 0.0])}}, 2),
        (good | {against("a"): large}, 2),
        (good | {against("a"): {**good[against("a")], "n": np.array([1.0])}}, 2),
    ):
        with pytest.raises(ArraysError):
            check_statistics(bad, TERMS, rows)


@pytest.mark.parametrize(
    ("outputs", "state", "said"),
    [
        ({"a": [[0.5, 0.5]]}, STATE, "'b' is missing"),
        ({"a": [[0.5, 0.5]], "b": [[0.5, 0.5]] * 2}, STATE, "shapes"),
        ({"a": [[0.5, 0.2, 0.3]], "b": [[0.5, 0.2, 0.3]]}, STATE, "shapes"),
        ({"a": [[0.5, np.nan]], "b": [[0.5, 0.5]]}, STATE, "no probabilities"),
        ({"a": [[2.0, -1.0]], "b": [[0.5, 0.5]]}, STATE, "no probabilities"),
        ({"a": [[0.5, 0.5]], "b": [[0.5, 0.5]]}, {}, "log_prior"),
        ({"a": [[0.5, 0.5]], "b": [[0.5, 0.5]]}, STATE | {"log_prior": np.array([0.0, np.inf])}, "log_prior"),
    ],
)
def test_answers_that_are_none_are_refused(outputs: dict[str, Any], state: dict[str, Any], said: str) -> None:
    """A whole does not answer without a part, without its priors, or from rows that are no probabilities."""
    with pytest.raises(ArraysError, match=said):
        fuse(TERMS, {k: np.array(v) for k, v in outputs.items()}, state)
