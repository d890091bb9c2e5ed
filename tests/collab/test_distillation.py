"""Distillation: the loss by hand, its gradient by differences, sharpening and its limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from collab.distillation import AUTO, by_entropy, distil, distillation_loss, sharpen
from collab.models.contract import build, to_arrays
from collab.rng import generator
from protocol.messages import DigestSpec

laws = settings(deadline=None, max_examples=60, derandomize=True)
Floats = NDArray[np.float64]

logits = arrays(np.float64, (4, 3), elements=st.floats(-5, 5))
temperatures = st.sampled_from([0.5, 1.0, 2.0, 7.0])


def softmax(z_NC: Floats) -> Floats:
    """Rows of probabilities."""
    e_NC = np.exp(z_NC - z_NC.max(axis=1, keepdims=True))
    return np.asarray(e_NC / e_NC.sum(axis=1, keepdims=True))


def by_hand(student_NC: Floats, teacher_NC: Floats, temperature: float) -> float:
    """T² times the mean over rows of Σ p log(p / q), p and q softened by T."""
    p_NC, q_NC = softmax(np.log(teacher_NC) / temperature), softmax(student_NC / temperature)
    return float(temperature**2 * (p_NC * (np.log(p_NC) - np.log(q_NC))).sum(axis=1).mean())


def gradient(student_NC: Floats, teacher_NC: Floats, temperature: float) -> Floats:
    """The gradient of the loss by the logits."""
    z_NC = torch.tensor(student_NC, requires_grad=True)
    (found,) = torch.autograd.grad(distillation_loss(z_NC, torch.tensor(teacher_NC), temperature), z_NC)
    return np.asarray(found.numpy())


@laws
@given(logits, logits, temperatures)
def test_the_loss_is_the_one_computed_by_hand(student: Floats, teacher: Floats, temperature: float) -> None:
    """T² KL(teacher_T ‖ student_T), a mean over rows and a sum over classes."""
    found = distillation_loss(torch.tensor(student), torch.tensor(softmax(teacher)), temperature)
    assert float(found) == pytest.approx(by_hand(student, softmax(teacher), temperature), rel=1e-9, abs=1e-9)


@laws
@given(logits, logits, temperatures)
def test_the_loss_is_a_mean_over_rows(student: Floats, teacher: Floats, temperature: float) -> None:
    """A batch twice as long with the same rows has the same loss ('batchmean', not 'mean' nor 'sum')."""
    one, two = (
        distillation_loss(
            torch.tensor(student).repeat(n, 1), torch.tensor(softmax(teacher)).repeat(n, 1), temperature
        )
        for n in (1, 2)
    )
    assert float(two) == pytest.approx(float(one), rel=1e-9, abs=1e-12)


@laws
@given(logits, logits, temperatures)
def test_the_gradient_is_that_of_the_loss(student: Floats, teacher: Floats, temperature: float) -> None:
    """Backpropagation agrees with central differences of the loss computed by hand."""
    teacher, step = softmax(teacher), 1e-5
    found = gradient(student, teacher, temperature)
    for place in np.ndindex(student.shape):
        moved = np.zeros_like(student)
        moved[place] = step
        difference = by_hand(student + moved, teacher, temperature) - by_hand(
            student - moved, teacher, temperature
        )
        assert found[place] == pytest.approx(difference / (2 * step), rel=1e-4, abs=1e-6)


@laws
@given(logits, logits)
def test_a_high_temperature_matches_logits(student: Floats, teacher: Floats) -> None:
    """As T grows the gradient tends to (z - v) / NC, centred (Hinton et al., eq. 4): T² keeps the scale."""
    found = gradient(student, softmax(teacher), 1e4)
    centred = (student - student.mean(axis=1, keepdims=True)) - (
        teacher - teacher.mean(axis=1, keepdims=True)
    )
    np.testing.assert_allclose(found, centred / student.size, atol=1e-3)


@laws
@given(logits, temperatures)
def test_a_student_that_agrees_has_nothing_to_learn(teacher: Floats, temperature: float) -> None:
    """At the teacher's own logits loss and gradient vanish."""
    found = distillation_loss(torch.tensor(teacher), torch.tensor(softmax(teacher)), temperature)
    assert abs(float(found)) < 1e-9
    np.testing.assert_allclose(gradient(teacher, softmax(teacher), temperature), 0, atol=1e-9)


def test_hard_labels_are_cross_entropy() -> None:
    """A one-hot teacher has zeros, which neither raise nor spread."""
    z_NC, y_N = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 2, 0, 1, 2]),
    )
    found = distillation_loss(z_NC, torch.eye(3)[y_N], 1.0)
    assert float(found) == pytest.approx(float(torch.nn.functional.cross_entropy(z_NC, y_N)), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_no_gradient_flows_into_the_teacher(temperature: float) -> None:
    """A teacher that could learn does not."""
    teacher_NC = torch.full((2, 2), 0.5, requires_grad=True)
    student_NC = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    distillation_loss(student_NC, teacher_NC, temperature).backward()  # type: ignore[no-untyped-call]
    assert teacher_NC.grad is None
    assert student_NC.grad is not None


teachers = arrays(np.float64, (5, 4), elements=st.floats(-3, 3)).map(softmax)


@laws
@given(teachers, st.sampled_from([0.05, 0.1, 0.5, 1.0, 3.0, 100.0, "hard"]))
def test_sharpened_rows_are_probabilities_in_the_same_order(p_NC: Floats, temperature: Any) -> None:
    """Rows sum to 1, nothing is negative, and no class overtakes another."""
    found = sharpen(p_NC, temperature)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    order = np.argsort(p_NC, axis=1, kind="stable")
    assert (
        np.diff(np.take_along_axis(found, order, axis=1), axis=1) >= -1e-15
    ).all() or temperature == "hard"
    assert (found.argmax(axis=1) == p_NC.argmax(axis=1)).all()


@laws
@given(teachers)
def test_a_temperature_of_one_changes_nothing(p_NC: Floats) -> None:
    """p^(1/1) is p, up to the sum of its rows."""
    np.testing.assert_allclose(sharpen(p_NC, 1.0), p_NC, rtol=1e-12)
    np.testing.assert_allclose(sharpen(3 * p_NC, 1.0), p_NC, rtol=1e-12)


@laws
@given(teachers, st.sampled_from([0.5, 2.0]), st.sampled_from([0.5, 3.0]))
def test_sharpening_twice_multiplies_the_temperatures(p_NC: Floats, a: float, b: float) -> None:
    """(p^(1/a))^(1/b) is p^(1/ab)."""
    np.testing.assert_allclose(sharpen(sharpen(p_NC, a), b), sharpen(p_NC, a * b), rtol=1e-7, atol=1e-12)


@laws
@given(teachers)
def test_a_high_temperature_is_uniform(p_NC: Floats) -> None:
    """As T grows every class that has mass gets the same."""
    np.testing.assert_allclose(sharpen(p_NC, 1e9), 0.25, rtol=1e-6)


@laws
@given(teachers)
def test_a_low_temperature_is_hard(p_NC: Floats) -> None:
    """As T falls the largest takes all, so "hard" is the limit wherever one is largest."""
    top = np.sort(p_NC, axis=1)
    clear = top[:, -1] > 1.01 * top[:, -2]
    np.testing.assert_allclose(sharpen(p_NC, 1e-4)[clear], sharpen(p_NC, "hard")[clear], atol=1e-12)


def test_hard_takes_the_first_of_equals() -> None:
    """A tie has one winner, the same everywhere."""
    assert sharpen(np.array([[0.2, 0.4, 0.4]]), "hard").tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("temperature", [0.1, 1.0, 50.0, 1e9])
def test_a_class_without_mass_gets_none(temperature: float) -> None:
    """What no site can know is not spread by a temperature."""
    found = sharpen(np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]], np.float32), temperature)
    assert found[0, 0] == 0
    assert found[1].tolist() == [1, 0, 0]


def entropy(p_NC: Floats) -> float:
    """The mean entropy of the rows, in nats."""
    return float(-(p_NC * np.log(np.maximum(p_NC, 1e-12))).sum(axis=1).mean())


@laws
@given(teachers)
def test_a_lower_temperature_is_never_less_certain(p_NC: Floats) -> None:
    """The choices that "auto" tries go from soft to hard."""
    found = [entropy(sharpen(p_NC, temperature)) for temperature in AUTO]
    assert all(b <= a + 1e-12 for a, b in pairwise(found))


@laws
@given(teachers, st.sampled_from([0.2, 1.0, 5.0, 50.0]))
def test_the_mildest_sharpening_that_is_certain_enough_is_chosen(p_NC: Floats, flatness: float) -> None:
    """Of 1, 0.5 and 0.1 the first whose mean entropy is at most 0.35 log C, else the last."""
    p_NC = sharpen(p_NC, flatness)
    certain = [t for t in (1.0, 0.5) if entropy(sharpen(p_NC, t)) <= 0.35 * np.log(p_NC.shape[1])]
    assert by_entropy(p_NC) == (certain or [0.1])[0]


def student() -> torch.nn.Module:
    """The same small student every time."""
    return build("mlp_small", (3,), 4, seed=2)


def lesson() -> tuple[Tensor, Floats]:
    """Inputs of a public set and what a linear teacher says of them."""
    rng = np.random.default_rng(3)
    x_NF = rng.normal(size=(50, 3))
    return torch.as_tensor(x_NF, dtype=torch.float32), softmax(3 * x_NF @ rng.normal(size=(3, 4)))


def test_a_student_comes_to_agree() -> None:
    """Distilling brings the student's probabilities to the teacher's on the public set."""
    x, teacher = lesson()
    module = student()
    processed = distil(module, x, teacher, generator(1), DigestSpec(epochs=150, lr=0.01, batch_size=16))
    assert processed == 150 * 50
    with torch.no_grad():
        assert float(distillation_loss(module(x), torch.as_tensor(teacher).float(), 1.0)) < 0.02


def test_no_epochs_no_change() -> None:
    """A digest of no epochs costs nothing and leaves the model as it was."""
    x, teacher = lesson()
    module = student()
    assert distil(module, x, teacher, generator(1), DigestSpec(epochs=0)) == 0
    assert all(
        (a == b).all() for a, b in zip(to_arrays(module).values(), to_arrays(student()).values(), strict=True)
    )


def test_the_same_seed_distils_to_the_same_bits() -> None:
    """The order of the public rows comes from the generator alone."""
    x, teacher = lesson()
    found = []
    for seed in (1, 1, 2):
        module = student()
        torch.rand(3)
        distil(module, x, teacher.astype(np.float32), generator(seed), DigestSpec(epochs=2, batch_size=8))
        found.append(to_arrays(module))
    assert all((found[0][name] == found[1][name]).all() for name in found[0])
    assert any((found[0][name] != found[2][name]).any() for name in found[0])
