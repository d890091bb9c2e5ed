"""The rule that says better, worse or unclear."""

from hypothesis import given, settings
from hypothesis import strategies as st

from collab.metrics import LOWER_IS_BETTER
from server.verdict import Comparison, Outcome, Verdict, error_of_mean, outcome

VALUES = st.floats(0.01, 100)
ERRORS = st.none() | st.floats(0, 10)
METRICS = st.sampled_from([*sorted(LOWER_IS_BETTER), "accuracy", "auroc"])
COMPARISONS = st.builds(Comparison, METRICS, st.none() | VALUES, st.none() | VALUES, ERRORS)
OPPOSITE = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}


@settings(deadline=None)
@given(METRICS, VALUES, VALUES, ERRORS)
def test_swapping_the_two_turns_the_verdict_round(
    metric: str, value: float, alone: float, error: float | None
) -> None:
    """What is better than alone makes alone worse, and unclear stays unclear."""
    there = Comparison(metric, value, alone, error).verdict
    assert Comparison(metric, alone, value, error).verdict == OPPOSITE.get(there, there)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_lower_is_better_turns_the_verdict_round(value: float, alone: float) -> None:
    """The same two numbers are judged the opposite way by a metric of which less is better."""
    loss, gain = Comparison("log_loss", value, alone), Comparison("accuracy", value, alone)
    assert loss.verdict == OPPOSITE.get(gain.verdict, gain.verdict)


@settings(deadline=None)
@given(COMPARISONS)
def test_a_difference_within_the_error_is_unclear(one: Comparison) -> None:
    """With an error estimate, better or worse means by more than one standard error."""
    if one.gain is not None and one.standard_error is not None:
        assert (one.verdict is Verdict.UNCLEAR) == (abs(one.gain) <= one.standard_error)


@settings(deadline=None)
@given(COMPARISONS)
def test_the_words_say_the_verdict(one: Comparison) -> None:
    """A loss is called worse in the words and a gain better, so that no colour is needed."""
    assert one.words.startswith("worse by") == (one.verdict is Verdict.WORSE)
    assert one.words.startswith("better by") == (one.verdict is Verdict.BETTER)


@settings(deadline=None)
@given(COMPARISONS, COMPARISONS)
def test_no_loss_is_hidden_by_a_gain(everywhere: Comparison, own: Comparison) -> None:
    """A subtask has paid only if neither its global nor its own result is worse than alone."""
    verdicts = {everywhere.verdict, own.verdict}
    paid = outcome(everywhere, own) is Outcome.PAID
    assert paid == (Verdict.BETTER in verdicts and Verdict.WORSE not in verdicts)


def test_the_error_of_a_mean_needs_every_error() -> None:
    """Independent errors add in squares; one unknown error makes that of the mean unknown."""
    assert error_of_mean([3.0, 4.0]) == 2.5
    assert error_of_mean([3.0, None]) is None
    assert error_of_mean([]) is None
