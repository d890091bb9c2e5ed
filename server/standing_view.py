"""What ``consilium status`` shows: each site by name, what it is doing, since when, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.orders import LIVE
from server.units import duration, metric_name, number, plain

_STYLES = {"lost": "yellow", "slow": "yellow", "refused": "bold red", "quarantined": "bold red"}
# A site counts as slow when it works twice as long as the longest of the others did for the same.
SLOW = 2.0


def sites_of(found: Mapping[str, Any], run: str | None) -> list[dict[str, Any]]:
    """Return a row for each site: name, state, since (s), what it does, share, eta_s, and what to do.

    Args:
        found: what the server answers to ``status``.
        run: the run whose work is meant; None: no run.
    """
    at = float(found.get("time", 0.0))
    runs = found.get("runs") or {}
    status = runs.get(run, {}) if run else {}
    working, quarantined = status.get("sites") or {}, set(status.get("quarantined") or [])
    rows = []
    for name, site in sorted((found.get("sites") or {}).items()):
        work = working.get(name) or {}
        rows.append(_row(name, site, work, at, is_live=_is_live(status), quarantined=name in quarantined))
    _mark_slow(rows)
    return rows


def _is_live(status: Mapping[str, Any]) -> bool:
    return (status.get("order") or {}).get("state") in {"running", "stopping"}


def _row(
    name: str,
    site: Mapping[str, Any],
    work: Mapping[str, Any],
    at: float,
    *,
    is_live: bool,
    quarantined: bool,
) -> dict[str, Any]:
    refused = site.get("refused") or {}
    row: dict[str, Any] = {
        "site": name,
        "state": "waiting",
        "since_s": None,
        "work": "",
        "share": None,
        "eta_s": None,
        "do": "",
    }
    if is_live and work:
        row |= {
            "state": work.get("state", "idle"),
            "work": _what(work),
            "since_s": _since(at, work.get("since")),
        }
        row |= {"share": work.get("share"), "eta_s": work.get("eta_s")}
        if work.get("state") == "refused":
            row["do"] = plain(str(work.get("detail", "")))[:160]
    if site.get("connection") != "online":
        row["state"] = "lost" if site.get("ever") else "never seen"
        row["do"] = (
            "look at its machine and line; it goes on by itself when it is back"
            if site.get("ever")
            else "start it there: consilium site up KIT"
        )
    if quarantined:
        row |= {"state": "quarantined", "do": "its contributions were far off; see rejected in the report"}
    if refused and at - float(refused.get("at", 0.0)) < 60:
        row |= {"state": "refused", "since_s": None, "do": f"{refused.get('why')}; it may need a new kit"}
    return row


def _since(at: float, since: Any) -> float | None:
    return max(0.0, at - float(since)) if since else None


def _what(work: Mapping[str, Any]) -> str:
    return " ".join(w for w in (str(work.get("kind", "")), str(work.get("task", "")).partition("/")[2]) if w)


def _mark_slow(rows: list[dict[str, Any]]) -> None:
    """Call slow who still works while most have long been done."""
    working = [r for r in rows if r["state"] == "working" and r["since_s"] is not None]
    idle = [r for r in rows if r["state"] == "idle" and r["since_s"] is not None]
    if not idle or len(working) > len(idle):
        return
    for row in working:
        took = row["since_s"] - min(r["since_s"] for r in idle)
        if took > 0 and row["since_s"] > SLOW * max(took, 1.0) and (row["share"] or 0.0) < 0.9:
            row |= {"state": "slow", "do": "the round closes without it at its deadline"}


def shown(found: Mapping[str, Any], run: str | None) -> RenderableType:
    """Return the status for a terminal."""
    runs = found.get("runs") or {}
    name = run or next(iter(runs), None)
    status = runs.get(name) or {}
    parts: list[RenderableType] = [_headline(name, status, float(found.get("time", 0.0)))]
    for subtask, latest in (status.get("latest") or {}).items():
        value = f"{metric_name(latest['metric'])} {number(latest['value'])} (round {latest['round']})"
        parts.append(Text(f"  {plain(subtask)}: {value}"))
    parts += [Text(line) for line in _lacking(status)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("site", "state", "since", "work", "done", "left", "what to do"):
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("since", "done", "left") else "left"
        )
    for row in sites_of(found, name):
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        since = "" if row["since_s"] is None else duration(row["since_s"])
        left = "" if row["eta_s"] is None else duration(row["eta_s"])
        state = Text(row["state"], style=_STYLES.get(row["state"], ""))
        name_, work, do = (Text(plain(row[key])) for key in ("site", "work", "do"))  # a str would be markup
        table.add_row(name_, state, since, work, share, left, do)
    parts += [Text(), table]
    rejected = (status.get("rejected") or [])[-5:]
    parts += [Text("rejected: " + ": ".join(plain(str(v)) for v in r.values())) for r in rejected]
    others = found.get("others") or []
    waiting = [o["run"] for o in others if o["state"] == "queued"]
    parts += [Text(f"waiting after it: {', '.join(map(plain, waiting))}")] if waiting else []
    return Group(*parts)


def _lacking(status: Mapping[str, Any]) -> list[str]:
    """Return a line for each subtask of which a round ever lacked somebody (``coverage_view.note``)."""
    found = (status.get("coverage") or {}).items()
    return [
        f"  {plain(subtask)}: {said['lacking']} of {said['closed']} rounds lacked somebody; "
        f"last round {said['round']}: {plain(str(said['text']))}"
        for subtask, said in found
        if said.get("lacking")
    ]


def _headline(name: str | None, status: Mapping[str, Any], at: float) -> Text:
    if name is None or not status:
        return Text("no run yet: consilium submit FILE", style="bold")
    order = status.get("order") or {}
    words = [f"run {plain(name)}: {order.get('state', 'unknown')}"]
    if order.get("state") == "running":
        if rounds := status.get("rounds"):  # not yet, in the first second of its process
            words.append(f"round {min(status.get('round', 0) + 1, rounds)} of {rounds}")
        words.append(plain(str(status.get("stage", ""))))
    if order.get("since"):
        since = duration(max(0.0, at - float(order["since"])))
        words.append(f"since {since}" if order.get("state") in LIVE else f"{since} ago")
    if order.get("starts", 0) > 1:
        words.append(f"its process was started {order['starts']} times")
    if order.get("why"):
        words.append(plain(str(order["why"])))
    return Text(", ".join(word for word in words if word), style="bold")
