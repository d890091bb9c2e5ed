"""What a site can do, and the one place where a policy's suggestions become a plan.

A policy suggests, this file decides (after dask's active memory manager): whatever a policy
returns, a plan holds only what is feasible, within capacity, once, and with a reason.
"""

from __future__ import annotations

import math
import numbers
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from collab import plugins
from collab.allocation.contract import (
    LARGEST_BUDGET,
    Candidate,
    Decision,
    Request,
    SiteView,
    SubtaskView,
    Suggestion,
)
from collab.allocation.predicates import Rule, compile_rule
from collab.options import parse_options
from collab.plugins import unknown
from collab.rng import generator
from protocol.errors import ConfigError

Refusal = tuple[Suggestion, str]


@dataclass(frozen=True)
class Plan:
    """Who does what in a round, and why the rest does not."""

    assignments: tuple[Suggestion, ...]  # in order of (subtask, site)
    refused: tuple[Refusal, ...]  # what the policy suggested in vain, and why
    unserved: dict[str, str]  # subtask -> why it has no site, or fewer than its min_sites
    passed_over: tuple[Candidate, ...] = ()  # all other pairs, and what stood in the way of each


@dataclass(frozen=True)
class _Obstacle:
    constraint: str  # the same words for every site that it stops, so that they can be counted
    found: str = ""

    def __str__(self) -> str:
        return f"{self.constraint} ({self.found})" if self.found else self.constraint


_Table = Mapping[tuple[str, str], list[_Obstacle]]  # (site, subtask) -> what stands in the way


def obstacles(subtask: SubtaskView, site: SiteView, rules: Mapping[str, str]) -> list[str]:
    """Return all that keeps ``site`` from ``subtask``, a phrase each; empty if it can do it.

    Raises:
        ConfigError: the subtask's rule cannot be parsed.
    """
    return [str(obstacle) for obstacle in _obstacles(subtask, site, _compiled(rules, [subtask]))]


def able(request: Request) -> list[tuple[SiteView, tuple[SubtaskView, ...]]]:
    """Return each site in order of name with the subtasks that it can do, in the request's order.

    Sites that can do nothing are left out.

    Raises:
        ConfigError: a rule cannot be parsed.
    """
    table = _table(request)
    sites = sorted(request.sites, key=lambda site: site.name)
    can = [(site, tuple(s for s in request.subtasks if not table[site.name, s.name])) for site in sites]
    return [(site, subtasks) for site, subtasks in can if subtasks]


def plan(policy: str, request: Request, options: Mapping[str, Any] | None = None) -> Plan:
    """Ask the policy of that name and keep what is sound.

    The plan depends neither on the order of the request's sites nor on that of the
    suggestions: where a site got more than its capacity, the highest scores stay, ties in
    order of the subtask's name.

    Raises:
        ConfigError: no policy has that name, it returns no list of ``Suggestion``, or a rule
            cannot be parsed.
    """
    request = replace(request, sites=tuple(sorted(request.sites, key=lambda site: site.name)))
    choice = plugins.load("allocation", policy)
    decision = _ask(policy, choice, request, options or {})
    unlimited = getattr(choice, "IGNORES_CAPACITY", False) is True
    capacity = len(request.subtasks) if unlimited else request.capacity
    table = _table(request)
    kept, refused = _decide(request, decision.suggestions, table, capacity)
    return Plan(
        assignments=tuple(sorted(kept, key=lambda s: (s.subtask, s.site))),
        refused=tuple(sorted(refused, key=lambda pair: (str(pair[0].subtask), str(pair[0].site), pair[1]))),
        unserved=_unserved(policy, request, kept, table, capacity),
        passed_over=_passed_over(policy, kept, decision, table),
    )


def _compiled(rules: Mapping[str, str], subtasks: Iterable[SubtaskView]) -> dict[str, tuple[str, Rule]]:
    texts = {subtask.name: rules[subtask.name] for subtask in subtasks if subtask.name in rules}
    return {name: (text, compile_rule(text)) for name, text in texts.items()}


def _table(request: Request) -> _Table:
    rules = _compiled(request.rules, request.subtasks)
    return {
        (site.name, subtask.name): _obstacles(subtask, site, rules)
        for site in request.sites
        for subtask in request.subtasks
    }


def _obstacles(
    subtask: SubtaskView, site: SiteView, rules: Mapping[str, tuple[str, Rule]]
) -> list[_Obstacle]:
    found: list[_Obstacle] = []
    examples = site.examples.get(subtask.name, 0)
    has_memory = f"has {site.memory_mib:g}"
    if examples <= 0:
        found.append(_Obstacle("no data for it"))
    elif examples < subtask.needs_min_examples:
        found.append(_Obstacle(f"fewer than {subtask.needs_min_examples} examples", f"has {examples}"))
    if site.memory_mib < subtask.needs_memory_mib:
        found.append(_Obstacle(f"less than {subtask.needs_memory_mib:g} MiB of memory", has_memory))
    if site.memory_mib < subtask.smallest_model_mib:
        need = f"no room for its smallest model of {subtask.smallest_model_mib:g} MiB"
        found.append(_Obstacle(need, has_memory))
    if site.quarantined_until:
        found.append(_Obstacle("in quarantine", f"until round {site.quarantined_until}"))
    text, admits = rules.get(subtask.name, ("", None))
    if admits is not None and not admits(site):
        found.append(_Obstacle(f"rule not met: {text}"))
    return found


def options_of(policy: str, choice: Any, options: Mapping[str, Any]) -> Any:
    """Return the policy's ``Options`` filled from a file; None where it has none.

    Raises:
        ConfigError: an option that the policy does not have, or a value that it refuses.
    """
    kind = getattr(choice, "Options", None)
    if kind is not None:
        return parse_options(f"allocation '{policy}'", kind, options)
    if options:
        raise ConfigError(
            unknown(f"option '{min(options)}' of allocation '{policy}'", min(options), ["no options"])
        )
    return None


def _ask(policy: str, choice: Any, request: Request, options: Mapping[str, Any]) -> Decision:
    allocate = getattr(choice, "allocate", None)
    if not callable(allocate):
        raise ConfigError(f"allocation policy '{policy}' has no function allocate(request, rng)")
    filled = options_of(policy, choice, options)
    more = {} if filled is None else {"options": filled}
    answer = allocate(request, generator(request.seed, request.round, "allocation", policy), **more)
    decision = answer if isinstance(answer, Decision) else None
    answer = decision.suggestions if decision else answer
    if not isinstance(answer, (list, tuple)):
        kind = type(answer).__name__
        raise ConfigError(
            f"allocation policy '{policy}' returned {kind}, it must return a list of Suggestion"
        )
    for item in answer:
        if not isinstance(item, Suggestion):
            kind = type(item).__name__
            raise ConfigError(
                f"allocation policy '{policy}' returned a list with {kind}, not Suggestion, in it"
            )
    return Decision(tuple(answer), decision.passed_over if decision else ())


def _decide(
    request: Request, suggestions: tuple[Suggestion, ...], table: _Table, capacity: int
) -> tuple[list[Suggestion], list[Refusal]]:
    checked = [(suggestion, _unsound(suggestion, table)) for suggestion in suggestions]
    refused = [(suggestion, why) for suggestion, why in checked if why]
    sound = [replace(suggestion, score=float(suggestion.score)) for suggestion, why in checked if not why]
    most = {s.name: s.max_sites or len(request.sites) for s in request.subtasks}
    held: defaultdict[str, list[str]] = defaultdict(list)
    cohort: Counter[str] = Counter()
    kept: list[Suggestion] = []
    for suggestion in sorted(sound, key=lambda s: (-s.score, s.subtask, s.site, s.reason)):
        mine = held[suggestion.site]
        if suggestion.subtask in mine:
            refused.append((suggestion, "suggested twice"))
        elif len(mine) >= capacity:
            refused.append((suggestion, f"over capacity: the site already has {', '.join(mine)}"))
        elif cohort[suggestion.subtask] >= most[suggestion.subtask]:
            refused.append((suggestion, f"the cohort has its max_sites = {most[suggestion.subtask]} already"))
        else:
            mine.append(suggestion.subtask)
            cohort[suggestion.subtask] += 1
            kept.append(suggestion)
    return kept, refused


def _unsound(suggestion: Suggestion, table: _Table) -> str:
    # The types are what a policy should give; a user's policy may not.
    site, subtask, reason = suggestion.site, suggestion.subtask, suggestion.reason
    if not (isinstance(site, str) and isinstance(subtask, str) and isinstance(reason, str)):
        return "site, subtask and reason must be text"
    if not reason.strip():
        return "it gives no reason"
    if wrong := [what for what, is_sound in _numbers(suggestion) if not is_sound]:
        return wrong[0]
    if (site, subtask) not in table:
        return f"'{site}' and '{subtask}' are not a site and a subtask of this round"
    return "; ".join(map(str, table[site, subtask]))


def _numbers(s: Suggestion) -> Iterator[tuple[str, bool]]:
    yield "its score is not a finite number", _is_finite(s.score)
    yield "its payment is not a finite number from 0 up", _is_finite(s.payment) and s.payment >= 0
    chance = 1.0 if s.inclusion is None else s.inclusion
    yield "its chance of inclusion is not above 0 and up to 1", _is_finite(chance) and 0 < chance <= 1
    yield (
        f"its budget is not above 0 and up to {LARGEST_BUDGET:g}",
        _is_finite(s.budget) and 0 < s.budget <= LARGEST_BUDGET,
    )


def _is_finite(score: object) -> bool:
    try:
        return isinstance(score, numbers.Real) and math.isfinite(score)
    except OverflowError:  # an int beyond the largest float
        return False


def _passed_over(
    policy: str, kept: list[Suggestion], decision: Decision, table: _Table
) -> tuple[Candidate, ...]:
    """Return every pair that is not in the plan with the first thing that stood in its way."""
    weighed = {(c.site, c.subtask): c for c in decision.passed_over}
    mine: defaultdict[str, list[str]] = defaultdict(list)
    for suggestion in kept:
        mine[suggestion.site].append(suggestion.subtask)
    found = []
    for (site, subtask), obstacles_ in table.items():
        if subtask in mine[site]:
            continue
        candidate = weighed.get((site, subtask))
        if obstacles_:
            found.append(Candidate(site, subtask, 0.0, "; ".join(map(str, obstacles_))))
        elif candidate is not None:
            found.append(candidate)
        else:
            does = f", it does {', '.join(sorted(mine[site]))}" if mine[site] else ""
            found.append(Candidate(site, subtask, 0.0, f"not chosen by policy '{policy}'{does}"))
    return tuple(sorted(found, key=lambda c: (c.subtask, c.site)))


def _unserved(
    policy: str, request: Request, kept: list[Suggestion], table: _Table, capacity: int
) -> dict[str, str]:
    load = Counter(suggestion.site for suggestion in kept)
    pairs = {(suggestion.site, suggestion.subtask) for suggestion in kept}

    def constraint(site: str, subtask: str) -> str:
        if table[site, subtask]:
            return table[site, subtask][0].constraint
        return f"busy ({capacity} a site)" if load[site] >= capacity else f"not chosen by policy '{policy}'"

    sentences: dict[str, str] = {}
    for subtask in request.subtasks:
        others = [site.name for site in request.sites if (site.name, subtask.name) not in pairs]
        needed, got = max(1, subtask.min_sites), len(request.sites) - len(others)
        if got < needed:
            counts = Counter(constraint(site, subtask.name) for site in others).most_common()
            why = ", ".join(f"{count} × {text}" for text, count in counts)
            sentences[subtask.name] = (
                f"has {got} sites, needs {needed}; the others: {why or 'there are none'}"
            )
    return sentences
