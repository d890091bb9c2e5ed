"""Who takes part and what is believed of them: what a round's allocation is asked with.

The state machine (``collab.rounds``) tells it what happened; it answers with the request to the
policy, with who may stand in for a silent site, and with what the policy's answer means.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from collab import plugins
from collab.aggregation import contract as aggregation
from collab.allocation.contract import Ballot, Belief, History, Request, SiteView, SubtaskView
from collab.allocation.feasibility import Plan, obstacles, options_of, plan
from collab.collaboration import Collaboration
from collab.events import Decided, Polled, SiteJoined, Weighed
from collab.feedback import Beliefs
from collab.groups import Groups
from collab.joint_views import joint_belief, joint_view
from collab.terms import SubtaskTerms

# A log line holds at most so many pairs that were passed over: those of highest score.
MOST_PASSED_OVER = 2_000
# How often the sites vote where the policy does not say.
POLL_EVERY = 5


@dataclass
class Roster:
    """The sites of a run, the beliefs about them, and their last votes."""

    terms: Collaboration
    groups: Groups
    sites: dict[str, SiteJoined] = field(default_factory=dict)
    model_mib: dict[str, float] = field(default_factory=dict)
    beliefs: Beliefs = field(default_factory=Beliefs)
    votes: dict[str, tuple[Ballot, ...]] = field(default_factory=dict)

    def joined(self, event: SiteJoined) -> None:
        """Take a site in, or what it says anew."""
        site = event.capability.site
        self.sites[site] = event
        self.beliefs.joined(site)

    def voted(self, event: Polled) -> None:
        """Keep a subtask's ballots; the last poll counts."""
        ballots = (Ballot(v.voter, v.order, frozenset(v.approved)) for v in event.votes)
        self.votes[event.subtask] = tuple(ballots)

    def polls(self, round_: int) -> bool:
        """Return whether the sites are to vote before this round is allocated.

        There is nothing to vote on before the first contributions.
        """
        policy = self.terms.allocation.policy
        choice = plugins.load("allocation", policy.rule)
        if "ballots" not in getattr(choice, "USES", frozenset()) or round_ < 2:
            return False
        every = getattr(options_of(policy.rule, choice, policy.options), "every", POLL_EVERY)
        return (round_ - 2) % int(every) == 0

    def work_s(self, site: str, group: Sequence[str], budget: float = 1.0) -> float:
        """Return the seconds of one round of a group that the site's own figures predict.

        A budget shortens or lengthens the computing, not the transfer.
        """
        joined = self.sites[site]
        every = ((joined.seconds.get(k, 0.0), joined.transfer.get(k, 0.0)) for k in group)
        return sum(
            min(transfer, seconds) + max(seconds - transfer, 0.0) * budget for seconds, transfer in every
        )

    def work_of(self, site: str, group: Sequence[str]) -> tuple[str, dict[str, int]]:
        """Return the model that a site holds for a group, and its examples of each subtask that it has."""
        joined = self.sites[site]
        have = {k: joined.capability.subtasks[k] for k in group if k in joined.models}
        return joined.models[next(iter(have))], have

    def request(self, round_: int, active: Sequence[str]) -> Request:
        """Return the question of one round."""
        views = tuple(self.site_view(name, round_) for name in sorted(self.sites))
        return Request(
            round=round_,
            subtasks=tuple(self.subtask_view(name) for name in active),
            sites=views,
            capacity=self.terms.allocation.max_subtasks_per_site,
            rules=self.terms.allocation.rules,
            history=History(last_round=self._last_rounds(active)),
            seed=self.terms.seed,
            alpha=self.terms.objective.alpha,
            beliefs={
                (v.name, k): self.belief(v.name, k, round_) for v in views for k in active if k in v.examples
            },
            ballots={name: self.votes[name] for name in active if name in self.votes},
        )

    def plan(self, request: Request) -> tuple[Plan, Decided]:
        """Ask the policy; return what is sound of its answer, and what the log keeps of the decision."""
        policy = self.terms.allocation.policy
        made = plan(policy.rule, request, policy.options)
        first = sorted(made.passed_over, key=lambda c: (-c.score, c.subtask, c.site))[:MOST_PASSED_OVER]
        decided = Decided(
            round=request.round,
            policy=policy.rule,
            seed=request.seed,
            alpha=request.alpha,
            losses={s.name: s.loss for s in request.subtasks},
            weights={s.name: s.weight for s in request.subtasks},
            passed_over=tuple(
                Weighed(site=c.site, subtask=c.subtask, score=c.score, reason=c.reason[:500]) for c in first
            ),
            more=len(made.passed_over) - len(first),
        )
        return made, decided

    def substitute(
        self, subtask: str, round_: int, busy: Collection[str], asked: Collection[str]
    ) -> str | None:
        """Return the idle, able site with the most examples that was not yet asked, if there is one."""
        view = self.subtask_view(subtask)
        free = sorted(self.sites.keys() - set(busy) - set(asked))
        views = (self.site_view(name, round_) for name in free)
        able = [site for site in views if not obstacles(view, site, self.terms.allocation.rules)]
        best = max(able, key=lambda site: site.examples[subtask], default=None)
        return best.name if best else None

    def subtask_view(self, name: str) -> SubtaskView:
        """Return what a policy sees of a subtask, or of the group that it leads."""
        return joint_view([self._view(member) for member in self.groups.led_by(name)])

    def _view(self, name: str) -> SubtaskView:
        terms, record = self.terms.subtasks[name], self.beliefs.subtask(name)
        return SubtaskView(
            name=name,
            importance=terms.importance,
            min_sites=terms.min_sites,
            needs_memory_mib=terms.needs.memory_mib,
            needs_min_examples=terms.needs.min_examples,
            smallest_model_mib=self.model_mib.get(name, 0.0),
            max_sites=terms.max_sites,
            loss=record.loss,
            weight=self.beliefs.weight(name, self.terms.objective.alpha),
            exploration=record.exploration,
            normalises=_normalises(terms),
        )

    def site_view(self, name: str, round_: int) -> SiteView:
        """Return what a policy sees of a site."""
        joined, standing = self.sites[name], self.beliefs.standing(name)
        c = joined.capability
        # A site that has some of a group can do the group, under its leader's name.
        led = {k: self.groups.led_by(k) for k in self.terms.subtasks}
        some = {k: [m for m in group if m in c.subtasks] for k, group in led.items() if len(group) > 1}
        examples = {k: sum(c.subtasks[m] for m in have) for k, have in some.items() if have}
        work_s = joined.seconds | {k: self.work_s(name, led[k]) for k in examples}
        return SiteView(
            name=name,
            memory_mib=c.memory_mib,
            gpu=c.gpu,
            gpu_memory_mib=c.gpu_memory_mib,
            examples_per_s=c.examples_per_s,
            bandwidth_mbit=c.bandwidth_mbit,
            price=c.price,
            examples={**c.subtasks, **examples},
            seconds={k: self.beliefs.seconds(name, seconds)[0] for k, seconds in work_s.items()},
            class_counts=joined.class_counts,
            reputation=standing.reputation,
            on_probation=standing.on_probation,
            quarantined_until=standing.banned_until if standing.is_quarantined(round_) else 0,
        )

    def quarantined(self, round_: int) -> list[str]:
        """Return the sites that are not asked in this round for what they sent before."""
        return [name for name in sorted(self.sites) if self.beliefs.standing(name).is_quarantined(round_)]

    def belief(self, site: str, subtask: str, round_: int) -> Belief:
        """Return what is believed of a site and a subtask or the group that it leads."""
        group, offered = self.groups.led_by(subtask), self.sites[site].capability.subtasks
        have = [m for m in group if m in self.sites[site].seconds] or [subtask]
        own = {
            m: self.beliefs.belief(site, m, self.work_s(site, [m]), round_, offered.get(m, 0)) for m in have
        }
        if len(group) == 1:
            return own[subtask]
        seconds, seconds_sd = self.beliefs.seconds(site, self.work_s(site, group))
        found = joint_belief([self._view(m) for m in group], own)
        return replace(found, seconds=seconds, seconds_sd=seconds_sd)

    def _last_rounds(self, active: Sequence[str]) -> dict[tuple[str, str], int]:
        pairs = ((site, subtask) for site in self.sites for subtask in active)
        found = {
            (s, k): max(self.beliefs.last_round(s, member) for member in self.groups.led_by(k))
            for s, k in pairs
        }
        return {pair: round_ for pair, round_ in found.items() if round_}


def _normalises(terms: SubtaskTerms) -> bool:
    """Return whether sites may do unlike work: a plain average would be pulled towards those that do more."""
    rule = plugins.load("aggregation", terms.aggregation.rule)
    return terms.exchange == "weights" and "steps" in aggregation.needs(rule)
