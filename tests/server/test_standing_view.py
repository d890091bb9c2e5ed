"""What is shown of each site: its state in one word, since when, and what to do about it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from server.standing_view import shown, sites_of

NOW = 10_000.0
ON: dict[str, Any] = {"connection": "online", "ever": True, "refused": None}


def found(
    work: dict[str, Any] | None = None, sites: dict[str, Any] | None = None, **status: Any
) -> dict[str, Any]:
    """What a server answers to ``status`` while run r1 is worked on."""
    order = {"run": "r1", "state": "running", "since": NOW - 90, "starts": 1, "why": ""}
    run = {"order": order | status.pop("order", {}), "rounds": 3, "round": 0, "sites": work or {}, **status}
    return {"time": NOW, "sites": sites or dict.fromkeys(work or {}, ON), "runs": {"r1": run}}


def row(answer: dict[str, Any], site: str = "north", run: str | None = "r1") -> dict[str, Any]:
    """The row of one site."""
    return next(row for row in sites_of(answer, run) if row["site"] == site)


def text(answer: dict[str, Any], run: str | None = None) -> str:
    """What a terminal gets, 200 columns wide, with colours."""
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    console.print(shown(answer, run))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def working(since_s: float, **more: Any) -> dict[str, Any]:
    """A site at work."""
    work = {"state": "working", "since": NOW - since_s, "kind": "train.weights", "task": "r1/1/a/north/1"}
    return work | more


def idle(since_s: float) -> dict[str, Any]:
    """A site that has done its part."""
    return {"state": "idle", "since": NOW - since_s}


def test_working() -> None:
    """What a site does for the run, since when, how much of it is done and how long it will take."""
    one = row(found({"north": working(12, share=0.25, eta_s=36)}))
    assert (one["state"], one["since_s"], one["share"], one["eta_s"]) == ("working", 12, 0.25, 36)
    assert one["work"] == "train.weights 1/a/north/1"
    assert one["do"] == ""
    line = next(
        line
        for line in text(found({"north": working(12, share=0.25, eta_s=36)})).splitlines()
        if "north" in line
    )
    assert all(word in line for word in ("working", "12", "25%", "36"))


def test_idle() -> None:
    """A site that waits for its turn has nothing to do."""
    one = row(found({"north": idle(3)}))
    assert (one["state"], one["since_s"], one["work"], one["do"]) == ("idle", 3, "", "")


def test_waiting() -> None:
    """A site that the run has not asked yet, or when no run is worked on."""
    assert row(found(sites={"north": ON}))["state"] == "waiting"
    ended = found({"north": working(5)}, order={"state": "finished"})
    assert (row(ended)["state"], row(ended)["work"]) == ("waiting", "")
    assert row(found({"north": working(5)}), run=None)["state"] == "waiting"


def test_slow() -> None:
    """A site is slow when it works twice as long as the others did, unless it is nearly done or alone."""
    late: dict[str, Any] = {"north": working(100), "south": idle(60), "west": idle(70)}
    assert row(found(late))["state"] == "slow"
    assert "deadline" in row(found(late))["do"]
    assert row(found(late), "south")["state"] == "idle"
    assert row(found(late | {"north": working(100, share=0.95)}))["state"] == "working"
    assert row(found(late | {"south": idle(40), "west": idle(40)}))["state"] == "working"
    assert row(found({"north": working(100)}))["state"] == "working"
    most = {"north": working(100), "south": working(100), "west": idle(90)}
    assert row(found(most))["state"] == "working"


def test_lost_and_never_seen() -> None:
    """A site that is not connected: it was before, and comes back by itself; or was never started."""
    lost = found({"north": working(5)}, {"north": {"connection": "offline", "ever": True, "refused": None}})
    assert row(lost)["state"] == "lost"
    assert "goes on by itself" in row(lost)["do"]
    never = found(sites={"north": {"connection": "offline", "ever": False, "refused": None}})
    assert row(never)["state"] == "never seen"
    assert "consilium site up" in row(never)["do"]


def test_refused() -> None:
    """What the door refused lately, or the run did not believe, is said with the reason."""
    at_door = {
        "north": ON | {"refused": {"at": NOW - 5, "why": "the certificate is not valid now", "count": 3}}
    }
    one = row(found(sites=at_door))
    assert (one["state"], one["since_s"]) == ("refused", None)
    assert "the certificate is not valid now" in one["do"]
    at_door["north"]["refused"]["at"] = NOW - 61
    assert row(found(sites=at_door))["state"] == "waiting"
    forged = {"north": {"state": "refused", "since": NOW - 4, "detail": "signature of 'north' is not valid"}}
    one = row(found(forged))
    assert (one["state"], one["since_s"]) == ("refused", 4)
    assert "signature of 'north'" in one["do"]


def test_quarantined() -> None:
    """A site whose contributions were far off is named so, though it is connected and waits."""
    one = row(found({"north": idle(5), "south": idle(5)}, quarantined=["north"]))
    assert one["state"] == "quarantined"
    assert "rejected" in one["do"]
    assert row(found({"north": idle(5), "south": idle(5)}, quarantined=["north"]), "south")["state"] == "idle"


def test_the_headline() -> None:
    """The run's state, round, stage, time, further starts and why it ended."""
    first = text(found({"north": idle(1)}, stage="subtask a", order={"starts": 2}))
    for words in ("run r1: running", "round 1 of 3", "subtask a", "was started 2 times"):
        assert words in first
    ended = text(found(order={"state": "failed", "why": "no site is left"}))
    assert "failed" in ended
    assert "no site is left" in ended
    assert "round" not in ended
    assert "consilium submit" in text({"time": NOW, "sites": {"north": ON}, "runs": {}})
    later = found() | {"others": [{"run": "r2", "state": "queued"}, {"run": "r0", "state": "finished"}]}
    assert "waiting after it: r2" in text(later)


def test_a_process_that_has_not_told_its_rounds() -> None:
    """In its first second there is no round to speak of, rather than round 0 of 0."""
    answer = found()
    del answer["runs"]["r1"]["rounds"], answer["runs"]["r1"]["round"]
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(shown(answer, "r1"))
    assert "run r1: running, since" in buffer.getvalue()
    assert "round" not in buffer.getvalue()


def test_results_and_rejections() -> None:
    """The latest values, and the last contributions that were not taken."""
    latest = {"a": {"metric": "auroc", "value": 0.9123, "round": 2}}
    rejected = [{"site": "north", "subtask": "a", "code": "shape"}] * 9
    lines = text(found(latest=latest, rejected=rejected))
    assert "AUROC 0.912 (round 2)" in lines
    assert lines.count("rejected: north: a: shape") == 5


def test_what_rounds_lacked() -> None:
    """A line for each subtask of which a round lacked somebody; none for the others."""
    kept = {"closed": 4, "lacking": 2, "round": 3, "text": "2 of 3 sites; without west (silent)"}
    lines = text(found(coverage={"a": kept, "b": {"closed": 4, "lacking": 0}}))
    assert "a: 2 of 4 rounds lacked somebody; last round 3: 2 of 3 sites; without west (silent)" in lines
    assert "b:" not in lines


EVIL = "\x1b]0;owned\x07\x1b[2J[bold]x[/bold]\u202eevil\r\n"


@pytest.mark.parametrize("where", range(9))
def test_no_escape_reaches_the_terminal(where: int) -> None:
    """Whatever a site, a run or a refusal is called, the terminal does not obey it."""
    order = {"why": EVIL if where == 0 else "", "state": "running"}
    work = working(1, kind=EVIL if where == 1 else "k", task=f"r/{EVIL}" if where == 2 else "")
    refused = {"at": NOW, "why": EVIL} if where == 3 else None
    detail = {"state": "refused", "detail": EVIL} if where == 4 else {}
    name = EVIL if where == 5 else "north"
    answer = found(
        {name: work | detail},
        {name: ON | {"refused": refused}},
        order=order,
        stage=EVIL if where == 6 else "s",
        latest={EVIL: {"metric": "auroc", "value": 1, "round": 1}} if where == 7 else {},
        rejected=[{"site": EVIL, "code": EVIL}] if where == 8 else [],
    )
    written = text(answer)
    assert "evil" in written
    harmless = written.replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[1;31m", "")
    assert not set(harmless) & {"\x1b", "\x07", "\r", "\u202e"}
    assert "[bold]" in written  # no markup is read either


def test_a_server_of_another_release() -> None:
    """Missing keys are no reason to fail."""
    assert sites_of({}, None) == []
    assert sites_of({"sites": {"north": {}}, "runs": {"r1": {}}}, "r1")[0]["state"] == "never seen"
    assert "no run yet" in text({})
