"""Before anybody is demoted the target shows that it could be promoted: its disk takes a word, its edge stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyops.errors import Effect, HyopsError, PrerequisiteError, StaleGenerationError, TargetError
from hyops.ports.hostagent import AgentStatus
from hyops.ports.probe import WriteVerdict
from switch_pair import STEPS, Pair, Unreachable, run, switch

NEXT: dict[str, Any] = {"generation": 2, "run_id": "run-1"}


def full(_: Any) -> None:
    """What a save meets on a full disk."""
    raise PrerequisiteError("No space left on device")


def broken(*_: Any) -> Any:
    """What the kernel says to somebody without the capability."""
    raise TargetError("Operation not permitted")


@pytest.mark.req("FEN-2", "GATE-1")
def test_a_prepared_standby_has_it_on_disk_and_nothing_else_changes() -> None:
    """Repeated it says the same, and is written again; a promotion takes the word back."""
    pair = Pair()
    new = pair.hosts["cloud-db"]
    saves: list[Any] = []
    save = new.memory.save

    def counted(state: Any) -> None:
        saves.append(state)
        save(state)

    new.memory.save = counted  # type: ignore[method-assign]
    for _ in range(2):
        status = run(new.verbs.prepare(**NEXT))
        assert (status.role, status.generation, status.facts["prepared_run"]) == ("standby", 1, "run-1")
    assert [(state.prepared_run, state.prepared_generation) for state in saves] == [("run-1", 2)] * 2
    assert (pair.writers(), run(pair.store.state("pg")).generation) == (["onprem-db"], 1)

    run(switch(pair, pair.spec(planned=True)))
    assert new.agent.state.prepared_run is None


@pytest.mark.req("INV-1", "FEN-2", "GATE-1")
@pytest.mark.parametrize("fault", ["disk", "edge", "no rules", "gone"])
def test_a_target_that_could_not_be_promoted_keeps_the_source_serving(fault: str) -> None:
    """A full disk, a broken edge, an agent that died: refused, nobody was demoted, the generation stands."""
    pair = Pair()
    new = pair.hosts["cloud-db"]
    if fault == "disk":
        new.memory.save = full  # type: ignore[method-assign]
    elif fault == "edge":
        new.edge.state = broken  # type: ignore[method-assign]
    elif fault == "no rules":
        new.edge.installed = False
    else:
        pair.agents["cloud-db"] = Unreachable()

    with pytest.raises(PrerequisiteError, match="onprem-db was not touched") as caught:
        run(switch(pair, pair.spec(planned=True)))

    assert (caught.value.exit_code, caught.value.effect) == (12, Effect.NONE)
    old = pair.hosts["onprem-db"]
    assert (old.agent.state.hold, run(pair.store.state("pg")).generation) == ("none", 1)
    assert pair.write("onprem-db", "still here") is WriteVerdict.ACCEPTED


@pytest.mark.req("BP-4", "FEN-2")
def test_a_resumed_run_whose_target_fails_meanwhile_gives_the_source_its_place_back() -> None:
    """Demoted before the runner died, and the disk filled before it came back: nothing is raised, the source serves."""
    pair = Pair()
    run(pair.hosts["onprem-db"].verbs.demote(generation=1, run_id="run-1"))
    pair.hosts["cloud-db"].memory.save = full  # type: ignore[method-assign]

    with pytest.raises(PrerequisiteError, match="onprem-db serves again"):
        run(switch(pair, pair.spec(planned=True)))

    assert (pair.writers(), run(pair.store.state("pg")).generation) == (["onprem-db"], 1)


@pytest.mark.req("BP-4", "FEN-2")
def test_a_demotion_of_another_run_is_not_taken_back() -> None:
    """The target fails, and the source is held by somebody else: it is left alone."""
    pair = Pair()
    run(pair.hosts["onprem-db"].verbs.demote(generation=1, run_id="run-9"))
    pair.hosts["cloud-db"].memory.save = full  # type: ignore[method-assign]

    with pytest.raises(PrerequisiteError, match="was not touched"):
        run(switch(pair, pair.spec(planned=True)))

    assert pair.hosts["onprem-db"].agent.state.hold_run == "run-9"
    assert pair.writers() == []


@pytest.mark.req("BP-4", "INV-1")
def test_once_the_generation_is_raised_the_run_goes_on_without_asking_again() -> None:
    """Resumed after its own raise there is nothing to take back: it is the promotion that must be tried."""
    pair = Pair()
    run(switch(pair, pair.spec(planned=True), until="fence"))

    run(switch(pair, pair.spec(planned=True)))

    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("GEN-1", "FEN-2")
@pytest.mark.parametrize(
    ("host", "changes", "error"),
    [
        ("cloud-db", {"generation": 1}, StaleGenerationError),
        ("cloud-db", {"generation": 3}, StaleGenerationError),
        ("onprem-db", {}, StaleGenerationError),
    ],
)
def test_only_a_standby_is_prepared_and_only_for_the_next_generation(
    host: str, changes: dict[str, Any], error: type[HyopsError]
) -> None:
    """The present generation, one after the next, the primary itself: refused, and nothing is written."""
    pair = Pair()
    with pytest.raises(error):
        run(pair.hosts[host].verbs.prepare(**(NEXT | changes)))
    assert pair.hosts[host].agent.state.prepared_run is None


@pytest.mark.req("FEN-2")
def test_a_database_that_is_stopped_is_not_prepared() -> None:
    """Nothing there could be promoted."""
    pair = Pair()
    pair.hosts["cloud-db"].database.running = False
    with pytest.raises(TargetError, match="not a standby"):
        run(pair.hosts["cloud-db"].verbs.prepare(**NEXT))


class Older:
    """A fence agent of before: its status names no protocol (or an older one)."""

    def __init__(self, verbs: Any, spoken: Any = None) -> None:
        self._verbs, self._spoken = verbs, spoken

    async def status(self) -> AgentStatus:
        """Without what it does not know."""
        found = await self._verbs.status()
        facts = {k: v for k, v in found.facts.items() if k != "protocol"}
        return replace(found, facts=facts if self._spoken is None else {**facts, "protocol": self._spoken})

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._verbs, verb)


def preflights(pair: Pair, *, planned: bool) -> list[str]:
    """What fence and promotion say before anything is touched."""
    drivers, words, found = pair.drivers(), pair.inputs(), []
    for step, module, names in STEPS[:2]:
        context = pair.context(pair.spec(planned=planned), step, {name: words[name] for name in names})
        found += run(drivers[module].preflight(context))
    return [str(fault) for fault in found]


@pytest.mark.req("RUN-11", "GATE-1", "UX-1")
@pytest.mark.fault(33)
@pytest.mark.parametrize("spoken", [None, 1, "2", True], ids=["none", "first", "text", "bool"])
@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
def test_an_older_agent_gets_no_service_and_the_host_to_upgrade_is_named(planned: bool, spoken: Any) -> None:
    """It could not take the lease of a generation that is raised for it: refused while the old primary serves."""
    pair = Pair()
    assert preflights(pair, planned=planned) == []
    pair.agents["cloud-db"] = Older(pair.hosts["cloud-db"].verbs, spoken)

    faults = preflights(pair, planned=planned)

    assert faults
    assert all("upgrade hyops on cloud-db and restart its fence agent" in fault for fault in faults)
    assert (pair.writers(), run(pair.store.state("pg")).generation) == (["onprem-db"], 1)


@pytest.mark.req("RUN-11", "FEN-1")
@pytest.mark.fault(33)
def test_an_older_primary_is_asked_to_hand_over_by_no_plan_and_fenced_all_the_same() -> None:
    """A planned switch names it; after a failure its version stops nobody, because every agent can be fenced."""
    pair = Pair()
    pair.agents["onprem-db"] = Older(pair.hosts["onprem-db"].verbs)

    (fault,) = preflights(pair, planned=True)
    assert "the fence agent on onprem-db speaks protocol 1, and 2 is needed" in fault
    assert preflights(pair, planned=False) == []
    run(switch(pair, pair.spec()))

    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("RUN-11")
def test_a_newer_agent_is_taken() -> None:
    """It serves what older runners ask for."""
    pair = Pair()
    pair.agents["cloud-db"] = Older(pair.hosts["cloud-db"].verbs, 7)

    assert preflights(pair, planned=True) == []
