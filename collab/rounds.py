"""The run as a state machine: events in, instructions out.

It does nothing itself: clock, network, disk and randomness are the caller's. Events must come
in order of time, and those of one moment in order of site name; then the same events always
give the same instructions, which is what ``consilium replay`` checks.

A round is one barrier over the subtasks. A subtask's cohort closes when everybody answered,
when a quorum has answered and ``grace_s`` have passed since, or at ``deadline_s``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from collab.allocation.contract import Request, Suggestion
from collab.allocation.feasibility import able
from collab.cohort import Cohort, Outcome, Task, share_of
from collab.collaboration import Collaboration, metric_of
from collab.events import (
    Abort,
    Aggregate,
    Arrived,
    Discard,
    Evaluate,
    Evaluated,
    Event,
    Finish,
    Grouped,
    Instruction,
    Poll,
    Polled,
    Refuse,
    Rejected,
    Send,
    Settle,
    Settled,
    SiteJoined,
    SiteLost,
    Skip,
    Started,
    TimePassed,
    Wait,
)
from collab.feedback import Contributed, Measured
from collab.groups import Groups
from collab.not_asked import note_not_asked
from collab.objective import is_there, to_go
from collab.patience import due_s, overdue_after
from collab.roster import Roster
from collab.sequence import Sequence
from protocol.messages import assignment_id

MAX_ATTEMPTS = 3
MAX_EMPTY_ROUNDS = 3


class Rounds:
    """The state of one run. It changes through ``handle`` alone."""

    def __init__(self, collaboration: Collaboration, run: str) -> None:
        self._terms = collaboration
        self._run = run
        self.groups = Groups({n: t.subtasks for n, t in collaboration.families.items()})
        self.roster = Roster(collaboration, self.groups)
        self._gone: dict[str, SiteJoined] = {}
        self.request: Request | None = None
        self._polling: set[str] = set()
        self._settling: set[str] = set()
        self._sequence = Sequence(collaboration.subtasks, self.groups)
        self._now_s = 0.0
        self._answered_s: dict[str, float] = {}
        self._constants: dict[str, float] = {}
        self._empty_rounds = 0
        self.round = 0
        self.cohorts: dict[str, Cohort] = {}
        self.history: list[Cohort] = []
        self.over = False

    def handle(self, event: Event) -> tuple[Instruction, ...]:
        """Take in one event and return what is to be done about it, in order."""
        if self.over:
            return ()
        self._now_s = max(self._now_s, event.at_s)
        instructions: list[Instruction] = []
        for instruction in self._react(event):
            instructions.append(instruction)
            if isinstance(instruction, Finish | Abort):
                self.over = True
                break  # nothing follows the end, though other cohorts may wait for this very event
        self.check_invariants()
        instructions.extend(self._wait())
        return tuple(instructions)

    def task(self, assignment: str) -> Task | None:
        """Return the assignment of that id, of this round or an earlier one."""
        return self._find(assignment)[1]

    def cohort(self, round_: int, subtask: str) -> Cohort | None:
        """Return a subtask's cohort of that round, of this round or an earlier one."""
        known = (*self.cohorts.values(), *reversed(self.history))
        return next((c for c in known if (c.round, c.subtask) == (round_, subtask)), None)

    def check_invariants(self) -> None:
        """Raise AssertionError where the state contradicts itself; it is called after each event."""
        cohorts = self.cohorts.values()
        for cohort in cohorts:
            cohort.check(MAX_ATTEMPTS)
        members = [name for c in cohorts for name in c.group]
        before = self.history[-1].round if self.history else 0
        if any(c.round != self.round for c in cohorts) or (before and before >= self.round):
            raise AssertionError(f"round {self.round}: a cohort of another round")
        if len(members) != len(set(members)):
            raise AssertionError(f"round {self.round}: two cohorts of one subtask")
        if any(not c.closed for c in cohorts) and (self._polling or self._settling):
            raise AssertionError(f"round {self.round}: an open cohort between two rounds")
        if any(c.evaluating for c in cohorts) and not all(c.closed for c in cohorts):
            raise AssertionError(f"round {self.round}: measured while a cohort is open")

    def _react(self, event: Event) -> Iterator[Instruction]:
        for cohort in list(self.cohorts.values()):
            if self._now_s > self._due_s(cohort):  # the caller slept through it: what comes now is late
                yield from self._progress(cohort)
        handler: Callable[[Event], Iterator[Instruction]] = getattr(self, f"_on_{event.type}")
        yield from handler(event)

    # -- events ---------------------------------------------------------------------------------

    def _on_site_joined(self, event: SiteJoined) -> Iterator[Instruction]:
        self.roster.joined(event)
        self._gone.pop(event.capability.site, None)
        return iter(())

    def _on_site_lost(self, event: SiteLost) -> Iterator[Instruction]:
        if (known := self.roster.sites.pop(event.site, None)) is not None:
            self._gone[event.site] = known
        for cohort in list(self.cohorts.values()):
            for key, task in list(cohort.with_outcome("asked").items()):
                if task.send.site == event.site:
                    yield from self._failed(cohort, key, "lost", event.reason or "the site is gone")

    def _on_started(self, event: Started) -> Iterator[Instruction]:
        if self.round == 0:
            self.roster.model_mib = dict(event.model_mib)
            yield from self._open_round()

    def _on_arrived(self, event: Arrived) -> Iterator[Instruction]:
        cohort, task = self._find(event.assignment)
        if cohort is None or task is None:
            yield Discard(assignment=event.assignment, code="unknown")
        elif task.outcome == "contributed":
            yield Discard(assignment=event.assignment, code="duplicate")
        elif task.outcome != "asked":
            if task.outcome == "silent":
                task.outcome = "late"
                self.roster.beliefs.paced(task.send.site, *self._took(cohort, task, event.at_s))
            yield Discard(assignment=event.assignment, code="late")
        else:
            task.outcome, task.answered_s = "contributed", event.at_s
            self.roster.beliefs.answered(task.send.site, task.of, self.round)
            self.roster.beliefs.paced(task.send.site, *self._took(cohort, task, event.at_s))
            yield from self._progress(cohort)

    def _took(self, cohort: Cohort, task: Task, at_s: float) -> tuple[float, float]:
        """Return the seconds predicted for an assignment from capability, and those that it took.

        A site does one thing at a time: the clock of this one starts where its last answer came in.
        """
        site = task.send.site
        began_s = max(task.sent_s, self._answered_s.get(site, 0.0))
        self._answered_s[site] = at_s
        known = site in self.roster.sites  # it may have left since
        return self.roster.work_s(site, cohort.group, task.send.budget) if known else 0.0, at_s - began_s

    def _on_rejected(self, event: Rejected) -> Iterator[Instruction]:
        cohort, task = self._find(event.assignment)
        if cohort is not None and task is not None and task.outcome == "asked":
            yield from self._failed(cohort, event.assignment, "rejected", f"{event.code}: {event.detail}")

    def _on_time_passed(self, event: TimePassed) -> Iterator[Instruction]:
        del event  # only its time matters, and that has been noted
        for cohort in list(self.cohorts.values()):
            if not cohort.closed:
                yield from self._progress(cohort)

    def _on_evaluated(self, event: Evaluated) -> Iterator[Instruction]:
        name = event.subtask
        cohort = next((c for c in self.cohorts.values() if name in c.unmeasured), None)
        if cohort is None or event.round != self.round or not cohort.evaluating:
            return
        cohort.measured.add(name)
        tasks = cohort.with_outcome("contributed").values()
        given = tuple(Contributed(t.send.site, t.of[name]) for t in tasks if name in t.of)
        terms, metric = self._terms.subtasks[name], metric_of(self._terms.subtasks[name])
        if event.constant is not None:
            # The first counts for good: it depends on which sites answered, and f must keep its scale.
            self._constants.setdefault(name, event.constant)
        left = to_go(metric, event.value, terms.target, self._constants.get(name))
        # Where the way to a target counts, a round without the metric says nothing of it.
        loss = None if event.value is None and terms.target is not None else event.loss
        found = Measured(loss, event.losses, event.credits, left)
        self.roster.beliefs.measured(name, self.round, given, found)
        if is_there(metric, event.value, terms.target):
            self._sequence.reached_target(name)
        yield from self._after_closing()

    def _on_grouped(self, event: Grouped) -> Iterator[Instruction]:
        self.groups.split(event.family, event.groups)
        return iter(())

    def _on_polled(self, event: Polled) -> Iterator[Instruction]:
        if event.round != self.round or event.subtask not in self._polling:
            return
        self.roster.voted(event)
        self._polling.remove(event.subtask)
        if not self._polling:
            yield from self._allocate(self._sequence.active(self.round))

    def _on_settled(self, event: Settled) -> Iterator[Instruction]:
        if event.round != self.round or event.subtask not in self._settling:
            return
        self._sequence.settled(event.subtask, has_model=event.has_model)
        self._settling.remove(event.subtask)
        if not self._settling:
            yield from self._open_round()

    # -- a round --------------------------------------------------------------------------------

    def _open_round(self) -> Iterator[Instruction]:
        never = self._sequence.never_started()
        if not self._sequence.unfinished(self.round):
            yield Finish(reason=f"{self._sequence.all_over()}{never}"[:500])
            return
        if self.round >= self._terms.rounds:
            yield Finish(reason=f"all {self._terms.rounds} rounds are done{never}"[:500])
            return
        if not self.roster.sites:
            yield Abort(reason=f"round {self.round + 1}: all sites are gone; start them and run again")
            return
        if self._empty_rounds >= MAX_EMPTY_ROUNDS:
            yield Abort(reason=f"round {self.round}: nobody answered in {MAX_EMPTY_ROUNDS} rounds on end")
            return
        if unsettled := self._sequence.unsettled(self.round):
            self._settling = set(unsettled)
            yield Settle(round=self.round, subtasks=tuple(unsettled))
            return
        self.history.extend(self.cohorts.values())
        self.cohorts = {}
        self.round += 1
        while not (active := self._sequence.active(self.round)):
            self.round += 1  # nobody has anything to do before the next subtask starts
        self._sequence.start(active)
        if self.roster.polls(self.round):
            self._polling = set(active)
            yield Poll(round=self.round, subtasks=tuple(active))
        else:
            yield from self._allocate(active)

    def _allocate(self, active: list[str]) -> Iterator[Instruction]:
        self.cohorts = {
            name: Cohort(name, self._now_s, self.groups.led_by(name), self.round) for name in active
        }
        self.request = self.roster.request(self.round, active)
        suggested, decided = self.roster.plan(self.request)
        yield decided
        sizes = Counter(s.subtask for s in suggested.assignments)
        for s in suggested.assignments:
            if sizes[s.subtask] < self._terms.subtasks[s.subtask].min_sites:
                continue  # too few to hide in, and to learn from: the cohort is not sent
            yield self._send(self.cohorts[s.subtask], 1, s)
        note_not_asked(self.cohorts.values(), self.request, suggested, self.roster.sites, self._gone)
        yield from (Refuse(site=s.site, subtask=s.subtask, reason=why[:500]) for s, why in suggested.refused)
        for name in active:
            if not self.cohorts[name].tasks:
                why = suggested.unserved.get(name, "no site was chosen")
                yield self._skip(self.cohorts[name], why)
        if any(c.tasks for c in self.cohorts.values()):
            return
        if able(self.request) and self._empty_rounds + 1 < MAX_EMPTY_ROUNDS:
            yield from self._after_closing()  # the policy chose nobody: in another round it may
        else:
            yield Abort(reason=f"round {self.round}: nobody can do anything: {_first(suggested.unserved)}")

    def _send(self, cohort: Cohort, attempt: int, chosen: Suggestion) -> Send:
        model, of = self.roster.work_of(chosen.site, cohort.group)
        send = Send(
            round=self.round,
            subtask=cohort.subtask,
            site=chosen.site,
            attempt=attempt,
            model=model,
            score=chosen.score,
            reason=chosen.reason[:500],
            payment=chosen.payment,
            inclusion=chosen.inclusion,
            budget=chosen.budget,
            patience_s=self._patience_s(cohort.subtask, chosen),
        )
        key = assignment_id(self._run, self.round, cohort.subtask, chosen.site, attempt)
        told = self.roster.sites[chosen.site].class_counts
        counts = {name: told[name] for name in of if name in told}
        cohort.tasks[key] = Task(send, of, counts, sent_s=self._now_s)
        return send

    def _patience_s(self, subtask: str, chosen: Suggestion) -> float | None:
        """Return after how long the site is overdue, what it was sent before in this round counted in."""
        before = [t.send for c in self.cohorts.values() for t in c.with_outcome("asked").values()]
        mine = [(s.subtask, s.budget) for s in before if s.site == chosen.site]
        all_ = [(self.groups.led_by(k), budget) for k, budget in [*mine, (subtask, chosen.budget)]]
        work_s = sum(self.roster.work_s(chosen.site, group, budget) for group, budget in all_)
        seconds, sd = self.roster.beliefs.seconds(chosen.site, work_s)
        return overdue_after(seconds, sd, self._terms.coordination_of(subtask))

    def _failed(self, cohort: Cohort, key: str, outcome: Outcome, detail: str) -> Iterator[Instruction]:
        task = cohort.tasks[key]
        task.outcome, task.detail, task.answered_s = outcome, detail[:500], self._now_s
        poisoned = outcome == "rejected" and detail.startswith(("arrays:", "message:"))
        self.roster.beliefs.failed(task.send.site, task.of, self.round, poisoned=poisoned)
        substitute = self._substitute(cohort) if task.send.attempt < MAX_ATTEMPTS else None
        if substitute is not None:
            reason = f"handed on from {task.send.site}, which was {outcome}"
            handed_on = Suggestion(substitute, cohort.subtask, task.send.score, reason)
            send = self._send(cohort, task.send.attempt + 1, handed_on)
            task.successor = assignment_id(self._run, self.round, cohort.subtask, substitute, send.attempt)
            yield send
        yield from self._progress(cohort)

    def _substitute(self, cohort: Cohort) -> str | None:
        tasks = [t for c in self.cohorts.values() for t in c.tasks.values()]
        busy = {t.send.site for t in tasks if t.outcome in {"asked", "silent"}}
        used = Counter(t.send.site for t in tasks)
        busy |= {s for s, n in used.items() if n >= self._terms.allocation.max_subtasks_per_site}
        asked = {t.send.site for t in cohort.tasks.values()}
        return self.roster.substitute(cohort.subtask, self.round, busy, asked)

    def _progress(self, cohort: Cohort) -> Iterator[Instruction]:
        """Close the cohort if it is time, else start its grace period if a quorum has answered."""
        if cohort.closed:
            return
        terms = self._terms.coordination_of(cohort.subtask)
        given, open_tasks = cohort.with_outcome("contributed"), cohort.with_outcome("asked")
        asked = len({t.send.site for t in cohort.tasks.values() if t.send.attempt == 1})
        share = len(given) / asked
        # isclose: 11 of 20 are a quorum of 0.55, though 0.55 * 20 > 11 in floating point.
        if share >= terms.quorum or math.isclose(share, terms.quorum):
            cohort.grace_ends_s = min(cohort.grace_ends_s, self._now_s + terms.grace_s)
        due_s = self._due_s(cohort)
        if open_tasks and self._now_s < due_s:
            return
        for task in open_tasks.values():
            task.outcome, task.detail = "silent", f"no answer by {due_s - cohort.opened_s:.1f} s"
            self.roster.beliefs.failed(task.send.site, task.of, self.round, poisoned=False)
        yield from self._close(cohort, given)

    def _close(self, cohort: Cohort, given: dict[str, Task]) -> Iterator[Instruction]:
        coverage = share_of(cohort)
        least = self._terms.coordination_of(cohort.subtask).min_coverage
        missing = sorted({t.send.site for t in cohort.tasks.values() if t.outcome != "contributed"})
        if coverage < least:
            cohort.end("stopped")
            yield Abort(
                reason=f"round {self.round}, {cohort.subtask}: only {coverage:.0%} of the examples asked for "
                f"came in (min_coverage is {least:.0%}); missing: {', '.join(missing)}"[:500]
            )
        elif given:
            cohort.end("merged", tuple(given))
            yield Aggregate(
                round=self.round, subtask=cohort.subtask, assignments=tuple(given), coverage=coverage
            )
            yield from self._after_closing()
        else:
            yield self._skip(cohort, f"nobody contributed; asked: {', '.join(missing)}")
            yield from self._after_closing()

    def _skip(self, cohort: Cohort, reason: str) -> Skip:
        cohort.end("skipped")
        cohort.measured = set(cohort.group)
        return Skip(round=self.round, subtask=cohort.subtask, reason=reason[:500])

    def _after_closing(self) -> Iterator[Instruction]:
        """Have the round measured once every cohort has closed; open the next once it has been."""
        cohorts = self.cohorts.values()
        unmeasured = tuple(name for c in cohorts for name in c.unmeasured)
        if not all(c.closed for c in cohorts):
            return
        if not unmeasured:
            tasks = [t for c in cohorts for t in c.with_outcome("contributed").values()]
            self._empty_rounds = 0 if tasks else self._empty_rounds + 1
            self.roster.beliefs.round_over(frozenset(t.send.site for t in tasks), self.round)
            yield from self._open_round()
        elif not any(c.evaluating for c in cohorts):
            for cohort in cohorts:
                cohort.evaluating = True
            yield Evaluate(round=self.round, subtasks=unmeasured)

    def _wait(self) -> list[Wait]:
        """Return the wait for the cohort that is due next; none where nothing is open."""
        dues = [self._due_s(c) for c in self.cohorts.values() if not c.closed and not self.over]
        return [Wait(until_s=min(dues))] if dues else []

    def _due_s(self, cohort: Cohort) -> float:
        terms = self._terms.coordination_of(cohort.subtask)
        return due_s(cohort, terms, self._terms.subtasks[cohort.subtask].min_sites)

    def _find(self, assignment: str) -> tuple[Cohort | None, Task | None]:
        for cohort in (*self.cohorts.values(), *reversed(self.history)):
            if assignment in cohort.tasks:
                return cohort, cohort.tasks[assignment]
        return None, None


def _first(reasons: Mapping[str, str]) -> str:
    return next(iter(f"{k}: {v}" for k, v in sorted(reasons.items())), "there are no sites")
