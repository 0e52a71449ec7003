"""A switchover that stopped half-way: the old primary gets its place back under a new generation, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.errors import DeadlineError, HyopsError, NotFencedError, PrerequisiteError, StaleGenerationError, TargetError
from hyops.fence.readmit import held_by
from hyops.model.dsse import sign_record
from hyops.model.fence import DemotionReceipt, FenceReceipt, Observation
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.probe import WriteVerdict
from hyops.testing.clock import EPOCH
from switch_pair import Pair, run, switch

HELD: dict[str, Any] = {"generation": 1, "run_id": "run-1"}


def demoted() -> tuple[Pair, DemotionReceipt]:
    """onprem-db has handed over to run-1, which then ended; nobody serves."""
    pair = Pair()
    assert pair.write("onprem-db", "before") is WriteVerdict.ACCEPTED
    demotion = run(pair.hosts["onprem-db"].verbs.demote(**HELD))
    pair.tick(5.0)
    assert pair.writers() == []
    return pair, demotion


def fence_receipt(pair: Pair) -> FenceReceipt:
    """What run-1 may have got meanwhile."""
    seen = Observation(by="x", how="probe", saw="refused", at=EPOCH)
    words: dict[str, Any] = {"service": "pg", "host": "onprem-db", "target": "cloud-db", "run_id": "run-1"}
    words |= {"generation": 1, "next_generation": 2, "receipt_class": ReceiptClass.OBSERVED, "issued_at": EPOCH}
    return sign_record(FenceReceipt(receipt_id="fence-1", observations=[seen], **words), pair.keys)


@pytest.mark.req("INV-1", "GEN-1", "FEN-2")
def test_a_demoted_host_serves_again_under_a_new_generation() -> None:
    """Raised by compare-and-set for this host; lease, edge and database are back, and no row is missing."""
    pair, _ = demoted()
    status = run(pair.hosts["onprem-db"].verbs.readmit(**HELD))

    assert (status.role, status.edge, status.generation, status.holds_lease) == ("primary", "open", 2, True)
    assert status.facts["hold"] == "none"
    now = run(pair.store.state("pg"))
    assert (now.generation, now.primary, now.changed_by) == (2, "onprem-db", "readmit:run-1")
    pair.tick(3.0)
    assert (pair.writers(), pair.lost()) == (["onprem-db"], [])


@pytest.mark.req("INV-1", "INV-2", "INV-3", "GEN-1")
def test_after_it_nothing_that_the_run_holds_promotes_anybody() -> None:
    """The late run raises, fences, and promotes with its old receipts: each is refused, and no row is lost."""
    pair, demotion = demoted()
    old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]
    receipt = fence_receipt(pair)
    run(old.verbs.readmit(**HELD))
    assert pair.write("onprem-db", "after") is WriteVerdict.ACCEPTED

    with pytest.raises(StaleGenerationError):
        run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    with pytest.raises(StaleGenerationError):
        run(old.verbs.fence(**HELD))
    for generation in (2, 3):
        with pytest.raises((StaleGenerationError, NotFencedError)):
            run(new.verbs.promote(receipt=receipt, generation=generation, run_id="run-1", demotion=demotion))
    with pytest.raises(StaleGenerationError):
        run(switch(pair, pair.spec(planned=True)))
    pair.tick(3.0)
    assert (pair.writers(), new.database.role(), pair.lost()) == (["onprem-db"], "standby", [])


@pytest.mark.req("INV-2", "GEN-1")
@pytest.mark.parametrize("lease", ["held", "over"])
def test_it_is_refused_once_the_target_was_given_the_lease(lease: str) -> None:
    """The run got as far as that, so somebody may be promoted: the host stays closed, and is told the ways on."""
    pair, _ = demoted()
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    run(pair.store.acquire("pg", "cloud-db", 2, 2.0))
    pair.tick(0.5 if lease == "held" else 5.0)

    with pytest.raises(StaleGenerationError, match="belongs to cloud-db since run-1") as caught:
        run(pair.hosts["onprem-db"].verbs.readmit(**HELD))

    assert "switch unplanned" in caught.value.hint
    assert "readmit" not in caught.value.hint
    assert pair.writers() == []
    assert run(pair.store.state("pg")).generation == 2
    assert pair.hosts["onprem-db"].database.role() == "stopped"


@pytest.mark.req("INV-2", "GEN-1")
def test_a_store_that_does_not_know_who_held_last_proves_nothing() -> None:
    """As after a restore, or with agents that did not say so yet: the raised generation stays the other host's."""
    pair, _ = demoted()
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    pair.store._get("pg").last = None

    with pytest.raises(StaleGenerationError, match="last lease was nobody's"):
        run(pair.hosts["onprem-db"].verbs.readmit(**HELD))

    assert run(pair.store.state("pg")).generation == 2


def abandoned() -> tuple[Pair, dict[str, Any]]:
    """A planned run has raised the generation for cloud-db, whose disk filled before it could be promoted."""
    pair = Pair()
    assert pair.write("onprem-db", "before") is WriteVerdict.ACCEPTED
    outputs = run(switch(pair, pair.spec(planned=True), until="fence"))["fence"].outputs
    pair.tick(3.0)
    assert pair.writers() == []
    return pair, outputs


@pytest.mark.req("INV-1", "INV-2", "INV-3", "GEN-1")
def test_the_source_comes_back_when_the_target_of_a_raised_generation_was_never_promoted() -> None:
    """From the generation after: it serves, no row is missing, and the late promotion and its run are refused."""
    pair, outputs = abandoned()
    old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]

    status = run(old.verbs.readmit(**HELD))

    assert (status.role, status.edge, status.generation, status.holds_lease) == ("primary", "open", 3, True)
    now = run(pair.store.state("pg"))
    assert (now.generation, now.primary, now.changed_by) == (3, "onprem-db", "readmit:run-1")
    assert run(old.verbs.readmit(**HELD)).generation == 3  # repeated, it raises nothing more
    assert pair.write("onprem-db", "after") is WriteVerdict.ACCEPTED
    receipt, demotion = FenceReceipt.of(outputs["receipt"]), DemotionReceipt.of(outputs["demotion"])
    for generation in (2, 3, 4):
        with pytest.raises((StaleGenerationError, NotFencedError)):
            run(new.verbs.promote(receipt=receipt, generation=generation, run_id="run-1", demotion=demotion))
    for generation in (1, 2):
        with pytest.raises(StaleGenerationError):
            run(old.verbs.fence(generation=generation, run_id="run-1"))
    with pytest.raises(StaleGenerationError, match="generation 3"):
        run(switch(pair, pair.spec(planned=True)))
    pair.tick(3.0)
    assert (pair.writers(), new.database.role(), pair.lost()) == (["onprem-db"], "standby", [])
    run(switch(pair, pair.spec(planned=True, generation=3, run_id="run-2")))
    assert (pair.writers(), pair.lost()) == (["cloud-db"], [])


@pytest.mark.req("INV-1", "INV-2", "GEN-1")
def test_a_promotion_that_takes_its_lease_between_the_look_and_the_raise_wins() -> None:
    """Exactly one of the two compare-and-sets succeeds, in whatever order they come."""
    pair, outputs = abandoned()
    old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]
    raise_generation = pair.store.raise_generation

    async def promoted_meanwhile(*words: Any, **more: Any) -> Any:
        receipt, demotion = FenceReceipt.of(outputs["receipt"]), DemotionReceipt.of(outputs["demotion"])
        await new.verbs.promote(receipt=receipt, generation=2, run_id="run-1", demotion=demotion)
        return await raise_generation(*words, **more)

    pair.store.raise_generation = promoted_meanwhile  # type: ignore[method-assign]
    with pytest.raises(StaleGenerationError):
        run(old.verbs.readmit(**HELD))
    pair.tick(3.0)
    assert (pair.writers(), pair.lost()) == (["cloud-db"], [])
    assert run(pair.store.state("pg")).generation == 2


@pytest.mark.req("INV-1", "GEN-1")
def test_a_readmission_between_the_promotions_look_and_its_lease_wins() -> None:
    """The target's agent has asked the quorum, then the source comes back: its lease is refused, it stays a standby."""
    pair, outputs = abandoned()
    old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]
    wait = pair.store.wait_no_holder
    pending = [True]

    async def readmitted_meanwhile(*words: Any) -> bool:
        if pending:
            pending.clear()
            await old.verbs.readmit(**HELD)
        return await wait(*words)

    pair.store.wait_no_holder = readmitted_meanwhile  # type: ignore[method-assign]
    receipt, demotion = FenceReceipt.of(outputs["receipt"]), DemotionReceipt.of(outputs["demotion"])
    with pytest.raises(DeadlineError, match="cannot get the lease"):
        run(new.verbs.promote(receipt=receipt, generation=2, run_id="run-1", demotion=demotion))
    assert new.database.role() == "standby"
    pair.tick(3.0)
    assert (pair.writers(), pair.lost()) == (["onprem-db"], [])


@pytest.mark.req("BP-4", "FEN-2", "GEN-1")
def test_killed_after_the_second_raise_it_goes_on_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised and not remembered: the same command again raises nothing more, and serves."""
    pair, _ = abandoned()
    host = pair.hosts["onprem-db"]

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host.memory, "save", die)
        with pytest.raises(KeyboardInterrupt):
            run(host.verbs.readmit(**HELD))
    pair.restart("onprem-db")
    pair.tick(1.0)
    assert pair.writers() == []

    run(pair.hosts["onprem-db"].verbs.readmit(**HELD))

    assert (pair.writers(), run(pair.store.state("pg")).generation) == (["onprem-db"], 3)


@pytest.mark.req("GEN-1", "UX-1")
def test_every_hint_names_the_command_that_is_taken() -> None:
    """The host has learnt the raised generation; the hold's own generation is what it is readmitted with."""
    pair, _ = abandoned()
    with pytest.raises(StaleGenerationError):
        run(pair.hosts["onprem-db"].verbs.demote(generation=1, run_id="run-2"))
    state = pair.hosts["onprem-db"].agent.state
    assert (state.generation, state.hold_generation) == (2, 1)
    with pytest.raises(StaleGenerationError) as caught:
        run(pair.hosts["onprem-db"].verbs.readmit(generation=2, run_id="run-1"))
    assert "hyops fence readmit --run run-1 --generation 1" in caught.value.hint


@pytest.mark.req("INV-2", "FEN-2")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"run_id": "run-2"}, NotFencedError),
        ({"generation": 2}, StaleGenerationError),
        ({"generation": 0}, StaleGenerationError),
    ],
)
def test_only_the_named_hold_is_taken_back(changes: dict[str, Any], error: type[HyopsError]) -> None:
    """Another run's name, another generation: refused before anything is raised, with the words that would do."""
    pair, _ = demoted()
    with pytest.raises(error) as caught:
        run(pair.hosts["onprem-db"].verbs.readmit(**(HELD | changes)))
    assert "hyops fence readmit --run run-1 --generation 1" in caught.value.hint
    assert run(pair.store.state("pg")).generation == 1
    assert pair.writers() == []


@pytest.mark.req("INV-2", "FEN-2")
def test_a_host_that_nobody_holds_and_a_standby_are_not_readmitted() -> None:
    """There is nothing to take back; and what would start as a standby is no primary, whatever its hold."""
    pair = Pair()
    with pytest.raises(NotFencedError):
        run(pair.hosts["onprem-db"].verbs.readmit(**HELD))
    with pytest.raises(NotFencedError):
        run(pair.hosts["cloud-db"].verbs.readmit(**HELD))
    pair, _ = demoted()
    pair.hosts["onprem-db"].database.standby = True
    with pytest.raises(TargetError, match="would start as standby"):
        run(pair.hosts["onprem-db"].verbs.readmit(**HELD))
    assert run(pair.store.state("pg")).generation == 1


@pytest.mark.req("FEN-2", "INV-5")
def test_without_a_quorum_or_with_a_holder_nothing_changes() -> None:
    """Silence is no right; a lease that somebody holds still has to run out first."""
    pair, _ = demoted()
    verbs = pair.hosts["onprem-db"].verbs
    pair.store.silent = True
    with pytest.raises(DeadlineError):
        run(verbs.readmit(**HELD))
    pair.store.silent = False
    run(pair.store.acquire("pg", "onprem-db", 1, 60.0))
    with pytest.raises(StaleGenerationError, match="holds the lease"):
        run(verbs.readmit(**HELD))
    assert run(pair.store.state("pg")).generation == 1
    assert pair.writers() == []


@pytest.mark.req("BP-4", "FEN-2")
@pytest.mark.parametrize("dies_at", ["raised", "remembered", "stopped", "started", "leased"])
def test_killed_at_any_point_it_goes_on_where_it_stood(dies_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent dies in the middle and comes back; repeated, the verb ends with one raise and a serving host."""
    pair, _ = demoted()
    host = pair.hosts["onprem-db"]

    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    at = {
        "raised": (host.memory, "save"),
        "remembered": (host.database, "stop"),
        "stopped": (host.database, "start"),
        "started": (host.agent, "wake"),
        "leased": (host.agent, "hold_lease"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*at[dies_at], die)
        with pytest.raises(KeyboardInterrupt):
            run(host.verbs.readmit(**HELD))
    pair.restart("onprem-db")

    run(pair.hosts["onprem-db"].verbs.readmit(**HELD))

    assert pair.writers() == ["onprem-db"]
    assert run(pair.store.state("pg")).generation == 2
    assert run(pair.hosts["onprem-db"].verbs.readmit(**HELD)).edge == "open"
    assert run(pair.store.state("pg")).generation == 2


@pytest.mark.req("FEN-2")
def test_killed_after_it_was_remembered_the_agent_goes_on_by_itself() -> None:
    """The place is this host's: its agent takes the lease and starts the database without being asked again."""
    pair, _ = demoted()
    host = pair.hosts["onprem-db"]
    start = host.database.start

    async def fails(*, limit_s: float) -> None:
        raise DeadlineError("the start took too long")

    host.database.start = fails  # type: ignore[method-assign]
    with pytest.raises(DeadlineError):
        run(host.verbs.readmit(**HELD))
    assert pair.writers() == []
    host.database.start = start  # type: ignore[method-assign]
    pair.restart("onprem-db")
    pair.tick(3.0)
    assert pair.writers() == ["onprem-db"]


@pytest.mark.req("INV-1", "FEN-2")
def test_a_fence_during_a_readmission_wins() -> None:
    """A run fences the new generation while the database starts: the host ends closed and stopped."""
    pair, _ = demoted()
    host = pair.hosts["onprem-db"]
    start = host.database.start

    async def fenced_meanwhile(*, limit_s: float) -> None:
        await host.verbs.fence(generation=2, run_id="run-2")
        await start(limit_s=limit_s)

    host.database.start = fenced_meanwhile  # type: ignore[method-assign]
    with pytest.raises(TargetError, match="was fenced"):
        run(host.verbs.readmit(**HELD))
    pair.tick(1.0)
    assert pair.writers() == []
    assert host.database.role() == "stopped"
    assert (host.agent.state.hold, host.agent.state.hold_run) == ("fenced", "run-2")


@pytest.mark.req("INV-2", "GEN-1")
def test_a_host_whose_fence_proved_nothing_is_readmitted_too() -> None:
    """An unplanned run fenced it, could not prove it, and raised nothing: nobody serves, and this is the way on."""
    pair = Pair(receipts=[ReceiptClass.OBSERVED])
    pair.probe.hosts["10.77.1.10"].reachable = False
    with pytest.raises(NotFencedError):
        run(switch(pair, pair.spec()))
    pair.probe.hosts["10.77.1.10"].reachable = True
    pair.tick(3.0)
    assert pair.writers() == []
    run(pair.hosts["onprem-db"].verbs.readmit(**HELD))
    assert pair.writers() == ["onprem-db"]


@pytest.mark.req("GATE-1", "UX-1")
def test_whoever_meets_the_hold_is_told_the_way_on() -> None:
    """The preflight and the refusal of another switchover name the run and the command."""
    pair, _ = demoted()
    words = pair.inputs()
    fence = {name: words[name] for name in ("source", "target", "members", "lease", "receipts")}
    driver, command = pair.drivers()["native/fence"], "hyops fence readmit --run run-1 --generation 1"

    (fault, *_) = run(driver.preflight(pair.context(pair.spec(planned=True, run_id="run-2"), "fence", fence)))
    assert command in fault
    with pytest.raises(TargetError) as caught:
        run(pair.hosts["onprem-db"].verbs.demote(generation=1, run_id="run-2"))
    assert command in caught.value.hint
    assert "hyops run resume run-1" in held_by(pair.hosts["onprem-db"].agent.state)
    assert run(driver.preflight(pair.context(pair.spec(planned=True), "fence", fence))) == []


@pytest.mark.req("INV-5", "GEN-1", "FEN-2")
def test_a_lost_memory_is_readmitted_under_the_generation_that_the_quorum_shows() -> None:
    """Not by a guess: only with the generation that stands now, and it is raised; a repeat raises nothing more."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    host.memory.state = None
    host.edge.close()
    pair.restart("onprem-db")
    pair.tick(3.0)
    assert pair.writers() == []
    with pytest.raises(StaleGenerationError):
        run(host.verbs.readmit(generation=0, run_id="memory-lost"))

    status = run(host.verbs.readmit(generation=1, run_id="memory-lost"))

    assert (status.edge, status.generation) == ("open", 2)
    host.memory.state = None
    pair.restart("onprem-db")
    pair.tick(3.0)
    with pytest.raises(StaleGenerationError):  # the same words, and the memory lost once more
        run(pair.hosts["onprem-db"].verbs.readmit(generation=1, run_id="memory-lost"))
    assert pair.writers() == []


@pytest.mark.req("FEN-2")
def test_a_readmission_that_cannot_be_remembered_opens_nothing() -> None:
    """A full disk: raised, but this host stays closed and its database is not started."""
    pair, _ = demoted()
    host = pair.hosts["onprem-db"]

    def full(_: Any) -> None:
        raise PrerequisiteError("no space left on device")

    host.memory.save = full  # type: ignore[method-assign]
    with pytest.raises(PrerequisiteError):
        run(host.verbs.readmit(**HELD))
    pair.tick(2.0)
    assert pair.writers() == []
    assert host.database.role() == "stopped"


@pytest.mark.req("GEN-1", "DEC-6")
@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
@pytest.mark.parametrize("planned", [True, False])
def test_a_run_that_is_too_late_tells_the_loop_where_the_service_is(run_id: str, planned: bool) -> None:
    """The resumed run, or the next one: refused before any effect, and it names the generation to plan for."""
    pair, _ = demoted()
    run(pair.hosts["onprem-db"].verbs.readmit(**HELD))
    pair.tick(1.0)
    spec = pair.spec(planned=planned, run_id=run_id)
    words = pair.inputs()
    fence = {name: words[name] for name in ("source", "target", "members", "lease", "receipts")}
    assert run(pair.drivers()["native/fence"].preflight(pair.context(spec, "fence", fence))) == []

    with pytest.raises(StaleGenerationError, match="generation 2") as caught:
        run(switch(pair, spec))

    assert caught.value.facts["generation_after"] == 2
    assert "was readmitted" in caught.value.hint
    assert pair.writers() == ["onprem-db"]
    run(switch(pair, pair.spec(planned=True, generation=2, run_id="run-3")))
    assert (pair.writers(), pair.lost()) == (["cloud-db"], [])


@pytest.mark.req("GEN-1", "INV-1")
def test_a_run_that_is_overtaken_while_it_waits_for_the_standby_tells_it_too() -> None:
    """Readmitted between the demotion and the run's own raise: the raise is refused, the old primary serves."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    demote = old.verbs.demote

    async def demote_and_lose_the_race(*, generation: int, run_id: str) -> DemotionReceipt:
        done = await demote(generation=generation, run_id=run_id)
        pair.hosts["cloud-db"].database.stream()
        await old.verbs.readmit(generation=generation, run_id=run_id)
        return done

    old.verbs.demote = demote_and_lose_the_race  # type: ignore[method-assign]
    with pytest.raises(StaleGenerationError) as caught:
        run(switch(pair, pair.spec(planned=True)))
    assert caught.value.facts["generation_after"] == 2
    assert pair.writers() == ["onprem-db"]
