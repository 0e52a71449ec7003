"""The crash matrix of the loop on a real etcd: each stage killed after each effect, as on files (`test_loop`)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from fault_size import FULL, SEED
from hyops.model.vocabulary import DecisionType, Outcome
from loopback import Etcd, missing
from simulation.etcd_world import EtcdWorld
from simulation.test_loop import effects_of_a_failover, failed_over

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
EVERY = range(1, effects_of_a_failover() + 1)
FEW = sorted(random.Random(SEED).sample(EVERY, 2))


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Three members for all loops, or one where only a few are tried."""
    with Etcd(tmp_path_factory.mktemp("etcd"), count=3 if FULL else 1) as cluster:
        yield cluster


def ended_once(world: EtcdWorld) -> None:
    """One decision, request, execution, run and outcome; nothing lost."""
    assert len(world.decisions(DecisionType.FAILOVER)) == 1
    assert [len(world.disk[kind].records) for kind in ("requests", "executions", "attempts")] == [1, 1, 1]
    assert len(world.runs()) == 1
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert world.hook.given == [world.outcomes()[0].outcome_id]


@pytest.mark.fault(9, 13)
@pytest.mark.req("LOOP-1", "LOOP-3", "INV-7")
@pytest.mark.parametrize("crash_after", EVERY if FULL else FEW)
def test_a_crash_after_any_effect_changes_nothing_on_etcd(etcd: Etcd, crash_after: int) -> None:
    """Killed after each durable effect of any stage, with what it holds, and begun anew: one execution, one outcome."""
    with closing(EtcdWorld(etcd.endpoints, f"crash-{os.getpid()}-{crash_after}", seed=crash_after)) as world:
        world.meter.crash_after = crash_after

        failed_over(world)

        assert world.crashes == 1
        assert world.meter.log.count("epoch") >= 1
        ended_once(world)


@pytest.mark.fault(12, 13)
@pytest.mark.req("LOOP-1", "LOOP-3", "EXE-3")
@pytest.mark.parametrize("crash_after", EVERY if FULL else FEW[:1])
def test_two_instances_and_a_crash_make_one_run_on_etcd(etcd: Etcd, crash_after: int) -> None:
    """The same with a second instance of every stage, in an order that the seed decides."""
    name = f"two-{os.getpid()}-{crash_after}"
    with closing(EtcdWorld(etcd.endpoints, name, seed=crash_after, instances=2)) as world:
        world.meter.crash_after = crash_after

        failed_over(world)

        assert world.crashes == 1
        ended_once(world)
