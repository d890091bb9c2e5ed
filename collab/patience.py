"""How long a round waits: quorum and grace, deadline, and who is overdue by its own learnt pace.

A site is overdue ``patience`` standard deviations (of the logarithm of its seconds) later than predicted,
and ``grace_s``. As long as nothing is known of its pace that is far beyond its own figures. An answer that
comes later still teaches the pace, so a site that became slower is waited for again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from collab.cohort import Cohort, share_of
from collab.terms import Coordination


def overdue_after(seconds: float, seconds_sd: float, terms: Coordination) -> float | None:
    """Return after how many seconds a site is overdue; None if it has until the deadline.

    Args:
        seconds: predicted for all that it was sent in the round so far, 0 where nothing predicts it.
        seconds_sd: standard deviation of the logarithm of that.
        terms: of the subtask's coordination.
    """
    if terms.patience is None or not 0 < seconds < math.inf:
        return None
    overdue_s = seconds * math.exp(terms.patience * seconds_sd) + terms.grace_s
    return overdue_s if overdue_s < terms.deadline_s else None


def due_s(cohort: Cohort, terms: Coordination, min_sites: int) -> float:
    """Return the moment at which the cohort closes without those that have not answered.

    Whoever is overdue is not waited for, unless the round could not close without it: as long as nobody, or
    fewer than ``min_sites``, or less than ``min_coverage`` came in, the deadline counts.
    """
    due = min(cohort.grace_ends_s, cohort.opened_s + terms.deadline_s)
    waiting = cohort.with_outcome("asked").values()
    overdue_s = list(_moments((t.sent_s, t.send.patience_s) for t in waiting))
    given = len(cohort.with_outcome("contributed"))
    enough = given >= max(min_sites, 1) and share_of(cohort) >= terms.min_coverage
    return min(due, max(overdue_s)) if waiting and enough and len(overdue_s) == len(waiting) else due


def _moments(sent: Iterable[tuple[float, float | None]]) -> Iterable[float]:
    return (sent_s + patience_s for sent_s, patience_s in sent if patience_s is not None)
