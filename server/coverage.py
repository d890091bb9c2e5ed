"""The coverage statement: who was in a round, who was not, why, and what share of the examples that removed.

One for each subtask and round, or group of subtasks that train together, made of the state machine's
assignments after the cohort has closed. Nobody is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from collab.cohort import Cohort, Task, share_of
from collab.collaboration import Collaboration
from collab.rounds import Rounds
from server.class_coverage import missing_of_classes
from server.evaluations import Measurement
from server.preparation import Prepared

# A statement names at most so many classes of a subtask, those of which most is missing, and so many of the
# sites that were not asked for one reason; how many are left out it says.
MOST_CLASSES, MOST_NAMED = 50, 20
# These keep a site's last contribution: in a round that lacks it, an earlier one counts.
_LASTING = frozenset({"soft_labels", "prototypes"})


@dataclass(frozen=True)
class Out:
    """A site that was asked and did not contribute.

    Attributes:
        why: silent, late, rejected or lost; asked: it was still waited for when the run stopped.
        examples: how many it has, all subtasks of a group counted.
        handed_on_to: the site that was asked in its stead, if one was.
        counts_from: the round of an earlier contribution that still counts; 0 where none does.
    """

    site: str
    why: str
    detail: str
    examples: int
    handed_on_to: str = ""
    counts_from: int = 0


@dataclass(frozen=True)
class Statement:
    """What a round of a subtask rests on.

    Attributes:
        together: the subtasks of the group, where it is one.
        ended: merged, skipped (nothing was merged, the model stays), stopped (below ``min_coverage``), or
            open: the run stopped before it closed.
        inside: the sites that contributed, in order of name; ``out`` are the others that were asked.
        not_asked: by reason, the sites that have the subtask and were not asked.
        examples_share: of the examples first asked for, a substitute counting for what it has; None where
            nobody was asked.
        classes: by subtask, the share of each class's examples that is missing: those above 0, and None
            where what the sites tell does not say.
        more_classes: how many of those are not named.
    """

    round: int
    subtask: str
    together: tuple[str, ...]
    ended: str
    inside: tuple[str, ...]
    out: tuple[Out, ...]
    not_asked: Mapping[str, tuple[str, ...]]
    examples_asked: int
    examples_in: int
    examples_share: float | None
    classes: Mapping[str, Mapping[str, float | None]]
    more_classes: int

    def as_json(self) -> dict[str, Any]:
        """Return it as ``summary.json`` holds it."""
        return {
            "round": self.round,
            "subtask": self.subtask,
            "together": list(self.together),
            "ended": self.ended,
            "asked": len(self.inside) + len(self.out),
            "contributed": len(self.inside),
            "examples_asked": self.examples_asked,
            "examples_in": self.examples_in,
            "examples_share": self.examples_share,
            "in": list(self.inside),
            "out": [vars(one) for one in self.out],
            "not_asked": {
                why: {"sites": len(sites), "named": list(sites[:MOST_NAMED])}
                for why, sites in sorted(self.not_asked.items())
            },
            "classes_missing": {name: dict(shares) for name, shares in self.classes.items()},
            "more_classes": self.more_classes,
        }


def statements(machine: Rounds, collaboration: Collaboration) -> list[Statement]:
    """Return the statements of all cohorts so far, in order of round and subtask."""
    found, last = [], dict[tuple[str, str], int]()
    for cohort in [*machine.history, *machine.cohorts.values()]:
        found.append(_state(cohort, collaboration, last))
        last |= {(cohort.subtask, site): cohort.round for site in found[-1].inside}
    return found


def statement(machine: Rounds, collaboration: Collaboration, round_: int, subtask: str) -> Statement | None:
    """Return the statement of one cohort, best after it has closed; None where there is no such cohort."""
    if (cohort := machine.cohort(round_, subtask)) is None:
        return None
    before = [c for c in machine.history if c.subtask == subtask and c.round < round_]
    last = {(subtask, t.send.site): c.round for c in before for t in c.with_outcome("contributed").values()}
    return _state(cohort, collaboration, last)


def _state(cohort: Cohort, collaboration: Collaboration, last: Mapping[tuple[str, str], int]) -> Statement:
    """Return a cohort's statement; ``last`` is when each site contributed to a subtask before, if ever."""
    tasks = sorted(cohort.tasks.values(), key=lambda t: t.send.site)
    first = [t for t in tasks if t.send.attempt == 1]
    given = [t for t in tasks if t.outcome == "contributed"]
    lasting = collaboration.subtasks[cohort.subtask].exchange in _LASTING
    known = last if lasting else {}
    not_asked: dict[str, list[str]] = {}
    for site, why in sorted(cohort.not_asked.items()):
        if all(t.send.site != site for t in tasks):  # it may have been asked later, in another's stead
            not_asked.setdefault(why, []).append(site)
    classes, more = _classes(cohort.group, first, given, collaboration)
    return Statement(
        round=cohort.round,
        subtask=cohort.subtask,
        together=cohort.group if len(cohort.group) > 1 else (),
        ended=cohort.ended or "open",
        inside=tuple(t.send.site for t in given),
        out=tuple(
            _out(t, cohort, known.get((cohort.subtask, t.send.site), 0))
            for t in tasks
            if t.outcome != "contributed"
        ),
        not_asked={why: tuple(sites) for why, sites in not_asked.items()},
        examples_asked=sum(t.examples for t in first),
        examples_in=sum(t.examples for t in given),
        examples_share=share_of(cohort) if tasks else None,
        classes=classes,
        more_classes=more,
    )


def _out(task: Task, cohort: Cohort, counts_from: int) -> Out:
    after = cohort.tasks.get(task.successor or "")
    return Out(
        site=task.send.site,
        why=task.outcome,
        detail=task.detail,
        examples=task.examples,
        handed_on_to=after.send.site if after else "",
        counts_from=counts_from,
    )


def _classes(
    group: Iterable[str], first: list[Task], given: list[Task], collaboration: Collaboration
) -> tuple[dict[str, dict[str, float | None]], int]:
    """Return by subtask the missing shares of its classes, where there are any, and how many are left out."""
    found: dict[str, dict[str, float | None]] = {}
    more = 0
    for name in group:
        shares = missing_of_classes(name, first, given)
        labels = collaboration.subtasks[name].labels
        words = labels if isinstance(labels, tuple) and len(labels) == len(shares) else range(len(shares))
        missing = [(str(w), share) for w, share in zip(words, shares, strict=True) if share != 0]
        missing.sort(key=lambda one: -1.0 if one[1] is None else -one[1])
        more += len(missing[MOST_CLASSES:])
        if missing:
            found[name] = dict(missing[:MOST_CLASSES])
    return found, more


def unmeasured(prepared: Prepared, found: Measurement) -> tuple[str, ...]:
    """Return the sites whose validation rows a measurement of a subtask lacks, in order of name."""
    have = (site for site in prepared.sites if prepared.summaries[site].validation)
    return tuple(site for site in have if site not in found.sites)
