"""Recorded signals through a policy in virtual time: what follows, what a gap does, and that nothing else matters."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from functools import cache
from typing import Any

import pytest

from hyops.adapters.yaml_files import parse_yaml
from hyops.control.replay import Replay, ordered, replay
from hyops.control.replay_page import Named, incidents, page
from hyops.model.policy import ServicePolicy
from hyops.model.signal import Sample
from hyops.model.vocabulary import DecisionType
from policy_files import FOLDER, mended
from recording import Spell, samples_of

LOST = Spell(30, 50, "lost")


@cache
def policy() -> ServicePolicy:
    """The safe one of the docs, with a check of WAL alone."""
    return parse_yaml(mended((FOLDER / "one-voice.yml").read_text()).encode(), ServicePolicy, source="one-voice")


def replayed(*spells: Spell, length_s: float = 60, **changes: Any) -> Replay:
    """A minute with these spells, through the policy with changes."""
    samples = ordered(samples_of(policy(), length_s, spells))
    return replay(policy().model_copy(update=changes), samples)


def told(found: Replay) -> list[tuple[str, float]]:
    """Decision and second of the recording."""
    return [(made.word, round(made.at_s - found.began_s, 2)) for made in found.made]


@pytest.mark.req("DEC-4", "DEC-5")
def test_a_lost_primary_is_decided_when_it_is_confirmed() -> None:
    """Two seconds after the first look that failed, once, however long it lasts."""
    found = replayed(LOST)

    assert told(found) == [("failover", 32.0)]
    assert [(round(b - a, 1), sure) for a, b, sure in found.windows()] == [(20.0, True)]


@pytest.mark.req("DEC-3", "DEC-4", "INV-5")
@pytest.mark.parametrize(
    ("spells", "expected"),
    [
        ([Spell(30, 31.5, "lost")], []),
        ([Spell(30, 31, "lost"), Spell(31, 41, "silent"), Spell(41, 42.5, "lost")], []),
        ([Spell(30, 50, "path")], ["hold"]),
        ([Spell(30, 50, "lost", ["control"])], ["hold"]),
        ([Spell(30, 50, "lost", ["control"]), Spell(30, 50, "silent", ["witness", "cloud-runner"])], ["hold"]),
        ([Spell(30, 50, "silent")], []),
        ([], []),
    ],
)
def test_what_confirms_nothing_moves_nothing(spells: list[Spell], expected: list[str]) -> None:
    """A short loss, one with a gap in it, a broken path, one voice, silence: held at most."""
    assert [word for word, _ in told(replayed(*spells))] == expected


@pytest.mark.req("DEC-3")
def test_a_gap_is_drawn_and_breaks_the_confirm_window() -> None:
    """The stretch before the silence does not count for the one after it, and both silences stand in the picture."""
    whole, broken = replayed(LOST), replayed(Spell(30, 31, "lost"), Spell(31, 35, "silent"), Spell(35, 50, "lost"))

    assert told(broken) == [("failover", 37.0)]
    assert all(gap > 0 for gap in broken.gaps().values())
    assert page([Named("a", broken)]).count('class="lane gap"') > page([Named("a", whole)]).count('class="lane gap"')


@pytest.mark.req("DEC-3")
def test_a_probe_that_was_started_anew_continues_nothing() -> None:
    """Its sequence begins again in mid-loss, so the loss is confirmed anew from there."""
    samples = ordered(samples_of(policy(), 60, [LOST]))
    anew = [s.model_copy(update={"sequence": s.sequence - 62}) if s.sequence >= 62 else s for s in samples]

    assert told(replay(policy(), samples)) == [("failover", 32.0)]
    assert told(replay(policy(), anew)) == [("failover", 33.0)]


@pytest.mark.req("DEC-4")
def test_an_open_decision_is_not_repeated_until_it_has_expired() -> None:
    """Nobody answers: the next one comes when the first is too old and the cooldown is over."""
    found = replayed(Spell(30, 400, "lost"), length_s=400, decision_max_age_s=100.0)

    assert told(found) == [("failover", 32.0), ("failover", 132.0), ("failover", 232.0), ("failover", 332.0)]


@pytest.mark.req("DEC-5")
def test_the_same_recording_gives_the_same_bytes() -> None:
    """In whatever order it is read, and with samples of other services in it."""
    samples = list(samples_of(policy(), 60, [LOST]))
    mixed = [*samples, *(s.model_copy(update={"signal": "of-another"}) for s in samples[:40])]
    random.Random(7).shuffle(mixed)
    known = {signal.name for signal in policy().signals}

    first = page([Named("pg", replay(policy(), ordered(samples)))])
    second = page([Named("pg", replay(policy(), ordered(s for s in mixed if s.signal in known)))])

    assert first == second


@pytest.mark.req("DEC-5", "UX-2")
def test_the_page_is_one_file_that_loads_and_runs_nothing() -> None:
    """No script, no address; each picture is well-formed; what a policy says is escaped."""
    told = replay(policy(), ordered(samples_of(policy(), 60, [LOST])))
    text = page([Named("a<script>b", told), Named("b", replayed())])

    assert "<script" not in text
    assert "a&lt;script&gt;b" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    pictures = [part.partition("</svg>")[0] for part in text.split("<svg ")[1:]]
    assert len(pictures) == 4
    for picture in pictures:
        ET.fromstring(f"<svg {picture}</svg>")  # our own page


@pytest.mark.req("DEC-5")
def test_incidents_that_are_near_each_other_are_one() -> None:
    """A picture for each stretch in which something was lost or decided, cut to the recording."""
    found = replayed(Spell(0, 8, "lost"), Spell(10, 20, "lost"), Spell(50, 58, "lost"))
    pictures = incidents([found])

    assert len(pictures) == 2
    assert pictures[0][0] == found.began_s
    assert pictures[1][1] <= found.ended_s


@pytest.mark.req("DEC-5")
def test_a_calm_time_is_skipped_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating at every sample gives the same decisions."""
    spells = (LOST, Spell(90, 91.5, "lost"), Spell(100, 140, "lost", ["witness"]))
    quick = told(replayed(*spells, length_s=160))
    monkeypatch.setattr("hyops.control.replay.CALM_S", 0.0)

    assert told(replayed(*spells, length_s=160)) == quick
    assert [word for word, _ in quick] == ["failover", "hold"]


def test_the_recording_is_what_it_says() -> None:
    """The samples of the tests: good ones, and bad ones while the primary is lost."""
    found = [s for s in samples_of(policy(), 60, [LOST]) if s.signal == "answers" and s.vantage == "control"]

    assert len(found) == 120
    assert {s.value for s in found if 30 <= s.sequence / 2 < 50} == {0.0}
    assert isinstance(found[0], Sample)
    assert DecisionType.FAILOVER in {made.decision.decision_type for made in replayed(LOST).made}
