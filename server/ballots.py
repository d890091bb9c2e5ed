"""Polls: each site ranks the others' models on its own validation rows; only the ranking leaves it."""

from __future__ import annotations

from collab.events import Vote
from protocol.errors import ConsiliumError, MessageError
from protocol.fusing import BallotPaper, FusionRequest
from protocol.records import pack
from server.courier import Arrival, Courier, Letter, Patience, gather
from server.fitting import Pool, local_models
from server.learner import Learner

# A poll that some sites miss is still a poll; the policy has its own quorum.
_PATIENCE = Patience(within_s=600.0, quorum=0.8, grace_s=30.0)


def gather_votes(
    courier: Courier, learner: Learner, run: str, round_: int, notes: list[str]
) -> tuple[tuple[Vote, ...], list[Arrival]]:
    """Return the ballots of all sites that answered in time, and whatever else came meanwhile.

    Sites that keep their models in the house are not voted on, and vote all the same.
    """
    prepared = learner.prepared
    pool = local_models(courier, prepared, notes)
    if len(pool.candidates) < 2:
        return (), []
    letters = []
    for site in prepared.sites:
        request = FusionRequest(
            run=run,
            subtask=prepared.subtask,
            site=site,
            rule="ballot",
            rows="validation",
            candidates=pool.candidates,
            class_counts=tuple(prepared.class_counts.tolist()),
        )
        content = pack(request, pool.arrays())
        letters.append(Letter(site, "evaluate.ballot", content, prepared.subtask.name, round_))
    arrivals, others = gather(courier, letters, _PATIENCE)
    votes = []
    for arrival in arrivals:
        try:
            votes.append(_opened(arrival, pool))
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: ballot on {prepared.subtask.name} not counted: {error}")
    return tuple(vote for vote in votes if vote is not None), others


def _opened(arrival: Arrival, pool: Pool) -> Vote | None:
    """Return a checked ballot; None from a site without validation rows, which has no opinion."""
    paper, _ = arrival.open(BallotPaper)
    site = arrival.letter.site
    if not paper.order:
        return None
    if sorted(paper.order) != sorted(c.name for c in pool.candidates if c.name != site):
        raise MessageError("it does not rank every other candidate once")
    if not set(paper.approved) <= set(paper.order):
        raise MessageError("it approves of somebody whom it does not rank")
    return Vote(voter=site, order=paper.order, approved=paper.approved)
