"""Who has a subtask and was not asked for it when a round opened, and why: nobody is left out in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from collab.allocation.contract import Request
from collab.allocation.feasibility import Plan, able
from collab.cohort import Cohort, NotAsked
from collab.events import SiteJoined


def note_not_asked(
    cohorts: Iterable[Cohort],
    request: Request,
    suggested: Plan,
    here: Mapping[str, SiteJoined],
    gone: Mapping[str, SiteJoined],
) -> None:
    """Write into each cohort who has its subtask and was not asked.

    Args:
        cohorts: of one round, with those that were asked.
        request: the question to the policy.
        suggested: what is sound of its answer.
        here: the sites of the run, by name.
        gone: those that have left it.
    """
    can = {(site.name, subtask.name) for site, subtasks in able(request) for subtask in subtasks}
    chosen = {(s.site, s.subtask) for s in suggested.assignments}
    quarantined = {site.name for site in request.sites if site.quarantined_until}
    for cohort in cohorts:
        asked = {t.send.site for t in cohort.tasks.values()}
        for site, said in sorted({**gone, **here}.items()):
            if site in asked or not any(said.capability.subtasks.get(name) for name in cohort.group):
                continue
            why: NotAsked = "policy"
            if site in gone:
                why = "gone"
            elif site in quarantined:
                why = "quarantined"
            elif (site, cohort.subtask) in chosen:
                why = "min_sites"
            elif (site, cohort.subtask) not in can:
                why = "infeasible"
            cohort.not_asked[site] = why
