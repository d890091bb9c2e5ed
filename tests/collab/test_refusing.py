"""A whole refuses: who learns OTHER, and a threshold under the surest label chosen by sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab import metrics
from collab.decomposition import out_of_scope
from collab.decomposition.terms import LabelHierarchyTerms
from collab.decomposition.whole_labels import THRESHOLD, fuse, refusals, refuse
from protocol.errors import ArraysError

GROUPS = {"good": ["a", "b"], "bad": ["c", "d"]}


def terms(**more: Any) -> LabelHierarchyTerms:
    """Two groups of two labels, and rows outside."""
    return LabelHierarchyTerms.model_validate(
        {"by": "label_hierarchy", "groups": GROUPS, "outside": "oos", **more}
    )


def answers(seed: int, rows: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What gate and experts say of random rows, surer of those in scope."""
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, 5, rows)
    sure_N = np.where(y_N < 4, 4.0, 0.5)

    def said(classes: int, right_N: np.ndarray) -> np.ndarray:
        logits_NC = rng.normal(size=(rows, classes))
        logits_NC[np.arange(rows), np.clip(right_N, 0, classes - 1)] += sure_N
        odds_NC = np.exp(logits_NC)
        return odds_NC / odds_NC.sum(axis=1, keepdims=True)

    return {"gate": said(3, y_N // 2), "good": said(2, y_N), "bad": said(2, y_N - 2)}, y_N


def test_with_the_gate_alone_experts_have_no_other_class() -> None:
    """With refuses = "gate" the gate has OTHER as its last class, an expert its own labels."""
    found = terms(refuses="gate").parts
    assert found["gate"].labels == ("good", "bad", "oos")
    assert found["good"].labels == ("a", "b")
    assert "oos" not in found["good"].only
    assert terms().parts["good"].labels == ("a", "b", "oos")


@pytest.mark.parametrize("more", [{"outside": None}, {"fusion": "open_set"}])
def test_without_a_gate_or_rows_outside_the_gate_cannot_refuse(more: dict[str, Any]) -> None:
    """The message says what is needed."""
    with pytest.raises(ValueError, match="refuses = 'gate' needs a gate, and outside"):
        terms(refuses="gate", **more)


@given(st.integers(0, 1000), st.floats(0, 1))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_who_is_below_the_threshold_is_refused_and_no_other(seed: int, threshold: float) -> None:
    """Rows stay probabilities; those at or above the threshold, and all refused before, stay as they were."""
    outputs, _ = answers(seed)
    made = terms(refuses="gate")
    plain_NK, found_NK = fuse(made, outputs, {}), fuse(made, outputs, {THRESHOLD: np.array([threshold])})
    np.testing.assert_allclose(found_NK.sum(axis=1), 1.0)
    low_N = plain_NK[:, :-1].max(axis=1) < threshold
    assert (found_NK[low_N].argmax(axis=1) == 4).all()
    np.testing.assert_array_equal(found_NK[~low_N], plain_NK[~low_N])


@given(st.integers(0, 1000), st.sampled_from(["accuracy", "balanced"]))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_the_threshold_is_the_best_of_all_on_the_rows_that_chose_it(seed: int, criterion: Any) -> None:
    """Counted from the answers themselves, no other threshold scores higher; sums of two sites add up."""
    outputs, y_N = answers(seed)
    made = terms(refuses="gate")
    halves = [{k: v[at] for k, v in outputs.items()} for at in (slice(0, 25), slice(25, None))]
    parts = [refusals(made, half, y) for half, y in zip(halves, (y_N[:25], y_N[25:]), strict=True)]
    for sums, rows in zip(parts, (25, 35), strict=True):
        out_of_scope.check_statistics(sums, rows)
    chosen = out_of_scope.fit(metrics.merge(parts), criterion)
    inside_N = y_N < 4

    def score(threshold: float) -> float:
        said_N = fuse(made, outputs, {THRESHOLD: np.array([threshold])}).argmax(axis=1)
        right, refused = (said_N == y_N)[inside_N].sum(), (said_N[~inside_N] == 4).sum()
        if criterion == "accuracy":
            return float(right + refused)
        return float(right / inside_N.sum() + refused / (~inside_N).sum())

    best = max(score(t) for t in out_of_scope.thresholds())
    assert score(chosen) == pytest.approx(best)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    """It came over the wire, or from a file."""
    with pytest.raises(ArraysError, match="probability"):
        refuse(np.full((2, 3), 1 / 3), threshold)
    outputs, _ = answers(1)
    with pytest.raises(ArraysError):
        fuse(terms(refuses="gate"), outputs, {THRESHOLD: np.zeros(2)})


@pytest.mark.parametrize("change", ["rows", "right", "refused", "more", "negative", "nan"])
def test_sums_that_no_rows_have_are_refused(change: str) -> None:
    """Counts beyond the rows, that grow where they must fall, or are no numbers."""
    outputs, y_N = answers(2)
    sums = {k: v.copy() for k, v in refusals(terms(refuses="gate"), outputs, y_N).items()}
    if change == "rows":
        sums["rows"][0] += 1
    elif change == "right":
        sums["right"] = sums["right"][::-1].copy()
    elif change == "refused":
        sums["refused"] = sums["refused"][::-1].copy()
    elif change == "more":
        sums["right"] += 100
    elif change == "negative":
        sums["refused"] -= 1
    else:
        sums["right"][0] = np.nan
    with pytest.raises(ArraysError):
        out_of_scope.check_statistics(sums, len(y_N))
