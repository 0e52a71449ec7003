"""The quorum store restored from an old snapshot: nobody older ever begins, and one command lets the newest go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hyops.errors import HyopsError, NotFencedError, PrerequisiteError, StaleGenerationError
from hyops.fence.lease import Acquire, LeaseTimes, Seen, next_action
from hyops.fence.restore import Asked, LeftOut, restore_generation
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.lease import Grant
from hyops.ports.probe import WriteVerdict
from switch_pair import Pair, Unreachable, run, switch

pytestmark = [pytest.mark.req("FEN-2", "GEN-1", "INV-1"), pytest.mark.fault(28)]


def switched(*, cluster: str = "2", pair: Pair | None = None) -> Pair:
    """A snapshot at generation 1 of onprem-db, then a switch to cloud-db (2), then the snapshot is restored."""
    pair = pair or Pair()
    snapshot = pair.store.snapshot()
    run(switch(pair, pair.spec(planned=True)))
    assert pair.write("cloud-db", "after the snapshot") is WriteVerdict.ACCEPTED
    pair.store.silent = True
    pair.tick(4.0)  # it takes longer to restore a store than a lease lasts
    assert pair.writers() == []
    pair.store.silent = False
    pair.store.restore(snapshot, cluster)
    return pair


def old_primary_slept(pair: Pair) -> None:
    """onprem-db was away all the time: its disk says that it is the primary of generation 1."""
    host = pair.hosts["onprem-db"]
    host.memory.save(AgentState(service="pg", host="onprem-db", generation=1, primary="onprem-db"))
    host.database.running, host.database.standby, host.database.upstream = True, False, None
    host.edge.close()
    pair.restart("onprem-db")


def ask(pair: Pair, *, runner: int = 1, dns: int = 2, **agents: Any) -> Asked:
    """Everybody."""

    def says(number: int) -> Callable[[], Awaitable[int]]:
        async def said() -> int:
            if number < 0:
                raise PrerequisiteError("it is away")
            return number

        return said

    verbs = {name: agents.get(name.replace("-", "_"), host.verbs) for name, host in pair.hosts.items()}
    return Asked(verbs, {"cloud-runner": says(runner), "dns:53": says(dns)})


def restored(pair: Pair, without: LeftOut | None = None, primary: str | None = None, **told: Any) -> LeaseState:
    """The operator's command."""
    return run(restore_generation(pair.store, "pg", ask(pair, **told), without or LeftOut(), primary))


@pytest.mark.parametrize("remembered", range(6))
@pytest.mark.parametrize("said", range(6))
@pytest.mark.parametrize("on_loss", ["self-fence", "stay"])
@pytest.mark.parametrize("edge_open", [False, True])
def test_no_lease_is_taken_below_what_is_remembered(remembered: int, said: int, on_loss: Any, edge_open: bool) -> None:
    """For every pair of generations and whatever else stands: it asks for a lease of exactly the one it remembers."""
    state = AgentState(service="pg", host="a", generation=remembered, primary="a")
    lease = LeaseState(service="pg", generation=said, primary="a")
    for role in ("primary", "stopped", "standby", "unknown"):
        for grant in (None, Grant(1, 2000.0)):
            seen = Seen(1000.0, state, role, edge_open, grant, lease, asked=True)  # type: ignore[arg-type]
            action = next_action(seen, LeaseTimes(on_loss=on_loss))
            assert not isinstance(action, Acquire) or remembered == said
            if said < remembered and edge_open:
                assert type(action).__name__ == "Close"


@pytest.mark.parametrize("cluster", ["1", "2"])
def test_the_newest_primary_is_closed_and_says_why(cluster: str) -> None:
    """The record is older than its memory: closed, no lease, and `hyops fence status` names the command."""
    pair = switched(cluster=cluster)
    pair.tick(3.0)

    status = run(pair.hosts["cloud-db"].verbs.status())
    assert pair.writers() == []
    assert (status.edge, status.holds_lease, status.generation) == ("closed", False, 2)
    assert "hyops fence restore-generation" in status.facts["quorum"]
    assert ("older than this host's memory" in status.facts["quorum"]) is (cluster == "1")


def test_an_old_primary_never_begins_on_a_restored_store() -> None:
    """It remembers as little as the snapshot, its database runs, the lease is free: it stays closed."""
    pair = switched()
    old_primary_slept(pair)
    pair.tick(10.0)

    assert pair.writers() == []
    assert run(pair.store.state("pg")).holder is None
    assert "restored from a snapshot" in run(pair.hosts["onprem-db"].verbs.status()).facts["quorum"]


def test_nobody_raises_or_readmits_on_a_restored_store() -> None:
    """A run that comes late and an operator who readmits are refused before anything changes."""
    pair = switched()
    old_primary_slept(pair)
    held = {"hold": "demoted", "hold_generation": 1, "hold_run": "run-1"}
    old = pair.hosts["onprem-db"]
    old.agent.state = old.agent.state.model_copy(update=held)

    with pytest.raises(StaleGenerationError):
        run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-9"))
    with pytest.raises(StaleGenerationError, match="restored from a snapshot"):
        run(old.verbs.readmit(generation=1, run_id="run-1"))
    with pytest.raises(HyopsError):
        run(switch(pair, pair.spec(run_id="run-9")))
    assert run(pair.store.state("pg")).generation == 1
    assert pair.writers() == []


@pytest.mark.parametrize("cluster", ["1", "2"])
def test_after_the_command_the_newest_primary_goes_on_without_a_lost_row(cluster: str) -> None:
    """Past the highest of members, runner and DNS; its database, stopped for its lease, is started again."""
    pair = switched(cluster=cluster)

    now = restored(pair, runner=6)
    pair.tick(3.0)

    assert (now.generation, now.primary, now.foreign, now.last_holder) == (7, "cloud-db", False, "cloud-db")
    assert pair.writers() == ["cloud-db"]
    assert pair.lost() == []
    assert run(pair.hosts["cloud-db"].verbs.status()).facts["quorum"] == "believed"
    again = restored(pair, runner=6)  # repeated: nothing more is raised
    assert (again.generation, again.primary, again.holder) == (7, "cloud-db", "cloud-db")


def test_an_old_primary_that_comes_back_after_the_command_is_stopped() -> None:
    """The snapshot named it the last holder; the command took that word back, so it cannot be readmitted either."""
    pair = switched()
    restored(pair)
    old_primary_slept(pair)
    old = pair.hosts["onprem-db"]
    pair.tick(5.0)
    assert pair.writers() == ["cloud-db"]
    assert old.database.role() == "stopped"

    held = {"hold": "demoted", "hold_generation": 1, "hold_run": "run-1"}
    old.agent.state = old.agent.state.model_copy(update=held)
    with pytest.raises(StaleGenerationError, match="the last lease was cloud-db"):
        run(old.verbs.readmit(generation=1, run_id="run-1"))
    assert pair.writers() == ["cloud-db"]


def test_the_next_switch_begins_where_the_command_ended() -> None:
    """There and back: the raised generation is one like any other."""
    pair = switched()
    restored(pair)
    pair.tick(3.0)
    pair.hosts["onprem-db"].database.stream()

    back = pair.inputs(source="cloud-db", target="onprem-db")
    run(switch(pair, pair.spec(planned=True, generation=3, run_id="run-2"), back))

    assert pair.writers() == ["onprem-db"]
    assert pair.lost() == []


@pytest.mark.parametrize("silent", ["onprem_db", "cloud_db", "runner", "dns"])
def test_whoever_cannot_be_asked_is_left_out_by_name_and_reason_or_nothing_is_done(silent: str) -> None:
    """Refused with the option to use; a name without a reason, and a name that nobody has, are refused as well."""
    pair = switched()
    told: dict[str, Any] = {silent: Unreachable() if silent.endswith("db") else -1}
    name = {"onprem_db": "onprem-db", "cloud_db": "cloud-db", "runner": "cloud-runner", "dns": "dns:53"}[silent]

    with pytest.raises(PrerequisiteError, match=f"{name} cannot be asked") as caught:
        restored(pair, **told)
    assert f"--without {name} --reason" in caught.value.hint
    with pytest.raises(PrerequisiteError, match="for a reason"):
        restored(pair, LeftOut([name], " "), **told)
    with pytest.raises(PrerequisiteError, match="nobody of that name"):
        restored(pair, LeftOut(["elsewhere"], "gone"), **told)
    assert run(pair.store.state("pg")).generation == 1
    if silent != "cloud_db":
        now = restored(pair, LeftOut([name], "its site burnt"), **told)
        assert (now.primary, now.changed_by) == ("cloud-db", f"restore: without {name}: its site burnt")


def test_an_older_primary_is_not_chosen_because_the_newest_one_is_away() -> None:
    """cloud-db served after onprem-db and cannot be asked: refused; said by name, it is the operator's word."""
    pair = switched()
    old = pair.hosts["onprem-db"]
    old_primary_slept(pair)
    old.agent.state = old.agent.state.model_copy(update={"generation": 2, "primary": "cloud-db"})
    without = LeftOut(["cloud-db"], "its disks are gone")

    with pytest.raises(PrerequisiteError, match="remembers to be the primary"):
        restored(pair, without)
    assert restored(pair, without, "onprem-db").primary == "onprem-db"


@pytest.mark.parametrize("primary", ["onprem-db", "elsewhere"])
def test_nobody_older_or_unasked_is_named(primary: str) -> None:
    """--primary is no way past a newer primary that was asked."""
    pair = switched()
    old_primary_slept(pair)

    with pytest.raises((StaleGenerationError, PrerequisiteError), match=r"after onprem-db|was not asked"):
        restored(pair, primary=primary)
    assert run(pair.store.state("pg")).generation == 1


def test_a_standby_is_not_made_primary_by_a_record() -> None:
    """A database in recovery has to be promoted, with a receipt."""
    with pytest.raises(PrerequisiteError, match="is a standby"):
        restored(switched(), primary="onprem-db")


def test_nothing_is_raised_while_another_host_is_open_or_holds_a_lease() -> None:
    """The same cluster id, and the old primary woke first: it serves, so the newest one must not begin."""
    pair = switched(cluster="1")
    old_primary_slept(pair)
    pair.tick(3.0)
    assert pair.writers() == ["onprem-db"]  # what a restore without a token of its own risks: one place, the wrong one

    with pytest.raises(NotFencedError, match="onprem-db is not closed"):
        restored(pair)
    wait, pair.store.wait_no_holder = pair.store.wait_no_holder, renewed(pair)  # type: ignore[method-assign]
    with pytest.raises(NotFencedError, match="holds the lease"):
        restored(pair, LeftOut(["onprem-db"], "away"), onprem_db=Unreachable())
    assert pair.writers() == ["onprem-db"]

    pair.store.wait_no_holder = wait  # type: ignore[method-assign]
    pair.frozen.add("onprem-db")  # one that is in the snapshot only is waited for, and ends
    assert restored(pair, LeftOut(["onprem-db"], "away"), onprem_db=Unreachable()).primary == "cloud-db"
    assert pair.writers() == []


def renewed(pair: Pair) -> Callable[..., Awaitable[bool]]:
    """Waiting for a holder whose agent is alive."""

    async def wait(*_: Any) -> bool:
        await pair.tick_async(5.0)
        return False

    return wait


def test_a_lease_that_is_taken_while_everybody_is_asked_ends_the_attempt() -> None:
    """Between the answers and the compare-and-set somebody acquires: nothing is raised."""
    pair = switched(cluster="1")
    old_primary_slept(pair)
    before = run(pair.store.state("pg"))
    pair.tick(3.0)

    with pytest.raises(StaleGenerationError):
        run(pair.store.restore_generation("pg", before=before, generation=3, primary="cloud-db", by="restore: all"))
    assert pair.writers() == ["onprem-db"]


def test_a_store_that_is_not_behind_is_left_alone() -> None:
    """Run by mistake on a healthy service: refused, nothing raised."""
    pair = Pair()

    with pytest.raises(StaleGenerationError, match="not behind"):
        restored(pair, dns=1)
    assert run(pair.store.state("pg")).generation == 1


def test_a_silent_quorum_is_said() -> None:
    """Two of three members have to be up first."""
    pair = switched()
    pair.store.silent = True
    with pytest.raises(PrerequisiteError, match="no quorum"):
        restored(pair)


def test_with_stay_nobody_can_begin_beside_the_one_that_stays_open() -> None:
    """Restored with a token of its own: the open one goes on as under a silent quorum, and the old one cannot begin."""
    stay = Pair().lease.model_copy(update={"on_loss": "stay"})
    times = LeaseTimes(ttl_s=2.0, renew_s=0.25, stop_after_s=1.0, on_loss="stay")
    pair = Pair(lease=stay, times=times)
    snapshot = pair.store.snapshot()
    run(switch(pair, pair.spec(planned=True)))
    pair.store.restore(snapshot, "2")
    old_primary_slept(pair)

    for _ in range(50):
        pair.tick(0.1)
        assert pair.writers() == ["cloud-db"]
    restored(pair)
    pair.tick(3.0)
    assert pair.writers() == ["cloud-db"]


def test_a_member_that_answers_for_another_is_no_answer() -> None:
    """A way that leads to one host for two members would ask the old primary twice; the generation stays."""
    pair = switched()
    old_primary_slept(pair)
    before = run(pair.store.state("pg"))

    with pytest.raises(PrerequisiteError, match="cloud-db cannot be asked: onprem-db answered in its place"):
        restored(pair, cloud_db=pair.hosts["onprem-db"].verbs)

    assert run(pair.store.state("pg")).generation == before.generation
