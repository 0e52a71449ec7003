"""Each guard of the records is taken out: what is read, what is counted, what evidence believes (INV-4 to INV-7).

Scenarios that stand elsewhere as tests are used as they are: a test that passes without its guard proves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.control import dispatch, hearing
from hyops.engine import safety
from hyops.evidence import derive, gaps, links, verify
from hyops.evidence.assemble import Story, assemble
from hyops.model.approval import ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.services import approval as approval_service
from hyops.services import asking
from hyops.services.inbox import Inbox
from hyops.testing import evidence as seeds
from hyops.testing.clock import EPOCH
from simulation import test_approving
from simulation.world import World, plan_for, routes
from unit.control import test_dispatch
from unit.evidence import test_lies
from unit.services import test_unreadable

Patch = pytest.MonkeyPatch
Scenario = Callable[[Path, Patch], None]


def story() -> Story:
    """A successful failover."""
    switch = seeds.failover()
    return Story(**{f.name: getattr(switch, f.name) for f in fields(switch)})


def writer(folder: Path) -> Callable[[Story], Path]:
    """Writes bundles below a folder, each in one of its own."""

    def write(told: Story) -> Path:
        place = folder / f"bundles-{len(list(folder.iterdir()))}"
        at = seeds.START + timedelta(minutes=1)
        return assemble(told, directory=place, signer=seeds.STAGES["execution"], now=at)

    return write


def forged_request(_: Path, __: Patch) -> None:
    """A request that the dispatcher did not sign, with a real approval."""
    test_approving.test_a_request_that_is_not_signed_by_the_dispatcher_is_refused()


def without_role(_: Path, __: Patch) -> None:
    """Somebody whom nobody gave the role says yes."""
    world = test_approving.requested(World(approval_policy=ApprovalPolicy()))
    world.say_yes("eve")
    with contextlib.suppress(AssertionError):  # of the world itself, which would see the run
        world.settle()
    assert world.runs() == []


def one_of_two(_: Path, __: Patch) -> None:
    """The request alone asks for two; one says yes."""
    world = test_approving.requested(
        World(approval_policy=ApprovalPolicy(required=1), service_routes=routes(approvals_required=2))
    )
    world.say_yes("ada")
    world.settle()
    assert world.runs() == []


def stale_decision(_: Path, __: Patch) -> None:
    """A decision whose time is over, a dry run, one of another environment: no request."""
    for changes in ({"expires_at": "2026-01-31T11:59:59Z"}, {"dry_run": True}, {"env": "prod"}):
        assert isinstance(test_dispatch.routed(test_dispatch.decision(**changes)), dispatch.Ignored)


def tied_routes(_: Path, __: Patch) -> None:
    """A route for another service is not taken for want of a better one."""
    narrow = routes(dispatcher_routes={"failover": {**test_dispatch.LANE, "when": {"service": "mail"}}})
    assert isinstance(test_dispatch.routed(test_dispatch.decision(), narrow), dispatch.Ignored)


def unfenced_plan(_: Path, __: Patch) -> None:
    """A plan that promotes without a fence is refused before anybody is asked."""
    plan = plan_for(routes().of_type(test_dispatch.decision().decision_type)[0], test_dispatch.decision())
    bare = plan.model_copy(
        update={"steps": [plan.steps[0].model_copy(update={"module_ref": "native/postgresql-promote"})]}
    )
    with pytest.raises(safety.UnsafePlanError):
        safety.check(bare, {"native/postgresql-promote"})


def torn_marker(folder: Path, patch: Patch) -> None:
    """An unreadable marker leaves one record."""
    test_unreadable.test_an_unreadable_approval_is_refused_once_and_holds_up_nothing(
        folder, patch, "truncated", "marker"
    )


def torn_approval(folder: Path, patch: Patch) -> None:
    """An unreadable approval leaves one record, over a restart too."""
    test_unreadable.test_an_unreadable_approval_is_refused_once_and_holds_up_nothing(
        folder, patch, "zero-byte", "approval"
    )


def other_decision(_: Path, __: Patch) -> None:
    """Another decision stands under the id of what a person asks for: it is not taken for his."""
    asked = sign_record(
        test_dispatch.decision(requested_by="ada", timestamp_utc=EPOCH.isoformat()), seeds.STAGES["decision"]
    )
    there = sign_record(asked.model_copy(update={"runner_ref": "other"}), seeds.STAGES["decision"])
    world = World()
    world.disk["decisions"].create(asked.decision_id, there.encoded())
    with pytest.raises(asking.RecordError):
        asking._there(world.disk["decisions"], asked, seeds.VERIFIER)


def lies(test: Callable[..., None], *words: Any) -> Scenario:
    """A test of bundles that lie."""
    return lambda folder, _: test(story(), writer(folder), *words)


def planned_lie(case: str, why: str) -> Scenario:
    """One of the inputs of a planned switch."""
    return lambda folder, _: test_lies.test_the_inputs_of_a_planned_switch_are_its_own(writer(folder), case, why)


def loss_left_out(folder: Path, _: Patch) -> None:
    """Who holds the key that writes chains leaves out what the runner counted."""
    test_lies.named(test_lies.rebuilt(writer(folder)(story()), test_lies.without("loss")))


ONE_OF_TWO = (2, [seeds.APPROVER], {"needed": 2}, "1 of 2 approvals")
LOWERED = (2, [seeds.APPROVER, test_lies.BOB], {"needed": 1}, "it took 1 approvals, and the request needs 2")


def none(*_: Any, **__: Any) -> Sequence[Any]:
    """Finds no fault."""
    return []


def nothing(*_: Any, **__: Any) -> None:
    """Refuses nothing."""


def instead(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    """Put something else in a guard's place."""
    return lambda patch: patch.setattr(owner, name, value)


def any_people(said: Any, **_: object) -> list[Any]:
    """Whoever is there carries it."""
    return list(said)


def first_route(decision: Decision, where: Any) -> Any:
    """Takes the first route of the type, whatever it demands."""
    return next(iter(where.of_type(decision.decision_type)), None)


@dataclass(frozen=True)
class Mutant:
    """A guard, how it is taken away, and the scenario that needs it."""

    guard: str
    scenario: Scenario
    remove: Callable[[Patch], None]


MUTANTS = [
    Mutant("the request's signature", forged_request, instead(Inbox, "_verified", lambda *_: True)),
    Mutant("the approver's role", without_role, instead(hearing, "unfit_signer", nothing)),
    Mutant("the request's number", one_of_two, instead(DispatchRequest, "approvals_needed", 1)),
    Mutant("what is ignored", stale_decision, instead(dispatch, "_ignored", nothing)),
    Mutant("conditions of a route", tied_routes, instead(dispatch, "choose", first_route)),
    Mutant("a fence before the promotion", unfenced_plan, instead(safety, "_needs", none)),
    Mutant("a document before a marker", torn_marker, instead(Inbox, "readable", lambda *_: True)),
    Mutant("unreadable files are recorded", torn_approval, instead(Inbox, "torn", none)),
    Mutant("once is once", torn_approval, instead(approval_service, "slot_for", lambda *_: next(NUMBERS))),
    Mutant("the same words", other_decision, instead(asking, "_lasting", lambda _: {})),
    Mutant(
        "evidence counts people",
        lies(test_lies.test_as_many_people_said_yes_as_it_took, *ONE_OF_TWO),
        instead(verify, "carriers", any_people),
    ),
    Mutant(
        "evidence holds the number",
        lies(test_lies.test_as_many_people_said_yes_as_it_took, *LOWERED),
        instead(links, "_approval", none),
    ),
    Mutant(
        "what an approval covers",
        lies(test_lies.test_a_lowered_number_of_approvals_is_named, "signed-anew"),
        instead(links, "covers", nothing),
    ),
    Mutant(
        "stages sign their own",
        lies(test_lies.test_a_lowered_number_of_approvals_is_named, "edited"),
        instead(verify, "_signatures", none),
    ),
    Mutant("the chain follows from the records", loss_left_out, instead(derive, "departure", none)),
    Mutant("inputs are the decision's", planned_lie("milder", "from other inputs"), instead(links, "_inputs", none)),
    Mutant(
        "nothing is left out", planned_lie("dropped", "inputs that it was computed"), instead(gaps, "_complete", none)
    ),
]
NUMBERS = (f"slot-{number}" for number in range(1000))


@pytest.mark.req("INV-2", "INV-4", "INV-5", "INV-6", "INV-7", "APR-1", "APR-3", "EVD-2")
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.guard for mutant in MUTANTS])
def test_a_record_needs_its_guard(mutant: Mutant, tmp_path: Path, monkeypatch: Patch) -> None:
    """With the guard the scenario holds; without it, it breaks."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    mutant.scenario(tmp_path / "with", monkeypatch)
    mutant.remove(monkeypatch)

    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        mutant.scenario(tmp_path / "without", monkeypatch)
