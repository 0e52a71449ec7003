"""Orders are sealed whenever what they rest on changes, and reach every runner that could take over; gaps are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.store_files import FileRecordStore
from hyops.control.approval import judge
from hyops.control.decision import decision_of
from hyops.control.dispatch import Ignored, Routed, route
from hyops.control.hearing import Heard
from hyops.control.standby import RENEWED_S, VALID_S, mark_of, runners_of, sealable
from hyops.errors import RunnerUnreachableError
from hyops.model.approval import ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import AttemptOutcome
from hyops.model.observed import Mode
from hyops.model.plan import Plan
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes
from hyops.model.vocabulary import Outcome
from hyops.ports.bundle import BundleFile
from hyops.ports.takeover import HeldOrder
from hyops.runner import orders
from hyops.services import takeover_keep
from hyops.services.looking import LOOK_LIMIT_S
from hyops.services.takeover_keep import Holding, OrderKeeper, OrderStores, concern, holdings
from hyops.services.takeover_seal import DecisionSealer, RequestSealer
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.evidence import STAGES, VERIFIER
from takeover_kit import JUDGE, MODE, POLICY, ROUTES, RUNNER, SOURCE, Survivor, later, order_for, plan_for
from unit.cli.test_run_follow import Loop

pytestmark = [pytest.mark.req("INV-9")]


@dataclass
class Session:
    """A runner's side, without a link."""

    runner: Survivor
    staged: list[str] = field(default_factory=list)

    async def differs(self) -> None:
        """It speaks our protocol."""

    async def orders(self) -> list[HeldOrder]:
        """What lies there."""
        return [HeldOrder(t["order_id"], t.get("digest"), t["stored_s"]) for t in orders.held(self.runner.folders)]

    async def stage(self, run_id: str, files: Mapping[str, BundleFile]) -> None:
        """Take the bundle."""
        self.staged.append(run_id)

    async def keep_order(self, order: bytes) -> None:
        """Store it."""
        orders.keep(self.runner.config, self.runner.folders, order, JUDGE)


@dataclass
class Transport:
    """Reaches one runner, or none; `silent` ones never answer."""

    session: Session
    away: bool = False
    silent: tuple[str, ...] = ()
    odd: str = ""
    dialled: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str, look: object = None) -> AsyncIterator[Any]:
        """One connection."""
        self.dialled.append(runner_ref)
        if runner_ref == self.odd:
            raise OverflowError("a date that no clock has")
        if runner_ref in self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise RunnerUnreachableError(f"{runner_ref} does not answer")
        yield self.session


@dataclass
class Control:
    """The three stages' parts of it, over real folders."""

    folder: Path
    policy: ServicePolicy = POLICY
    plan: Plan = field(default_factory=plan_for)
    clock: FakeClock = field(default_factory=FakeClock)
    others: list[ServicePolicy] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("decided", "inputs", "asked", "plans", "attempts", "outcomes")
        self.stores = {name: FileRecordStore(self.folder / name) for name in names}
        (self.folder / "runner").mkdir(exist_ok=True)
        self.survivor = Survivor(self.folder / "runner", self.clock)
        self.transport = Transport(Session(self.survivor))
        self.noted, self.took_s = b"", 0.0

    def seal(self) -> tuple[int, int]:
        """Both stages, each a new process; how many records each made."""
        s, parts = self.stores, {"verifier": VERIFIER, "clock": self.clock}
        decided = DecisionSealer(
            [(one, 7) for one in (self.policy, *self.others)], standby=s["decided"], inputs=s["inputs"],
            attempts=s["attempts"], outcomes=s["outcomes"], signer=STAGES["decision"], **parts,
        )  # fmt: skip
        asked = RequestSealer(
            decisions=s["decided"], standby=s["asked"], plans=s["plans"], routes=ROUTES,
            plan_for=lambda chosen, decision: self.plan.model_copy(
                update={"runner_ref": chosen.runner_ref, "service": decision.service}
            ),
            signer=STAGES["dispatch"], **parts,
        )  # fmt: skip
        return asyncio.run(decided.step()), asyncio.run(asked.step())

    def bring(self) -> list[Holding]:
        """The executor's part."""
        s = self.stores

        def note(data: bytes) -> None:
            self.noted = data

        keeper = OrderKeeper(
            OrderStores(s["decided"], s["inputs"], s["asked"], s["plans"], s["attempts"], s["outcomes"]),
            policies={one.service: one for one in (self.policy, *self.others)},
            initial_generations={one.service: 7 for one in (self.policy, *self.others)},
            transport=self.transport,
            files=lambda plan: {},
            verifier=VERIFIER,
            clock=self.clock,
            note=note,
        )
        with asyncio.Runner(loop_factory=Loop) as loop:
            found = loop.run(keeper.step())
            self.took_s = loop.get_loop().time()
        return found

    def moved(self, generation: int, primary: str) -> None:
        """A switch was confirmed."""
        at = self.clock.now()
        outcome = AttemptOutcome(
            outcome_id=f"outcome-20260131T120000Z-0000000{generation}",
            attempt_id=f"attempt-20260131T120000Z-failover-0000000{generation}",
            run_id=f"run-20260131T120000Z-0000000{generation}",
            timestamp_utc=at,
            outcome=Outcome.SUCCEEDED,
            exit_code=0,
            service="pg",
            generation_before=generation - 1,
            generation_after=generation,
            primary_after=primary,
        )
        signed = sign_record(outcome, STAGES["execution"])
        self.stores["outcomes"].create(signed.outcome_id, signed.encoded())


def test_an_order_reaches_the_runner_outside_the_primarys_site_once(tmp_path: Path) -> None:
    """Sealed, brought, and left alone from then on; what is held there is what was sealed."""
    control = Control(tmp_path)

    assert control.seal() == (1, 1)
    (first,) = control.bring()
    assert control.seal() == (0, 0)
    (second,) = control.bring()

    assert (first.runner_ref, first.state, second.state) == (RUNNER, "held", "held")
    assert control.transport.session.staged == [first.order_id]
    (standing,) = control.survivor.take().standing()
    assert standing.fault is None
    assert standing.told["digest"] == first.digest
    assert holdings(control.noted) == [second]


def _policy(control: Control) -> None:
    control.policy = POLICY.model_copy(update={"rto_s": 99.0})


def _plan(control: Control) -> None:
    control.plan = plan_for(RUNNER, "x")


CHANGES = {
    "plan": (_plan, (0, 1)),
    "policy": (_policy, (1, 1)),
    "generation": (lambda c: c.moved(8, SOURCE), (1, 1)),
    "age": (lambda c: c.clock.advance(RENEWED_S + 1), (1, 1)),
}


@pytest.mark.req("GEN-1", "INV-4")
@pytest.mark.parametrize("name", CHANGES)
def test_what_an_order_rests_on_changes_and_it_is_sealed_anew(tmp_path: Path, name: str) -> None:
    """Plan bytes, policy, generation, or half of its time: a new one, which is what the runner would run."""
    change, made = CHANGES[name]
    control = Control(tmp_path)
    control.seal()
    (before,) = control.bring()
    control.clock.advance(5)

    change(control)
    assert control.seal() == made
    (after,) = control.bring()

    assert after.digest != before.digest
    assert after.state == "held"
    newest = control.survivor.take().standing()[-1]
    assert newest.told["digest"] == after.digest
    assert control.seal() == (0, 0)


def test_the_other_runner_holds_it_when_the_primary_has_moved(tmp_path: Path) -> None:
    """After a failover the runner at home is the one that survives the loss of the other site."""
    assert runners_of(POLICY, MODE) == ["cloud-runner"]
    assert runners_of(POLICY, Mode(generation=8, primary="cloud-db")) == ["onprem-runner"]


@pytest.mark.req("INV-5")
@pytest.mark.parametrize("word", ["open_attempt", "uncertain", "unserved"])
def test_nothing_is_sealed_while_nobody_knows_where_the_service_is(word: str) -> None:
    """An open run or an unknown end: what it would rest on is about to change."""
    assert sealable(MODE)
    assert not sealable(MODE.model_copy(update={word: "attempt-1"}))


@pytest.mark.req("UX-3")
def test_a_runner_that_holds_none_is_told(tmp_path: Path) -> None:
    """Nothing sealed, a runner that is away, an order that lapsed, a look of long ago: each is a concern."""
    control = Control(tmp_path)
    (nothing,) = control.bring()
    control.seal()
    control.transport.away = True
    (away,) = control.bring()
    control.transport.away = False
    (held,) = control.bring()
    now = control.clock.now()

    assert "sealed nothing" in str(concern(nothing, now))
    assert (away.state, "does not answer" in str(concern(away, now))) == ("unreachable", True)
    assert concern(held, now) is None
    assert "minutes ago" in str(concern(held, later(now, 7200)))
    assert "has expired" in str(concern(held, now + timedelta(seconds=VALID_S + 1)))


@pytest.mark.req("RUN-11")
@pytest.mark.fault(14)
def test_silent_runners_keep_no_order_from_another(tmp_path: Path) -> None:
    """Six of them, asked before it by their names and two services each, cost what one costs; each service is told."""
    silent = [f"a-runner-{number}" for number in range(6)]
    home, cloud = POLICY.members
    others = [
        POLICY.model_copy(
            update={"service": f"{word}-{ref}", "members": [home, cloud.model_copy(update={"runner_ref": ref})]}
        )
        for ref in silent
        for word in ("app", "web")
    ]
    control = Control(tmp_path, others=others)
    control.transport.silent = tuple(silent)
    assert control.seal() == (13, 13)

    found = {holding.service: holding for holding in control.bring()}

    assert found.pop("pg").state == "held"
    assert {holding.state for holding in found.values()} == {"unreachable"}
    assert len(found) == 12
    assert all("silent" in holding.why and holding.order_id for holding in found.values())
    assert sorted(control.transport.dialled) == [*silent, RUNNER]
    assert control.took_s == pytest.approx(LOOK_LIMIT_S)
    assert [holding.service for holding in holdings(control.noted)] == sorted([*found, "pg"])


@pytest.mark.parametrize("where", ["runner", "order"])
def test_an_error_that_nobody_foresaw_keeps_no_order_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """From a runner, or when its order is put together: it is told of that one, which is tried again."""
    home, cloud = POLICY.members
    other = POLICY.model_copy(
        update={"service": "app", "members": [home, cloud.model_copy(update={"runner_ref": "a-odd"})]}
    )
    control = Control(tmp_path, others=[other])
    assert control.seal() == (2, 2)
    if where == "runner":
        control.transport.odd = "a-odd"
    else:

        def mark(policy: ServicePolicy, mode: Mode, runner_ref: str) -> str:
            if runner_ref == "a-odd":
                raise OverflowError("a date that no clock has")
            return mark_of(policy, mode, runner_ref)

        monkeypatch.setattr(takeover_keep, "mark_of", mark)

    odd, sound = sorted(control.bring(), key=lambda holding: holding.service)

    assert (odd.state, odd.why) == ("missing", "OverflowError: a date that no clock has")
    assert sound.state == "held"
    assert len(holdings(control.noted)) == 2


@pytest.mark.req("INV-4", "DSP-4")
def test_the_loop_itself_acts_on_nothing_that_is_sealed_for_a_takeover() -> None:
    """Copied among its records, the decision is ignored and the request is refused, whoever approves it."""
    order = order_for(EPOCH)
    found = route(
        order.decision, source_file="x", signed=True, routes=ROUTES, plan_for=lambda r, d: order.plan,
        now=EPOCH, max_age_s=60.0,
    )  # fmt: skip

    assert found == Ignored("condition:takeover")
    verdict = judge(order.request, Heard(), ApprovalPolicy(), EPOCH)
    assert (verdict.state, "takeover" in verdict.reason) == ("refused", True)
    ordinary = order.decision.model_copy(update={"condition": None})
    again = route(
        ordinary, source_file="x", signed=True, routes=ROUTES, plan_for=lambda r, d: order.plan, now=EPOCH,
        max_age_s=60.0, standby=True,
    )  # fmt: skip
    assert again == Ignored("condition:none")


@pytest.mark.req("INV-9", "DSP-2", "UX-1")
def test_a_single_module_is_denied_as_a_takeover_when_it_is_sealed() -> None:
    """Not on the day: whoever looks at the orders in good time reads that this one would move nothing."""
    body = ROUTES.body()
    to_module = {"target_kind": "module", "target_ref": "native/noop", "inputs": {}}
    body["dispatcher_routes"]["failover"] |= to_module
    order = order_for(EPOCH)
    found = route(
        order.decision, source_file="x", signed=True, routes=Routes.of(body), plan_for=lambda r, d: order.plan,
        now=EPOCH, max_age_s=60.0, standby=True,
    )  # fmt: skip

    assert isinstance(found, Routed)
    assert (found.request.status, found.plan) == ("denied", None)
    assert "the module native/noop alone moves none" in (found.request.reason or "")


@pytest.mark.req("DEC-5")
def test_a_standby_decision_replays_from_its_inputs() -> None:
    """The same bytes on every machine."""
    order = order_for(EPOCH)
    again = decision_of(order.inputs)

    assert again is not None
    assert again.digest() == order.decision.digest()


@pytest.mark.req("RUN-1")
def test_the_files_of_an_orders_plan_stay_in_the_cache(tmp_path: Path) -> None:
    """Nobody could ship them again on the day."""
    from hyops.runner.cache import Cache, in_use

    runner = Survivor(tmp_path, FakeClock())
    digest = "sha256:" + "3" * 64
    runner.folders.blob(digest).write_bytes(b"x")
    runner.hold(order_for(EPOCH, plan=plan_for().model_copy(update={"bundle": {"a": digest}})))

    assert in_use(runner.folders, now=0.0) == {digest}
    assert Cache(runner.folders).evict(now=1e12, bytes_max=0, keep_s=1.0) == []


def test_what_was_noted_and_cannot_be_read_is_refused() -> None:
    """A torn file says nothing."""
    from hyops.errors import RecordError

    with pytest.raises(RecordError):
        holdings(json.dumps([{"service": "pg"}]).encode())


def test_records_of_an_order_are_of_their_kinds() -> None:
    """Decision and request of the kit are what the stages write."""
    order = order_for(EPOCH)

    assert isinstance(order.decision, Decision)
    assert isinstance(order.request, DispatchRequest)
    assert str(order.request.condition) == "takeover"


@pytest.mark.req("INV-9", "LOOP-1")
def test_a_clock_that_leapt_ahead_stands_in_no_orders_way(tmp_path: Path) -> None:
    """Sealed a year ahead, the clock then set right: another order is sealed, and it is the one that is asked for."""
    control = Control(tmp_path)
    right = control.clock.now()
    control.clock.jump_wall(86400.0 * 365)
    assert control.seal() == (1, 1)
    control.clock.jump_wall((right - control.clock.now()).total_seconds())

    assert control.seal() == (1, 1)
    (held,) = control.bring()
    assert held.state == "held"
