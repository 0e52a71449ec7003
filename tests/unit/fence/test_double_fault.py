"""The second fault: the edge cannot be closed, read or installed. Then the database is the edge, or the host tells."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hyops.errors import DeadlineError, HyopsError, NotFencedError, PrerequisiteError, TargetError
from hyops.fence import lease as rules
from hyops.fence.agent import RETRY_MAX_S
from hyops.fence.lease import LeaseTimes, Seen
from hyops.fence.state import AgentState
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.edge import EdgeState
from hyops.ports.lease import Grant, QuorumLostError
from hyops.ports.probe import WriteVerdict
from switch_pair import Host, Pair, run, switch
from waiting import PATIENCE_S

EDGE_CALLS = ("install", "arm", "grant", "drain", "read", "close", "state")
FAULTS: tuple[Callable[[], Exception], ...] = (
    lambda: TargetError("nftables refused: Operation not permitted"),
    lambda: PrerequisiteError("libnftables.so.1 is not there"),
    lambda: OSError(8, "Exec format error"),
    lambda: RuntimeError("a bug in the edge"),
)


def broken(fault: Callable[[], Exception]) -> Callable[..., Any]:
    """A call that raises a new fault each time."""

    def call(*_: Any, **__: Any) -> Any:
        raise fault()

    return call


def break_edge(host: Host, calls: tuple[str, ...] = EDGE_CALLS, fault: Callable[[], Exception] = FAULTS[0]) -> None:
    """Make these calls of its edge fail from now on."""
    for name in calls:
        setattr(host.edge, name, broken(fault))


def flush(host: Host) -> None:
    """`nft flush ruleset`: everything passes."""
    host.edge.close()
    host.edge.installed = False


def turns(pair: Pair, seconds: float) -> None:
    """Time passes, and the old primary's agent takes the turns of its service loop."""
    for _ in range(round(seconds / 0.1)):
        pair.clock.advance(0.1)
        run(pair.hosts["onprem-db"].agent._safe_turn())


@pytest.mark.req("FEN-2", "INV-1")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("calls", [("install",), ("state",), ("install", "close"), EDGE_CALLS])
def test_without_a_lease_and_without_an_edge_the_database_is_stopped(
    calls: tuple[str, ...], fault: Callable[[], Exception]
) -> None:
    """Rules flushed, the edge broken, the quorum silent: open until the lease ends, then stopped, and it says so."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old, calls, fault)
    pair.store.silent = True
    turns(pair, 0.3)
    assert pair.writers() == ["onprem-db"]  # the fault is real: nothing but the database keeps anybody out

    turns(pair, pair.times.ttl_s)

    assert old.database.role() == "stopped"
    assert pair.writers() == []
    assert any("it has no right to serve" in line for line in pair.logs)
    assert old.memory.state is not None
    assert old.memory.state.stopped_for_lease is True
    status = run(old.verbs.status())
    assert status.facts["fencing"] == "by stopping"
    assert status.edge != "closed"


@pytest.mark.req("FEN-2")
@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_valid_lease_it_goes_on_serving_and_says_degraded(fault: Callable[[], Exception]) -> None:
    """The quorum answers: the lease is renewed for ten times its length, and the status names the fault."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old, fault=fault)

    turns(pair, 10 * pair.times.ttl_s)

    assert pair.write("onprem-db", "row") is WriteVerdict.ACCEPTED
    status = run(old.verbs.status())
    assert (status.edge, status.holds_lease, status.facts["fencing"]) == ("unknown", True, "degraded")
    assert "degraded" in status.facts["why"]
    assert status.facts["edge_fault"]
    assert len([line for line in pair.logs if line.startswith("the edge fails")]) <= 2  # once a fault, not once a turn


@pytest.mark.req("FEN-2", "INV-1")
def test_a_degraded_host_is_stopped_by_a_newer_generation() -> None:
    """Somebody else is promoted while the edge is broken: the database goes, before the new one is open."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old)
    turns(pair, 1.0)
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    turns(pair, 0.5)
    assert old.database.role() == "stopped"
    assert (old.agent.state.primary, old.agent.state.stopped_for_lease) == ("cloud-db", False)


@pytest.mark.req("FEN-2")
def test_after_the_edge_is_mended_the_host_serves_again_by_its_lease() -> None:
    """Stopped for want of an edge and a lease: both come back, the database is started and the edge opened."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    healthy = {name: getattr(old.edge, name) for name in EDGE_CALLS}
    flush(old)
    break_edge(old)
    pair.store.silent = True
    turns(pair, 3.0)
    assert old.database.role() == "stopped"
    pair.store.silent = False
    turns(pair, 3.0)
    assert old.database.role() == "stopped"  # a lease could be had; without an edge it is not even asked for
    assert run(pair.store.state("pg")).holder is None
    for name, call in healthy.items():
        setattr(old.edge, name, call)

    turns(pair, 3.0)

    assert pair.writers() == ["onprem-db"]
    assert run(old.verbs.status()).facts["fencing"] == "enforced"


@pytest.mark.req("FEN-2", "INV-1")
@pytest.mark.parametrize("call", EDGE_CALLS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("flushed", [True, False])
def test_whatever_call_of_the_edge_fails_nobody_writes_without_a_lease(
    call: str, fault: Callable[[], Exception], flushed: bool
) -> None:
    """Each call alone, with the rules there and without: after the lease no write is acknowledged."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    if flushed:
        flush(old)
    break_edge(old, (call,), fault)
    pair.store.silent = True
    turns(pair, pair.times.ttl_s + pair.times.stop_after_s + 0.5)
    assert pair.writers() == []
    assert pair.write("onprem-db", "too late") is not WriteVerdict.ACCEPTED


@dataclass
class Resisting:
    """A database that survives the first `stops` stops and the first `kills` kills."""

    host: Host
    stops: int
    kills: int
    raises: bool = True
    calls: int = 0

    def __post_init__(self) -> None:
        self._stop, self._kill = self.host.database.stop, self.host.database.kill
        self.host.database.stop = self.stop  # type: ignore[method-assign]
        self.host.database.kill = self.kill  # type: ignore[method-assign]

    async def stop(self, *, mode: Any, limit_s: float) -> None:
        """Hang, or lie, so often."""
        self.calls += 1
        self.stops -= 1
        if self.stops < 0:
            await self._stop(mode=mode, limit_s=limit_s)
        elif self.raises:
            raise DeadlineError("PostgreSQL has not stopped within 2 s")

    async def kill(self, *, limit_s: float) -> None:
        """The same with the last rung."""
        self.kills -= 1
        if self.kills < 0:
            await self._kill(limit_s=limit_s)
        elif self.raises:
            raise DeadlineError("processes in uninterruptible sleep")


@pytest.mark.req("FEN-2", "INV-1")
@pytest.mark.parametrize("raises", [True, False])
def test_a_stop_that_fails_becomes_a_kill(raises: bool) -> None:
    """The server hangs, or says it stopped and did not: every process of it is killed in the same turn."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    Resisting(old, stops=1, kills=0, raises=raises)
    flush(old)
    break_edge(old)
    pair.store.silent = True
    turns(pair, pair.times.ttl_s + 0.1)
    assert old.database.role() == "stopped"


@pytest.mark.req("FEN-2", "FEN-1", "INV-2")
@pytest.mark.parametrize("raises", [True, False])
def test_a_host_that_cannot_be_fenced_says_so_and_goes_on_trying(raises: bool) -> None:
    """Nothing works: `unfenced` in status and log, no receipt of an observation, further tries with growing pauses."""
    pair = Pair(receipts=[ReceiptClass.OBSERVED])
    old = pair.hosts["onprem-db"]
    resisting = Resisting(old, stops=10_000, kills=10_000, raises=raises)
    flush(old)
    break_edge(old)
    pair.store.silent = True
    turns(pair, pair.times.ttl_s)
    pauses = [run(old.agent._safe_turn()) for _ in range(8)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == RETRY_MAX_S
    status = run(old.verbs.status())
    assert (status.edge, status.facts["fencing"]) == ("unknown", "unfenced")
    assert any("unfenced" in line for line in pair.logs)
    pair.store.silent = False
    pair.frozen.add("onprem-db")
    with pytest.raises(NotFencedError):
        run(switch(pair, pair.spec(), until="fence"))
    assert run(pair.store.state("pg")).generation == 1

    pair.store.silent = True
    resisting.stops = resisting.kills = 0
    run(old.agent._safe_turn())
    assert old.database.role() == "stopped"


@pytest.mark.req("FEN-1", "INV-2")
@pytest.mark.parametrize("calls", [("state",), ("install", "state"), ("close",), EDGE_CALLS])
def test_no_receipt_says_closed_while_the_edge_cannot_be_read(calls: tuple[str, ...]) -> None:
    """The fence verb stops the database all the same; its host is `observed` by nobody, the lease is what proves."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old, calls)
    if "close" in calls:
        with pytest.raises(TargetError, match="the edge was not closed"):
            run(old.verbs.fence(generation=1, run_id="run-1"))
    else:
        assert run(old.verbs.fence(generation=1, run_id="run-1")).edge == "unknown"
    assert old.database.role() == "stopped"

    results = run(switch(pair, pair.spec(), until="fence"))

    assert results["fence"].outputs["receipt_class"] == "lease-expired"


@pytest.mark.req("FEN-1", "FEN-2")
@pytest.mark.parametrize("verb", ["fence", "demote", "undo_demote", "follow"])
@pytest.mark.parametrize("call", EDGE_CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_verb_leaves_a_writer_behind_that_has_no_lease(verb: str, call: str, fault: Callable[[], Exception]) -> None:
    """Each verb with each broken call, rules flushed: afterwards whoever takes writes does so by a valid lease."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    words: dict[str, Any] = {"generation": 1, "run_id": "run-1"}
    if verb == "undo_demote":
        run(old.verbs.demote(**words))
    if verb == "follow":
        run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
        words |= {"primary": "cloud-db", "generation": 2}
    flush(old)
    break_edge(old, (call,), fault)
    with contextlib.suppress(HyopsError, OSError, RuntimeError):
        run(getattr(old.verbs, verb)(**words))
    run(old.agent._safe_turn())
    held = old.agent.grant is not None and pair.clock.monotonic() < old.agent.grant.deadline
    assert pair.writers() == [] or (held and old.agent.state.hold == "none")
    if verb == "fence":
        assert old.database.role() == "stopped"


@pytest.mark.req("FEN-2", "INV-1")
def test_an_agent_that_starts_without_an_edge_stops_the_database() -> None:
    """After a restart nothing is held: the daemon does not die of its edge, it stops what runs there."""
    import asyncio

    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old)
    pair.store.silent = True
    old.edge.installed = False

    async def daemon() -> None:
        old.agent.grant = None
        stop = asyncio.Event()
        stopped = asyncio.Event()
        plain = old.database.stop

        async def told(*, mode: Any, limit_s: float) -> None:
            await plain(mode=mode, limit_s=limit_s)
            stopped.set()

        old.database.stop = told  # type: ignore[method-assign]
        task = asyncio.create_task(old.agent.run(stop))
        async with asyncio.timeout(PATIENCE_S):
            await stopped.wait()
        stop.set()
        await task

    run(daemon())
    assert old.database.role() == "stopped"


@pytest.mark.req("FEN-2", "INV-1")
def test_an_agent_that_ends_while_degraded_leaves_no_open_database() -> None:
    """Nobody would count its lease down any more: where the edge does not close, the database is stopped."""
    import asyncio

    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old)
    assert pair.writers() == ["onprem-db"]

    async def ends_at_once() -> None:
        stop = asyncio.Event()
        stop.set()
        await old.agent.run(stop)

    run(ends_at_once())
    assert pair.writers() == []


@pytest.mark.req("FEN-2", "INV-5")
def test_a_database_that_cannot_be_looked_at_is_taken_for_a_writer() -> None:
    """Its control file is unreadable: the agent lives, never opens, and without a lease stops it."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    plain = old.database.role
    flush(old)
    break_edge(old)

    def unreadable() -> Any:
        if old.database.running:
            raise TargetError("no readable control file")
        return plain()

    old.database.role = unreadable  # type: ignore[method-assign]
    pair.store.silent = True
    turns(pair, pair.times.ttl_s + 0.2)
    assert old.database.running is False


@pytest.mark.req("FEN-2", "INV-1", "INV-5")
def test_over_every_situation_a_primary_without_a_right_is_stopped_when_the_edge_fails() -> None:
    """All combinations of what is seen: nothing is acquired, started, extended or read; only a right serves on."""
    states = [
        AgentState(service="pg", host="a", generation=3, primary=primary, hold=hold, hold_generation=3)
        for primary in ("a", "b", None)
        for hold in ("none", "fenced", "demoted", "forgotten")
    ]
    grants = (None, Grant(1, 101.0), Grant(1, 99.0))
    losses = ("self-fence", "stay")
    for state, role, grant, on_loss, busy, asked in itertools.product(
        states, ("primary", "standby", "stopped", "unknown"), grants, losses, (True, False), (True, False)
    ):
        times = LeaseTimes(on_loss=on_loss)  # type: ignore[arg-type]
        seen = Seen(100.0, state, role, True, grant, None, asked, busy=busy, edge_fault="EPERM")  # type: ignore[arg-type]
        action = rules.next_action(seen, times)
        assert not isinstance(action, rules.Acquire | rules.Start | rules.Extend | rules.LetRead | rules.Close), seen
        right = state.primary == "a" and not state.holding() and (on_loss == "stay" or grant == Grant(1, 101.0))
        if role == "primary":
            assert isinstance(action, rules.Stop) is not right, seen
        assert rules.may_serve(seen, times) is right


@pytest.mark.req("FEN-2")
def test_an_edge_without_its_rules_is_open_in_every_status() -> None:
    """Flushed and not yet seen by a turn: `open`, because everybody passes."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    assert old.edge.state() == EdgeState(installed=False, open=False, draining=False, reading=False)
    assert run(old.verbs.status()).edge == "open"


@pytest.mark.req("FEN-2", "INV-1")
def test_a_silent_quorum_is_no_hindrance_either() -> None:
    """Every call of the lease store fails with the edge broken and another's generation known: stopped all the same."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    old.agent.restrict(old.agent.state.learnt(2, "cloud-db"))
    flush(old)
    break_edge(old)
    for call in ("state", "acquire", "renew", "release"):

        async def fails(*_: Any, **__: Any) -> Any:
            raise QuorumLostError("silent")

        setattr(pair.store, call, fails)
    turns(pair, 0.2)
    assert old.database.role() == "stopped"


@pytest.mark.req("FEN-2", "INV-1")
def test_a_full_disk_is_no_hindrance_either() -> None:
    """The stop cannot be remembered: it is done."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old)
    old.memory.save = broken(lambda: PrerequisiteError("no space left on device"))  # type: ignore[method-assign]
    pair.store.silent = True
    turns(pair, pair.times.ttl_s + 0.2)
    assert old.database.role() == "stopped"


@pytest.mark.req("FEN-2", "GATE-1", "UX-1")
@pytest.mark.parametrize("calls", [("state",), ("install", "state"), EDGE_CALLS])
def test_a_degraded_host_is_not_asked_to_hand_over(calls: tuple[str, ...]) -> None:
    """A hand-over needs an edge that closes: refused before anything is stopped, by the preflight already."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    flush(old)
    break_edge(old, calls)
    turns(pair, 1.0)
    words = pair.inputs()
    fence = {name: words[name] for name in ("source", "target", "members", "lease", "receipts")}
    faults = run(pair.drivers()["native/fence"].preflight(pair.context(pair.spec(planned=True), "fence", fence)))
    assert "the edge of onprem-db fails" in faults[0]

    with pytest.raises(TargetError, match="cannot hand over"):
        run(switch(pair, pair.spec(planned=True)))

    assert pair.write("onprem-db", "row") is WriteVerdict.ACCEPTED
    assert (old.agent.state.hold, run(pair.store.state("pg")).generation) == ("none", 1)


@pytest.mark.req("FEN-2", "INV-1")
def test_a_held_host_whose_edge_fails_is_not_readmitted() -> None:
    """Nothing is raised for a host that could not be closed again."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    run(old.verbs.demote(generation=1, run_id="run-1"))
    flush(old)
    break_edge(old)
    with pytest.raises(TargetError, match="the edge of onprem-db fails"):
        run(old.verbs.readmit(generation=1, run_id="run-1"))
    assert run(pair.store.state("pg")).generation == 1
