"""A site's first process: what dies, is refused or falls silent is started anew, when it should be."""

from __future__ import annotations

import itertools
import signal

import httpx

from clients.up import SiteUp
from tests.clients.agent_cases import kits

__all__ = ["kits", "stage", "up"]


from tests.clients.up_cases import Stage, found, stage, turns, up


def test_a_site_is_a_supernode_and_an_agent(up: SiteUp, stage: Stage) -> None:
    """Both get the secret by their pipe; the agent neither the listening socket nor a key of the line."""
    up._turn()
    up._turn()
    node, agent = stage.children
    assert (node.module, agent.module) == ("clients.node", "clients.agent")
    assert node.fds == [7]
    assert agent.fds == []
    assert set(agent.given) == {"kit", "runtime", "superexec"}
    assert node.given["superexec"] == agent.given["superexec"] == "00"


def test_when_the_agent_dies_both_are_started_again(up: SiteUp, stage: Stage) -> None:
    """The SuperNode would wait without end for the answer to what the agent had taken."""
    up._turn()
    stage.of("agent")[0].heard["ready"] = True
    turns(up, stage, 11)
    stage.of("agent")[0].code = 1
    up._turn()
    assert stage.ends == ["agent", "supernode"]
    assert stage.said == ["the agent cannot work: it ended with 1; it and the SuperNode are started again"]
    assert [child.name for child in stage.children] == ["supernode", "agent"] * 2
    assert not any(child.ended for child in stage.children[2:])


def test_an_agent_that_cannot_start_is_not_started_over_and_over(up: SiteUp, stage: Stage) -> None:
    """Seconds of work each time, for as long as the reason lasts."""
    for _ in range(600):
        up._turn()
        for agent in stage.of("agent"):
            agent.code = 2
        stage.clock.now += 0.1
    assert 5 <= len(stage.of("agent")) <= 7


def test_a_supernode_that_had_worked_is_started_again_at_once(up: SiteUp, stage: Stage) -> None:
    """The agent stays, and with it the worker and its work."""
    up._turn()
    stage.of("supernode")[0].heard["node"] = "7"
    turns(up, stage, 11)
    stage.of("supernode")[0].code = 1
    up._turn()
    assert len(stage.of("supernode")) == 2
    assert stage.of("supernode")[0].ended
    assert stage.said[-1] == "the SuperNode ended with 1; it is started again"
    assert len(stage.of("agent")) == 1
    assert stage.of("agent")[0].code is None


def test_a_supernode_that_dies_as_soon_as_it_works_is_given_time(up: SiteUp, stage: Stage) -> None:
    """It would call the server over and over."""
    for _ in range(600):
        up._turn()
        for node in stage.of("supernode"):
            node.heard["node"], node.code = "7", 1
        stage.clock.now += 0.1
    assert 5 <= len(stage.of("supernode")) <= 7


def _refused(up: SiteUp, stage: Stage, hours: float) -> list[float]:
    """The seconds between the starts of SuperNodes that are refused at once."""
    until = stage.clock.now + 3600 * hours
    while stage.clock.now < until:
        up._turn()
        node = stage.of("supernode")[-1]
        if node.code is None:
            node.heard["refused"], node.code = 403, 1
        stage.clock.now += 0.1
    starts = [node.started_at for node in stage.of("supernode")]
    return [round(later - one) for one, later in itertools.pairwise(starts)]


def test_a_site_that_is_refused_tries_less_and_less_often(up: SiteUp, stage: Stage) -> None:
    """After 1 s, 2 s, up to 65 s, beyond which Flower lets a node in again; the reason is shown once."""
    pauses = _refused(up, stage, 0.2)
    assert pauses[:9] == [1, 2, 4, 8, 16, 32, 64, 65, 65]
    assert set(pauses[8:]) == {65}
    said = [line for line in stage.said if "refuses" in line]
    assert said == ["the server refuses this site (403: its certificate or the roster; ask for a new kit)"]
    node = stage.of("supernode")[-1]
    while node.code is not None:
        turns(up, stage, 1)
        node = stage.of("supernode")[-1]
    node.heard["node"] = "7"
    turns(up, stage, 20)
    node.code = 1
    before = len(stage.of("supernode"))
    up._turn()
    assert len(stage.of("supernode")) == before + 1


def test_a_silent_supernode_is_replaced_if_the_server_answers(up: SiteUp, stage: Stage) -> None:
    """For 90 s no call was answered, though the server is there."""
    stage.answer = found(up)
    up._turn()
    node = stage.of("supernode")[0]
    node.heard |= {"node": "7", "pulse": 1.0}
    turns(up, stage, 89)
    assert (node.code, stage.asked) == (None, 0)
    assert stage.said[-1] == "connected; waiting for work"
    turns(up, stage, 2)
    assert node.code == -signal.SIGKILL
    assert stage.asked == 1
    assert len(stage.of("supernode")) == 2
    assert any("has been silent for 90 s" in line for line in stage.said)


def test_a_supernode_is_left_alone_while_the_server_is_down(up: SiteUp, stage: Stage) -> None:
    """It goes on by itself when the server is back; the server is asked each 90 s, and the reason shown."""
    stage.answer = httpx.ConnectError("Connection refused")
    up._turn()
    turns(up, stage, 280)
    assert stage.asked == 3
    assert len(stage.of("supernode")) == 1
    assert stage.said == ["no answer from the server: Connection refused"]


def test_a_supernode_whose_calls_are_answered_is_never_asked_about(up: SiteUp, stage: Stage) -> None:
    """However long it runs."""
    for _ in range(10):
        turns(up, stage, 60)
        stage.of("supernode")[0].heard_at = stage.clock.now
    assert stage.asked == 0


def test_a_site_that_worked_and_is_then_refused_is_given_time(up: SiteUp, stage: Stage) -> None:
    """As when it was taken out of the roster; and it begins with short pauses again, not with the last."""
    _refused(up, stage, 0.1)
    while (node := stage.of("supernode")[-1]).code is not None:
        turns(up, stage, 1)
    node.heard["node"] = "7"
    turns(up, stage, 20)
    node.code = 1
    up._turn()
    node = stage.of("supernode")[-1]
    node.heard["node"] = "7"
    turns(up, stage, 20)
    node.heard["refused"], node.code = 403, 1
    count = len(stage.of("supernode"))
    turns(up, stage, 0.9)
    assert len(stage.of("supernode")) == count
    turns(up, stage, 0.5)
    assert len(stage.of("supernode")) == count + 1
