"""The longest names that people may give, through the whole loop: no record's id or slot is made too long by them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hyops.errors import RecordError
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import DecisionType, Outcome
from hyops.services.evidence_once import MadeOnce
from hyops.testing.records import MemoryRecordStore
from loopback import Etcd, missing
from simulation.etcd_world import EtcdWorld
from simulation.test_loop import failed_over
from simulation.world import LONG, Hook, World, policy, routes

ENV, SERVICE = "e" * 64, "s" * 64
HOSTS, SITES = ("o" * 64, "c" * 64), ("p" * 64, "q" * 64)
CONTROL = ".".join(["ip-10-0-3-10", *["x" * 60] * 4])[:253]  # a full name, as clouds give it
pytestmark = pytest.mark.req("LOOP-1", "LOOP-3", "EVD-1")


def long_policy() -> ServicePolicy:
    """Whatever people name has the length that its type allows."""
    known = policy()
    members = [
        member.model_copy(update={"host": host, "site": site, "runner_ref": ref})
        for member, host, site, ref in zip(known.members, HOSTS, SITES, LONG, strict=True)
    ]
    signals = [
        signal.model_copy(update={"name": f"{signal.name}-".ljust(64, "n")}) if signal.about == "primary" else signal
        for signal in known.signals
    ]
    change = {"service": SERVICE, "env": ENV, "members": members, "preferred": HOSTS[0], "signals": signals}
    return ServicePolicy.of(known.model_copy(update=change).body())


def long_routes() -> dict[str, object]:
    """To the long-named runners."""
    lane = {"target_ref": "dr/postgresql-warm-promote@v1", "target_env": ENV, "execution_plane": "runner-local"}
    return {
        "env": ENV,
        "dispatcher_routes": {
            "failover": {**lane, "runner_ref": LONG[1]},
            "failback": {**lane, "runner_ref": LONG[0]},
        },
    }


def goes_through(world: World, made: object) -> None:
    """A failover, its evidence on record, and the way back."""
    hook = Hook()
    world.hook = MadeOnce(hook, made, CONTROL)  # type: ignore[arg-type,assignment]
    world.boot(0)

    failed_over(world)

    assert [outcome.outcome for outcome in world.outcomes()] == [Outcome.SUCCEEDED]
    assert world.stages[0]["decision"].mode.primary == HOSTS[1]
    assert hook.given == [world.outcomes()[0].outcome_id]
    (name,) = made.ids()  # type: ignore[attr-defined]
    assert CONTROL.encode() in made.read(name)  # type: ignore[attr-defined]
    world.site_lives()
    world.watch(60)
    world.settle()
    assert len(world.decisions(DecisionType.FAILBACK)) == 1
    world.say_yes()
    world.settle()
    assert [outcome.outcome for outcome in world.outcomes()] == [Outcome.SUCCEEDED] * 2
    assert world.stages[0]["decision"].mode.primary == HOSTS[0]
    assert len(made.ids()) == 2  # type: ignore[attr-defined]
    assert [world.refusals(stage) for stage in ("dispatch", "execution")] == [[], []]


def test_the_longest_names_go_through_the_loop() -> None:
    """On a store that refuses what every store refuses."""
    store = MemoryRecordStore()
    with pytest.raises(RecordError):
        store.create("r" * 65, b"{}\n")
    goes_through(World(service_policy=long_policy(), service_routes=routes(**long_routes())), store)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One member."""
    with Etcd(tmp_path, count=1) as cluster:
        yield cluster


@pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
def test_the_longest_names_go_through_the_loop_on_etcd(etcd: Etcd) -> None:
    """Where several hosts share the records."""
    long = {"service_policy": long_policy(), "service_routes": routes(**long_routes())}
    with closing(EtcdWorld(etcd.endpoints, "long", **long)) as world:
        goes_through(world, world.people("execution", "evidence"))


def test_evidence_that_an_older_release_recorded_is_found() -> None:
    """Its name had the host in it; the slot is the same, so nobody makes it once more. Two hosts write two names."""
    (ended,), made, hook = failed_over(World()).outcomes(), MemoryRecordStore(), Hook()
    closed = ended.model_copy(update={"outcome_id": "outcome-20260131T120000Z-reconciled-00000001"})
    made.create("outcome-old-control-1", b'{"host":"control-1"}\n', slot=f"evidence-{closed.outcome_id}")
    once = MadeOnce(hook, made, CONTROL)
    assert once.done(closed)
    asyncio.run(once.closed(None, closed, None))  # type: ignore[arg-type]
    assert (hook.given, made.ids()) == ([], ["outcome-old-control-1"])

    names = set()
    for host in ("h", "h" * 64, CONTROL, "h\udcff/ ö"):
        store = MemoryRecordStore()
        asyncio.run(MadeOnce(Hook(), store, host).closed(None, closed, None))  # type: ignore[arg-type]
        names |= {*store.ids()}
    assert len(names) == 4
