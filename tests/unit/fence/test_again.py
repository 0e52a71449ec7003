"""A fence agent that is killed in the moment of a verb is asked again; a refusal never is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from hyops.errors import AgentLostError, DeadlineError, Effect, NotFencedError, StaleGenerationError, TargetError
from hyops.fence.again import AWAY_S, PAUSES_S, RESERVE_S, AskedAgain, within_step
from hyops.fence.agent import STOP_LIMIT_S
from hyops.fence.driver_fence import REPLAY_LIMIT_S, undo_limit_s
from hyops.fence.verbs import VerbLimits
from hyops.ports.driver import Reconciled
from hyops.testing.clock import FakeClock
from switch_pair import MEMBERS, Pair, run, switch
from unit.adapters.test_frames_fuzz import virtual

SOURCE, TARGET = ("status", "demote", "follow"), ("status", "prepare", "promote")
KILLS = [
    *((True, verb, "onprem-db") for verb in SOURCE),
    *((True, verb, "cloud-db") for verb in TARGET),
    *((False, verb, "onprem-db") for verb in ("status", "fence", "follow")),
    (False, "promote", "cloud-db"),
]
"""Planned, verb, host. Killed after its promotion an agent is closed until its own old lease has run out, as ever."""


def lost(effect: Effect = Effect.UNKNOWN, *, reached: bool = True) -> AgentLostError:
    """What the transport says."""
    error = AgentLostError("the fence agent hung up without an answer", effect=effect)
    error.reached = reached
    return error


@dataclass
class Dropping:
    """A `HostAgent` whose process is killed at one verb, before or after its effect, and is started again."""

    pair: Pair
    host: str
    verb: str
    after_effect: bool
    times: int = 1
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def ask(**words: Any) -> Any:
            self.asked.append(verb)
            if verb != self.verb or self.times == 0:
                return await getattr(self.pair.hosts[self.host].verbs, verb)(**words)
            self.times -= 1
            if self.after_effect:
                await getattr(self.pair.hosts[self.host].verbs, verb)(**words)
            self.pair.restart(self.host)
            raise lost(Effect.UNKNOWN if self.after_effect else Effect.NONE)

        return ask


@pytest.mark.req("FEN-2", "INV-1", "BP-4")
@pytest.mark.fault(13)
@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize(("planned", "verb", "host"), KILLS)
def test_an_agent_that_is_killed_at_a_verb_is_asked_again(
    planned: bool, verb: str, host: str, after_effect: bool
) -> None:
    """Whatever the verb and whichever side: the switch succeeds, one host writes, no row is lost."""
    pair = Pair()
    for number in range(5):
        pair.write("onprem-db", f"row-{number}")
    pair.agents[host] = Dropping(pair, host, verb, after_effect, times=2)

    results = run(switch(pair, pair.spec(planned=planned)))

    assert results["promote"].outputs["generation_after"] == 2
    assert pair.writers() == ["cloud-db"]
    assert pair.lost() == []


class Scripted:
    """A `HostAgent` that answers `status` by a list; an error in it is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def status(self) -> Any:
        """The next answer."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def asked(*answers: Any, for_s: float = 30.0, unreached: bool = False) -> tuple[Any, float]:
    """What came of asking for so long, and after how many seconds."""
    clock = FakeClock()
    began = clock.monotonic()
    again = AskedAgain(Scripted(*answers), clock, began + for_s, lambda _: None, unreached=unreached)  # type: ignore[arg-type]
    try:
        return run(again.status()), clock.monotonic() - began
    except Exception as exc:  # noqa: BLE001  # the translation of this test: what was raised is looked at
        return exc, clock.monotonic() - began


@pytest.mark.req("FEN-2")
@pytest.mark.parametrize("refusal", [StaleGenerationError, NotFencedError, TargetError])
def test_a_refusal_is_never_asked_again(refusal: type[Exception]) -> None:
    """What the agent itself says stands, at once."""
    error, waited_s = asked(refusal("no"), "a second answer")

    assert isinstance(error, refusal)
    assert waited_s == 0.0


@pytest.mark.req("FEN-2", "INV-7")
def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_touched() -> None:
    """The try whose answer was lost may have done something; one that never reached the agent did not."""
    assert asked(lost(), StaleGenerationError("late"))[0].effect is Effect.UNKNOWN
    assert asked(lost(), lost(Effect.NONE))[0].effect is Effect.UNKNOWN
    assert asked(lost(Effect.NONE), StaleGenerationError("late"))[0].effect is Effect.NONE
    assert asked(lost(Effect.NONE))[0].effect is Effect.NONE


@pytest.mark.req("FEN-2")
def test_the_pauses_grow_and_end_with_the_time() -> None:
    """An agent that is back at once costs a twentieth of a second; one that stays away is given up within the limit."""
    found, waited_s = asked(lost(), "back")
    assert (found, waited_s) == ("back", pytest.approx(PAUSES_S[0]))
    error, waited_s = asked(lost(), for_s=10.0)
    assert isinstance(error, AgentLostError)
    assert 10.0 - PAUSES_S[1] <= waited_s < 10.0


@pytest.mark.req("FEN-2")
@pytest.mark.fault(23)
def test_a_host_that_was_never_reached_is_given_up_at_once() -> None:
    """Unless it is worth the whole time, or its answer was lost a moment ago."""
    away = lost(Effect.NONE, reached=False)

    assert asked(away)[1] == 0.0
    assert asked(away, for_s=10.0, unreached=True)[1] > 8.0
    assert asked(lost(), away, "back")[0] == "back"


@pytest.mark.req("FEN-2")
@pytest.mark.fault(23)
def test_a_host_that_goes_down_after_it_was_reached_is_given_up_soon() -> None:
    """It dies in the middle of a hand-over: nobody serves, so the step must not wait out its whole minute."""
    away = lost(Effect.NONE, reached=False)

    error, waited_s = asked(lost(), away, for_s=60.0)

    assert (isinstance(error, AgentLostError), error.effect) == (True, Effect.UNKNOWN)
    assert AWAY_S <= waited_s < AWAY_S + 2 * PAUSES_S[1]


@pytest.mark.req("FEN-2", "VOC-5")
@pytest.mark.fault(13)
def test_an_agent_that_never_comes_back_leaves_the_promotion_unknown() -> None:
    """Asked until the step's time is nearly over, then the probe cannot tell either: unknown, never a guess."""
    pair = Pair()
    results = run(switch(pair, pair.spec(), until="fence"))
    pair.agents["cloud-db"] = Dropping(pair, "cloud-db", "promote", after_effect=True, times=10**6)
    words = {name: pair.inputs()[name] for name in ("source", "target", "members")}
    outputs = {"fence": results["fence"].outputs}
    context = pair.context(pair.spec(), "promote", words, outputs, for_s=45.0)
    began = pair.clock.monotonic()

    with pytest.raises(AgentLostError) as caught:
        run(pair.drivers()["native/postgresql-promote"].apply(context))

    assert caught.value.effect is Effect.UNKNOWN
    assert 45.0 - RESERVE_S - PAUSES_S[1] <= pair.clock.monotonic() - began < 45.0
    pair.agents["cloud-db"] = Dropping(pair, "cloud-db", "status", after_effect=True, times=10**6)
    verdict = run(pair.drivers()["native/postgresql-promote"].probe(context))
    assert verdict == (Reconciled.UNKNOWN, None)


@dataclass
class AwayUntil:
    """A `HostAgent` that dies with its demotion done, and is back at `until`; then it answers again."""

    pair: Pair
    until: float
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def ask(**words: Any) -> Any:
            verbs = self.pair.hosts["onprem-db"].verbs
            if verb == "demote" and verb not in self.asked:
                self.asked.append(verb)
                await getattr(verbs, verb)(**words)
                raise lost()
            self.asked.append(verb)
            if self.pair.clock.monotonic() < self.until:
                raise lost()
            await self.pair.turns()
            return await getattr(verbs, verb)(**words)

        return ask


@pytest.mark.req("BP-4", "FEN-2")
@pytest.mark.fault(13)
@pytest.mark.parametrize(("back_at_s", "serves"), [(1.0, "cloud-db"), (45.0, "onprem-db"), (54.0, "onprem-db")])
def test_a_demotion_is_given_up_while_there_is_time_to_take_it_back(back_at_s: float, serves: str) -> None:
    """A step of 60 s: an agent that is back soon hands over; one that is back late takes its demotion back, asked
    again for that too, and serves under the generation that it had."""
    pair = Pair()
    began = pair.clock.monotonic()
    pair.agents["onprem-db"] = away = AwayUntil(pair, began + back_at_s)
    words = {name: pair.inputs()[name] for name in ("source", "target", "members", "lease", "receipts")}
    context = pair.context(pair.spec(planned=True), "fence", words, for_s=60.0)
    fence = pair.drivers()["native/fence"]

    if serves == "cloud-db":
        assert run(fence.apply(context)).outputs["generation_after"] == 2
        assert "undo_demote" not in away.asked
        return
    with pytest.raises(TargetError, match="onprem-db could not hand over and serves again"):
        run(fence.apply(context))

    assert pair.clock.monotonic() < began + 60.0
    assert away.asked.count("undo_demote") > 1
    assert (pair.writers(), run(pair.store.state("pg")).generation) == (["onprem-db"], 1)


@dataclass
class Hanging:
    """A `HostAgent` whose demotion is done, or not, and is never answered, for as long as anybody waits for it."""

    pair: Pair
    done: bool
    asked: list[str] = field(default_factory=list)
    waited_s: float = 0.0

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def ask(**words: Any) -> Any:
            self.asked.append(verb)
            verbs = self.pair.hosts["onprem-db"].verbs
            if verb != "demote":
                await self.pair.turns()
                return await getattr(verbs, verb)(**words)
            if self.done:
                await verbs.demote(**words)
            began = asyncio.get_running_loop().time()
            try:
                return await asyncio.Event().wait()
            finally:
                self.waited_s = asyncio.get_running_loop().time() - began
                self.pair.clock.advance(self.waited_s)

        return ask


@pytest.mark.req("BP-4", "FEN-2")
@pytest.mark.fault(13)
@pytest.mark.parametrize("done", [True, False])
def test_a_demotion_that_hangs_is_taken_back_within_the_step(done: bool) -> None:
    """A step of 60 s and an agent that takes the verb and never answers: half of the step later it is taken back, and
    the old primary serves under the generation that it had."""
    pair = Pair()
    began = pair.clock.monotonic()
    pair.agents["onprem-db"] = hanging = Hanging(pair, done)
    words = {name: pair.inputs()[name] for name in ("source", "target", "members", "lease", "receipts")}
    context = pair.context(pair.spec(planned=True), "fence", words, for_s=60.0)

    with virtual() as loop, pytest.raises(TargetError, match="could not hand over and serves again") as caught:
        loop.run_until_complete(asyncio.wait_for(pair.drivers()["native/fence"].apply(context), 60.0))

    assert isinstance(caught.value.__cause__, DeadlineError)
    assert caught.value.effect is Effect.NONE
    assert hanging.waited_s == pytest.approx(30.0, abs=0.1)
    assert hanging.asked.count("demote") == hanging.asked.count("undo_demote") == 1
    assert pair.clock.monotonic() < began + 60.0
    assert (pair.writers(), run(pair.store.state("pg")).generation) == (["onprem-db"], 1)


@pytest.mark.req("FEN-2")
def test_a_time_limit_of_the_agents_own_is_not_taken_for_the_steps() -> None:
    """A TimeoutError from below stays what it is: nobody says that the step's time was over."""

    class Below:
        async def demote(self, **_: Any) -> None:
            raise TimeoutError("from below")

    clock = FakeClock()
    again = AskedAgain(Below(), clock, clock.monotonic() + 30.0, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError, match="from below"):
        run(again.demote(generation=1, run_id="run-1"))


@pytest.mark.req("BP-4")
def test_the_time_to_take_back_covers_the_limits_of_what_it_does() -> None:
    """Replay, stop, start, lease; a step that is too short for it keeps half."""
    pair = Pair()
    limits = VerbLimits()
    undo_s = undo_limit_s(pair.lease)
    assert undo_s == REPLAY_LIMIT_S + STOP_LIMIT_S + limits.start_s + limits.lease_s
    assert undo_limit_s(pair.lease.model_copy(update={"ttl_s": 30.0})) == undo_s - limits.lease_s + 60.0
    for step_s, asked_s in ((60.0, 30.0), (200.0, 200.0 - RESERVE_S - undo_s), (8.0, 3.0)):
        began = pair.clock.monotonic()
        context = pair.context(pair.spec(), "fence", {}, for_s=step_s)
        given = within_step(pair.agent(MEMBERS[0]), pair.clock, context, undo_s=undo_s)
        assert given._until - began == pytest.approx(asked_s)


@pytest.mark.req("INV-1", "FEN-2")
@pytest.mark.fault(13)
def test_an_agent_that_comes_up_in_the_middle_of_a_demotion_keeps_the_standbys_way_in() -> None:
    """Killed between the drain and the end: closed to clients, open to the standbys, until the run asks again."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    stop, killed = host.database.stop, []

    async def never_back(**words: Any) -> None:
        killed.append(words)
        raise AgentLostError("killed")

    host.database.stop = never_back  # type: ignore[method-assign]
    with pytest.raises(AgentLostError):
        run(host.verbs.demote(generation=1, run_id="run-1"))
    host.database.stop = stop  # type: ignore[method-assign]
    pair.restart("onprem-db")
    host.agent.install_edge()
    pair.tick(0.5)

    assert (host.edge.state().draining, host.edge.passes(), pair.writers()) == (True, False, [])
    assert run(host.verbs.demote(generation=1, run_id="run-1")).host == "onprem-db"
    assert not host.edge.state().draining
    pair.restart("onprem-db")
    host.agent.install_edge()
    assert not host.edge.state().draining  # where it ended is known: nobody needs anything more


@pytest.mark.req("INV-1", "FEN-2")
def test_standbys_that_were_cut_off_are_waited_for_before_the_database_stops() -> None:
    """The agent came up closed before it was asked to demote: the standby is back first, so it gets every row."""
    pair = Pair()
    host, standby = pair.hosts["onprem-db"], pair.hosts["cloud-db"].database
    facts, looks = host.database.facts, []
    pair.restart("onprem-db")
    host.database.connected = standby.connected = False

    async def back_at_the_third_look() -> Any:
        looks.append(host.edge.state().draining)
        host.database.connected = standby.connected = len(looks) > 2
        return await facts()

    host.database.facts = back_at_the_third_look  # type: ignore[method-assign]
    demotion = run(host.verbs.demote(generation=1, run_id="run-1"))

    assert looks == [True, True, True]
    assert demotion.last_lsn == host.database.position()


@pytest.mark.req("FEN-2")
def test_standbys_that_stay_away_hold_up_a_demotion_only_so_long() -> None:
    """It ends at its limit; whether the standby has everything is the runner's question."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    pair.restart("onprem-db")
    host.database.connected = False
    began = pair.clock.monotonic()

    run(host.verbs.demote(generation=1, run_id="run-1"))

    assert 9.0 < pair.clock.monotonic() - began < 12.0
    assert not host.database.running
