"""Beliefs: what rounds taught, in the order in which they taught it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.feedback import DISCOUNT, FIRST_GAIN, Beliefs, Contributed, Gains, Measured


def measured(
    beliefs: Beliefs,
    round_: int,
    loss: float | None,
    sites: tuple[str, ...] = ("north", "south"),
    credits_: dict[str, float] | None = None,
) -> None:
    """One round of subtask ``a``: equal contributions of ``sites``, then f = ``loss``."""
    given_ = tuple(Contributed(site, 100) for site in sites)
    beliefs.measured("a", round_, given_, Measured(loss, {}, credits_ or {}))


def test_the_first_gain_is_what_was_learnt_beyond_the_constant_answer() -> None:
    """The loss f starts at 1; of two equal sites that bring it to 0.4 each would alone have gained 0.4.

    A cohort of two is worth 1 + 1/2 sites, so one of them two thirds of what both took off.
    """
    beliefs = Beliefs()
    measured(beliefs, 1, 0.4)
    north = beliefs.belief("north", "a", 1.0, 1)
    assert north.gain == beliefs.belief("south", "a", 1.0, 1).gain
    # The prior of one observation is the subtask's own mean: FIRST_GAIN as half of one, and these two.
    prior = (2 * 0.4 + 0.5 * FIRST_GAIN) / 2.5
    assert north.gain == pytest.approx((prior + 0.4) / 2)


def test_a_site_with_more_examples_is_expected_to_gain_more() -> None:
    """The prior of a pair is in proportion to its examples, up to ten times; not known, it is the mean."""
    beliefs = Beliefs()
    measured(beliefs, 1, 0.4)  # contributions of 100 examples
    usual = beliefs.subtask("a").gains.mean
    found = {n: beliefs.belief("new", "a", 1.0, 2, n).gain for n in (0, 50, 100, 200, 10**6)}
    assert found == pytest.approx({0: usual, 50: usual / 2, 100: usual, 200: 2 * usual, 10**6: 10 * usual})


def test_a_loss_that_swings_gains_nothing_by_coming_back() -> None:
    """What counts is what a round takes off the lowest f so far."""
    beliefs = Beliefs()
    measured(beliefs, 1, 0.4)
    gains = beliefs.subtask("a").gains.total
    measured(beliefs, 2, 0.8)
    measured(beliefs, 3, 0.4)
    assert beliefs.subtask("a").gains.total == gains
    measured(beliefs, 4, 0.3)
    assert beliefs.subtask("a").gains.total == pytest.approx(gains + 2 * 0.1 / 1.5)


def test_with_a_target_what_counts_is_the_way_that_is_left() -> None:
    """F is then the distance to the target, whatever the loss says; the loss still tells of drift."""
    beliefs = Beliefs()
    beliefs.measured("a", 1, (Contributed("north", 100),), Measured(0.95, {}, {}, to_go=0.5))
    record = beliefs.subtask("a")
    assert (record.loss, record.best, record.drift.mean) == (0.5, 0.5, 0.95)
    assert record.gains.total == pytest.approx(0.5)


def test_credit_divides_a_round() -> None:
    """Who works against the others gains nothing, and the round's gain is the others'."""
    beliefs = Beliefs()
    measured(beliefs, 1, 0.5, credits_={"north": 1.0, "south": 0.0})
    assert beliefs.belief("north", "a", 1.0, 1).gain > beliefs.belief("south", "a", 1.0, 1).gain
    assert beliefs.standing("south").quality < beliefs.standing("north").quality == 1.0


def test_a_rise_of_the_loss_is_no_gain() -> None:
    """A round after which f is higher counts as 0, and never as negative."""
    beliefs = Beliefs()
    measured(beliefs, 1, 0.5)
    before = beliefs.belief("north", "a", 1.0, 1).gain
    measured(beliefs, 2, 0.7)
    assert 0 < beliefs.belief("north", "a", 1.0, 1).gain < before


def test_what_could_not_be_measured_teaches_nothing() -> None:
    """A round without validation leaves f and the gains as they were."""
    beliefs = Beliefs()
    measured(beliefs, 1, 0.5)
    before = beliefs.belief("north", "a", 1.0, 1), beliefs.subtask("a")
    measured(beliefs, 2, None)
    assert (beliefs.belief("north", "a", 1.0, 1), beliefs.subtask("a")) == before


def test_a_pair_that_is_not_asked_becomes_uncertain_again() -> None:
    """Rounds without evidence widen the posterior, relative to its mean."""
    beliefs = Beliefs()
    for round_ in range(1, 6):
        measured(beliefs, round_, 1.0 - 0.1 * round_)
        beliefs.round_over(frozenset({"north", "south"}), round_)
    before = beliefs.belief("north", "a", 1.0, 1)
    for round_ in range(6, 16):
        beliefs.round_over(frozenset(), round_)
    after = beliefs.belief("north", "a", 1.0, 16)
    assert after.weight == pytest.approx(before.weight * DISCOUNT**10)
    assert after.gain_sd / after.gain > before.gain_sd / before.gain


def test_a_site_that_never_contributed_is_believed_to_be_like_the_others() -> None:
    """The prior of a pair is its subtask's mean, more uncertain than a pair that was seen."""
    beliefs = Beliefs()
    for round_ in range(1, 5):
        measured(beliefs, round_, 1.0 - 0.2 * round_)
    seen, fresh = beliefs.belief("north", "a", 1.0, 1), beliefs.belief("new", "a", 1.0, 1)
    assert fresh.gain == pytest.approx(beliefs.subtask("a").gains.mean)
    assert fresh.gain_sd > seen.gain_sd
    assert (fresh.attempts, fresh.last_round, fresh.loss) == (0, 0, None)


def test_a_pair_that_waits_comes_round() -> None:
    """However little a pair gained, after enough rounds of waiting its optimistic gain is the highest."""
    beliefs = Beliefs()
    beliefs.answered("north", ["a"], 1)
    beliefs.failed("south", ["a"], 1, poisoned=False)
    measured(beliefs, 1, 0.5, sites=("north",))
    now, later = (
        [beliefs.belief(site, "a", 1.0, round_) for site in ("north", "south")] for round_ in (2, 2000)
    )
    assert now[1].gain + now[1].gain_sd < now[0].gain + now[0].gain_sd
    assert later[1].gain + later[1].gain_sd > now[0].gain + now[0].gain_sd


def test_an_assignment_that_gave_nothing_is_a_gain_of_nothing() -> None:
    """A site that fails is believed to gain less than one that was never asked."""
    beliefs = Beliefs()
    beliefs.failed("south", ["a"], 1, poisoned=False)
    assert beliefs.belief("south", "a", 1.0, 2).gain < beliefs.belief("new", "a", 1.0, 2).gain
    assert beliefs.belief("south", "a", 1.0, 2).attempts == 1


def test_drift_raises_exploration_and_discounts_old_evidence() -> None:
    """A loss that rises for good rings: old evidence counts half, exploration doubles, then fades to 1."""
    beliefs = Beliefs()
    for round_ in range(1, 9):
        measured(beliefs, round_, 0.3)
    before = beliefs.belief("north", "a", 1.0, 1).weight
    rounds = 0
    while not beliefs.subtask("a").drift.alarm:
        measured(beliefs, 9 + rounds, 0.9, sites=())
        rounds += 1
        assert rounds < 4
    assert beliefs.subtask("a").exploration == 2.0
    assert beliefs.belief("north", "a", 1.0, 1).weight == pytest.approx(before / 2)
    for round_ in range(20, 40):
        beliefs.round_over(frozenset(), round_)
    assert beliefs.subtask("a").exploration == pytest.approx(1.0, abs=0.05)


def test_weights_follow_the_objective() -> None:
    """With α = 3 a subtask at half the loss has a quarter of the weight; with α = 1 all are alike."""
    beliefs = Beliefs()
    measured(beliefs, 1, 0.5)
    assert beliefs.weight("a", 3.0) == pytest.approx(0.25 * beliefs.weight("unmeasured", 3.0))
    assert beliefs.weight("a", 1.0) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1e-6, 1))
@settings(deadline=None, max_examples=60)
def test_the_posterior_lies_between_prior_and_evidence(gains: list[float], prior: float) -> None:
    """Mean between the prior's and the data's; sd above 0, and narrowing towards the data as they grow."""
    sums = Gains()
    for gain in gains:
        sums = sums.plus(gain)
    mean, sd = sums.posterior(prior)
    own = sum(gains) / len(gains)
    assert min(prior, own) - 1e-12 <= mean <= max(prior, own) + 1e-12
    assert sd > 0
    more = sums
    for gain in gains * 9:
        more = more.plus(gain)
    assert abs(more.posterior(prior)[0] - own) <= abs(mean - own) + 1e-12
    assert more.posterior(prior)[1] <= sd + 1e-12
