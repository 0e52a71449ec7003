"""Many services in one process: each judged by what came about it, and the trouble of one is nobody else's."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from typing import Any

import pytest

from hyops.errors import PrerequisiteError, RecordError, StoreLostError
from hyops.model.signal import Sample
from hyops.model.vocabulary import DecisionType
from hyops.ports.signals import Lost, Received, Watchlist
from hyops.services import decision_run
from hyops.services.config import DecisionConfig
from hyops.services.decision import DecisionStage
from hyops.services.decision_run import Deciding
from hyops.services.holds import HoldBook
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import STAGES
from hyops.testing.records import MemoryRecordStore
from simulation.world import VANTAGES, VERIFIER, policy
from waiting import PATIENCE_S

PROBED = {"vantages": list(VANTAGES), "interval_s": 0.25, "timeout_s": 0.6, "max_age_s": 1.2}


class Source:
    """Remembers what it was told to look at."""

    vantage = "control"

    def __init__(self) -> None:
        self.told: list[Watchlist] = []

    def rewatch(self, watchlist: Watchlist) -> None:
        """Keep it."""
        self.told.append(watchlist)

    async def observe(self, watchlist: Watchlist) -> Any:
        """Nothing."""
        self.told.append(watchlist)
        yield Lost("control", "over")
        await asyncio.Event().wait()


class World:
    """Three services over shared records."""

    def __init__(
        self, names: tuple[str, ...] = ("a", "b", "c"), kind: type[MemoryRecordStore] = MemoryRecordStore
    ) -> None:
        self.clock, self.source = FakeClock(), Source()
        self.stores = {name: kind() for name in ("decisions", "inputs", "attempts", "outcomes")}
        self.stages: list[DecisionStage] = []
        for name in names:
            self.stages.append(
                DecisionStage(
                    policy(service=name, signals=[{"name": "answers", "source": "tcp", **PROBED}]),
                    initial_generation=1,
                    **self.stores,
                    signer=STAGES["decision"],
                    verifier=VERIFIER,
                    clock=self.clock,
                    beside=self.stages[0] if self.stages else None,
                )
            )
        self.deciding = Deciding(self.stages, [self.source], witnesses={"control": ["tcp://10.0.0.1:1"]})
        self.deciding.look()
        self.sequence = 0

    def say(self, values: dict[str, float], host: str = "onprem-db") -> None:
        """Every vantage point sees this of these services, again and again for two seconds."""
        for _ in range(8):
            self.clock.advance(0.25)
            self.sequence += 1
            for service, vantage in product(values, VANTAGES):
                sample = Sample(
                    vantage=vantage,
                    signal="answers",
                    sequence=self.sequence,
                    taken_at=self.clock.now(),
                    value=values[service],
                    service=service,
                    host=host,
                )
                self.deciding.take(Received(sample, self.clock.monotonic()))

    def step(self, slow: bool = False) -> None:
        """One pass."""
        asyncio.run(self.deciding.step(slow))

    def decided(self) -> list[tuple[str, str]]:
        """Service and type of every decision."""
        found = [json.loads(self.stores["decisions"].read(name)) for name in self.stores["decisions"].ids()]
        return sorted((one["service"], one["decision_type"]) for one in found)


@pytest.mark.req("DEC-2", "DEC-4")
def test_each_service_is_judged_by_its_own_signals() -> None:
    """One is lost, another is well, the third is silent: one failover."""
    world = World()
    world.say({"a": 0.0, "b": 1.0, "nobody": 0.0})

    world.step()

    assert world.decided() == [("a", str(DecisionType.FAILOVER))]


@pytest.mark.req("INV-5")
def test_what_is_seen_of_another_member_is_not_about_the_present_one() -> None:
    """Samples that were under way while the service moved say nothing of where it is now."""
    world = World()
    world.say({"a": 0.0}, host="cloud-db")

    world.step()

    assert world.decided() == []


class Losing(MemoryRecordStore):
    """Records that may be out of reach, or that nobody may write."""

    lost: PrerequisiteError | None = None

    def changed(self, since: int) -> tuple[int, list[str]]:
        """See the port."""
        if isinstance(self.lost, StoreLostError):
            raise self.lost
        return super().changed(since)

    def slot(self, slot: str) -> str | None:
        """See the port."""
        if self.lost is not None:
            raise self.lost
        return super().slot(slot)


@pytest.mark.req("LOOP-3", "LOOP-4")
@pytest.mark.parametrize("lost", [StoreLostError("no quorum"), PrerequisiteError("full")])
def test_what_stops_every_service_is_a_pass_that_failed(
    monkeypatch: pytest.MonkeyPatch, lost: PrerequisiteError
) -> None:
    """So the loop says it, and is not ready; when it is over the services go on, and what they saw still counts."""
    monkeypatch.setattr(decision_run, "ERROR_PAUSE_S", (0.0, 0.0))
    world = World(("a", "b"), Losing)
    store = world.stores["decisions"]
    assert isinstance(store, Losing)
    store.lost = lost
    world.say({"a": 0.0, "b": 0.0})
    with pytest.raises(type(lost), match=r"no quorum|no service can be judged; a: full"):
        world.step(slow=True)
    assert world.decided() == []
    store.lost = None
    world.step(slow=True)
    assert [service for service, _ in world.decided()] == ["a", "b"]


@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("error", [PrerequisiteError("full"), RuntimeError("bug")])
def test_the_error_of_one_service_stops_nobody_else(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told, rests, and is judged again; the others decide meanwhile."""
    world = World()

    async def broken(slow: bool = False) -> None:
        raise error

    monkeypatch.setattr(world.stages[0], "step", broken)
    world.say({"a": 0.0, "b": 0.0})
    world.step()

    assert world.decided() == [("b", "failover")]
    assert "service failed" in capsys.readouterr().err
    monkeypatch.undo()
    world.say({"a": 0.0})
    world.deciding._resting_s.clear()
    world.step()
    assert world.decided() == [("a", "failover"), ("b", "failover")]


@pytest.mark.req("DEC-2")
def test_the_lists_of_all_services_are_one_and_say_whose_each_is() -> None:
    """Names may be the same; witnesses go along; a service alone has the list it always had."""
    three = World().deciding.watchlist("control")
    alone = World(("a",)).deciding.watchlist("control")

    assert [(w.service, w.signal.name, w.host) for w in three.watched] == [(n, "answers", "onprem-db") for n in "abc"]
    assert three.witnesses == ["tcp://10.0.0.1:1"]
    assert [w.service for w in alone.watched] == [None]
    assert "user" not in alone.watched[0].body()


@pytest.mark.req("DEC-6", "LOOP-1")
def test_a_service_that_moved_changes_the_list_and_not_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sources are told once, with the new host of that service; the others' stay, and their windows with them."""
    world = World()
    world.say({"b": 0.0})
    moved = world.stages[0].mode.model_copy(update={"primary": "cloud-db", "generation": 2})

    def look(*, refresh: bool = True) -> bool:
        before, world.stages[0].mode = world.stages[0].mode, moved
        return before != moved

    monkeypatch.setattr(world.stages[0], "look", look)
    world.deciding.look()
    world.deciding.look()

    (told,) = world.source.told
    assert [(w.service, w.host) for w in told.watched] == [("a", "cloud-db"), ("b", "onprem-db"), ("c", "onprem-db")]
    world.step()
    assert world.decided() == [("b", "failover")]


def test_a_source_that_fails_is_lost_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception out of a source is told, counts as a loss, and ends nothing."""
    world = World()

    class Broken(Source):
        async def observe(self, watchlist: Watchlist) -> Any:
            raise RuntimeError("no such port")
            yield

    world.deciding._sources = [Broken(), world.source]

    async def run() -> None:
        task = asyncio.create_task(world.deciding.listen())
        async with asyncio.timeout(PATIENCE_S):
            while not world.source.told:
                await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())

    assert "no such port" in capsys.readouterr().err


def config(*services: str, **words: Any) -> dict[str, Any]:
    """A configuration file."""
    common = {"api_version": "hybridops/v1", "signing_key": "/k", "trusted_keys": "/t", "kind": "DecisionService"}
    protected = [{"policy": policy(service=name).body()} for name in services]
    return {**common, "protected": protected, "vantages": dict.fromkeys(VANTAGES), **words}


@pytest.mark.req("UX-2")
def test_a_single_service_is_read_as_it_always_stood() -> None:
    """Not in a list."""
    body = config("a")
    body["protected"] = body["protected"][0]

    read = DecisionConfig.read(json.dumps(body).encode())

    assert [one.policy.service for one in read.protected] == ["a"]


@pytest.mark.req("UX-2", "LOOP-1")
def test_a_wrong_policy_is_left_out_and_named_and_the_others_are_served() -> None:
    """But only where there are others, and only what is wrong with the policy itself."""
    body = config("a", "b", "c")
    body["protected"][1]["policy"]["surprise"] = 1

    read, faults = DecisionConfig.read_each(json.dumps(body).encode(), source="config.json")

    assert [one.policy.service for one in read.protected] == ["a", "c"]
    assert "surprise" in faults["b"]
    with pytest.raises(RecordError, match="surprise"):
        DecisionConfig.read(json.dumps(body).encode())
    alone = {**body, "protected": [body["protected"][1]]}
    with pytest.raises(RecordError, match="surprise"):
        DecisionConfig.read_each(json.dumps(alone).encode(), source="config.json")


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"witnesses": {"nobody": ["tcp://10.0.0.1:1"]}}, "none of the vantages"),
        ({"witnesses": {"control": []}}, "witnesses"),
        ({"witnesses": {"control": ["gateway"]}}, "witnesses"),
        ({"alertmanager": {"address": "0.0.0.0"}}, "not loopback"),
        ({"alertmanager": {"address": "10.0.0.1", "certificate": "/c", "key": "/k"}}, "token_file or client_ca"),
        ({"alertmanager": {"certificate": "/c"}}, "go together"),
        ({"alertmanager": {"client_ca": "/c"}}, "needs certificate"),
        ({"protected": []}, "protected"),
        ({"protected": config("a", "a")["protected"]}, "stands twice"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(words: dict[str, Any], why: str) -> None:
    """By reading it whole, and by reading what can be served."""
    data = json.dumps({**config("a", "b"), **words}).encode()
    with pytest.raises(RecordError, match=why):
        DecisionConfig.read(data)
    with pytest.raises(RecordError, match=why):
        DecisionConfig.read_each(data, source="config.json")


@pytest.mark.req("UX-1")
def test_alertmanager_signals_need_a_place_where_they_are_heard() -> None:
    """Otherwise they would be unknown for ever."""
    signal = {"name": "al", "source": "alertmanager", "select": {"alertname": "x"}}
    body = config("a")
    body["protected"][0]["policy"]["signals"].append(signal)
    with pytest.raises(RecordError, match="alertmanager"):
        DecisionConfig.read(json.dumps(body).encode())
    DecisionConfig.read(json.dumps({**body, "alertmanager": {}}).encode())


class Unreadable(MemoryRecordStore):
    """Nobody may look into this folder, as long as `why` says so."""

    why: str | None = "Permission denied"

    def changed(self, since: int) -> tuple[int, list[str]]:
        """Refused."""
        if self.why is not None:
            raise PrerequisiteError(self.why)
        return super().changed(since)


def held(world: World, number: int) -> Unreadable:
    """Give a service holds that nobody can read."""
    store, stage = Unreadable(), world.stages[number]
    stage._holds = HoldBook(store, stage.policy, people=None, clock=world.clock, refusals=MemoryRecordStore())
    return store


@pytest.mark.req("DEC-6", "INV-5")
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_service_whose_holds_cannot_be_read_is_not_judged(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may hold it: however long it has rested and whatever is seen, nothing is decided until they can be read.
    The others go on, and read what is new themselves."""
    monkeypatch.setattr(decision_run, "ERROR_PAUSE_S", (0.0, 0.0))
    world = World(names=("a", "b"))
    store = held(world, 0 if first else 1)
    mine, other = ("a", "b") if first else ("b", "a")
    world.step(slow=True)
    for slow in (False, True, False):
        world.say({"a": 0.0, "b": 0.0})
        world.step(slow)
    blind = world.decided()
    store.why = None
    world.step(slow=True)
    world.say({"a": 0.0, "b": 0.0})
    world.step()

    assert blind == [(other, str(DecisionType.FAILOVER))]
    assert (mine, str(DecisionType.FAILOVER)) in world.decided()


@pytest.mark.req("INV-5", "LOOP-1")
def test_what_cannot_be_read_for_all_is_read_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcomes, which all services share: none is judged by what was known before, not only the first."""
    monkeypatch.setattr(decision_run, "ERROR_PAUSE_S", (0.0, 0.0))
    world = World(names=("a", "b"))

    def unread(_since: int) -> tuple[int, list[str]]:
        raise PrerequisiteError("outcomes: Permission denied")

    monkeypatch.setattr(world.stores["outcomes"], "changed", unread)
    with pytest.raises(PrerequisiteError, match="no service can be judged"):
        world.step(slow=True)
    world.say({"a": 0.0, "b": 0.0})
    with pytest.raises(PrerequisiteError, match="no service can be judged"):
        world.step()

    assert world.decided() == []
