"""The coverage statements as a person reads them: one sentence a round, and what the run adds up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.coverage import Statement
from server.reading import at
from server.units import counted, percent, real

_NAMED = 6
NOT_ASKED = {
    "policy": "the policy chose others",
    "min_sites": "too few for min_sites",
    "quarantined": "in quarantine",
    "infeasible": "it cannot do it",
    "gone": "it has left",
}
ENDS = {
    "skipped": "nothing was merged",
    "stopped": "below min_coverage, the run stopped",
    "open": "the run stopped before it closed",
}
# Not to be asked by choice of the policy is the ordinary course; these are worth a word wherever they occur.
_UNCHOSEN = ("gone", "quarantined", "infeasible", "min_sites")

Json = Mapping[str, Any]


@dataclass
class SiteTotal:
    """How often a site was asked and did not contribute, and why; ``examples`` over all those times."""

    site: str
    asked: int = 0
    out: int = 0
    examples: int = 0
    why: Counter[str] = field(default_factory=Counter)

    @property
    def words(self) -> str:
        """Say the reasons, the most frequent first."""
        ordered = sorted(self.why.items(), key=lambda one: (-one[1], one[0]))
        return ", ".join(f"{n} × {why}" for why, n in ordered)


@dataclass(frozen=True)
class ClassTotal:
    """What was missing of a class: the mean over the rounds in which it is known, and the worst of them."""

    subtask: str
    label: str
    mean: float | None
    worst: float | None
    worst_round: int | None
    rounds: int
    unknown: int


@dataclass(frozen=True)
class RunCoverage:
    """All statements of a run, and what they add up to.

    Attributes:
        lacking: the statements that something is missing in.
        sites: of those that were ever out, the most often out first.
        classes: of which anything was ever missing, the worst first.
        not_asked: by reason, how often a site that has a subtask was not asked.
        figures: validation figures that lack a site's rows: subtask, round, and those sites.
    """

    statements: Sequence[Json]
    lacking: Sequence[Json]
    asked: int
    contributed: int
    examples_share: float | None
    sites: Sequence[SiteTotal]
    classes: Sequence[ClassTotal]
    not_asked: Mapping[str, int]
    figures: Sequence[tuple[str, int, Sequence[str]]]

    @property
    def lines(self) -> list[str]:
        """Say in sentences what the run rests on."""
        if not self.statements:
            return ["No round was closed."]
        rounds = counted(len(self.statements), "cohort")
        if not self.lacking:
            said = [f"Nothing was missing: in each of {rounds}, every site that was asked contributed."]
        else:
            share = "" if self.examples_share is None else f", {percent(self.examples_share)} of the examples"
            came = f"{self.contributed} of {counted(self.asked, 'assignment')} came in{share}"
            said = [f"Something was missing in {len(self.lacking)} of {rounds}: {came}."]
            said += [f"Out: {_few([f'{s.site} {s.out} of {s.asked} ({s.words})' for s in self.sites])}."]
        not_asked = {why: n for why, n in self.not_asked.items() if why in _UNCHOSEN}
        if not_asked:
            words = ", ".join(f"{n} × {NOT_ASKED[why]}" for why, n in not_asked.items())
            said.append(f"Sites that have a subtask and were not asked: {words}.")
        if self.figures:
            said.append(f"{counted(len(self.figures), 'validation figure')} without the rows of some sites.")
        return said


def announced(statement: Statement) -> dict[str, Any]:
    """Return the event that tells a listener of a cohort that has closed."""
    said = statement.as_json()
    return {"type": "coverage", **said, "whole": is_whole(said), "text": sentence(said)}


def note(given: MutableMapping[str, Any], event: Json) -> None:
    """Keep in a run's status what a ``coverage`` event says: for each subtask the last round that lacked."""
    known = given.setdefault("coverage", {}).setdefault(event["subtask"], {"closed": 0, "lacking": 0})
    known["closed"] += 1
    if not event["whole"]:
        known |= {"lacking": known["lacking"] + 1, "round": event["round"], "text": event["text"]}


def is_whole(statement: Json) -> bool:
    """Return whether every site that was asked contributed, and somebody was."""
    ended = statement.get("ended", "merged")
    return bool(ended == "merged" and statement["contributed"] == statement["asked"])


def sentence(statement: Json) -> str:
    """Say who was in and who was not: "2 of 3 sites, 66 % of the examples; without beta (silent: ...)"."""
    share = percent(statement["examples_share"])
    parts = [f"{statement['contributed']} of {counted(statement['asked'], 'site')}, {share} of the examples"]
    if not statement["asked"]:
        parts = ["nobody was asked" + _reasons(statement)]
    if statement.get("ended") in ENDS:
        parts.append(ENDS[statement["ended"]])
    if out := statement.get("out"):
        parts.append(f"without {_few([out_words(one) for one in out])}")
    if classes := list(class_words(statement)):
        parts.append(f"missing of classes: {_few(classes)}")
    return "; ".join(parts)


def out_words(out: Json) -> str:
    """Say who was out and why."""
    why = f"{out['why']}: {out['detail']}" if out.get("detail") else str(out["why"])
    why += f", handed on to {out['handed_on_to']}" if out.get("handed_on_to") else ""
    why += f", what it gave in round {out['counts_from']} still counts" if out.get("counts_from") else ""
    return f"{out['site']} ({why})"


def class_words(statement: Json) -> Iterator[str]:
    """Yield what is missing of each class; where the sites do not tell enough, that it is not known."""
    found = statement.get("classes_missing") or {}
    for subtask, shares in found.items():
        of = f" of {subtask}" if len(statement.get("together") or ()) > 1 else ""
        if shares and all(share is None for share in shares.values()) and not statement.get("more_classes"):
            yield f"not known{of} for {len(shares)} {'class' if len(shares) == 1 else 'classes'}"
            continue
        for label, share in shares.items():
            yield f"{label}{of} {'not known' if share is None else percent(share)}"
    if more := statement.get("more_classes"):
        yield f"{more} more"


def run_coverage(summary: Json) -> RunCoverage:
    """Return what the statements of a summary add up to; one of an earlier release says less."""
    all_ = list(at(summary, "coverage") or [])
    shares = [(one.get("examples_in"), one.get("examples_asked"), one["examples_share"]) for one in all_]
    # A substitute with more rows than the site it stands in for does not make up for another round.
    asked = sum(n for _, n, _ in shares if n)
    given = sum(n * (real(share) or 0.0) for _, n, share in shares if n)
    not_asked: Counter[str] = Counter()
    for one in all_:
        not_asked.update({why: said["sites"] for why, said in (one.get("not_asked") or {}).items()})
    return RunCoverage(
        statements=all_,
        lacking=[one for one in all_ if not is_whole(one)],
        asked=sum(one["asked"] for one in all_),
        contributed=sum(one["contributed"] for one in all_),
        examples_share=given / asked if asked else None,
        sites=_sites(all_),
        classes=_class_totals(all_),
        not_asked=dict(sorted(not_asked.items())),
        figures=[
            (name, point["round"], point["without"])
            for name, subtask in (at(summary, "subtasks") or {}).items()
            for point in at(subtask, "curve") or []
            if point.get("without")
        ],
    )


def _sites(all_: Sequence[Json]) -> list[SiteTotal]:
    totals: dict[str, SiteTotal] = {}
    for one in all_:
        for site in one.get("in") or ():
            totals.setdefault(site, SiteTotal(site)).asked += 1
        for out in one.get("out") or ():
            total = totals.setdefault(out["site"], SiteTotal(out["site"]))
            total.asked += 1
            total.out += 1
            total.examples += out.get("examples") or 0
            total.why[out["why"] + (", handed on" if out.get("handed_on_to") else "")] += 1
    return sorted((t for t in totals.values() if t.out), key=lambda t: (-t.out, t.site))


def _class_totals(all_: Sequence[Json]) -> list[ClassTotal]:
    """Return a row for each class that ever lacked anything; a round that lacked none of it counts as 0."""
    rounds: Counter[str] = Counter()
    found: dict[tuple[str, str], list[tuple[int, float | None]]] = {}
    for one in all_:
        rounds.update((one.get("together") or [one["subtask"]]) if one["asked"] else [])
        for subtask, shares in (one.get("classes_missing") or {}).items():
            for label, share in shares.items():
                found.setdefault((subtask, label), []).append((one["round"], share))
    rows = []
    for (subtask, label), said in found.items():
        known = [(share, round_) for round_, share in said if share is not None]
        unknown = len(said) - len(known)
        worst = max(known, key=lambda pair: pair[0], default=(None, None))
        over = rounds[subtask] - unknown
        mean = sum(share for share, _ in known) / over if over else None
        rows.append(ClassTotal(subtask, label, mean, worst[0], worst[1], len(said), unknown))
    return sorted(rows, key=lambda r: (-(r.mean or 0.0), r.subtask, r.label))


def _reasons(statement: Json) -> str:
    found = statement.get("not_asked") or {}
    words = [f"{said['sites']} × {NOT_ASKED.get(why, why)}" for why, said in found.items()]
    return f" ({', '.join(words)})" if words else ""


def _few(words: Sequence[str]) -> str:
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more} more" if more > 0 else "")
