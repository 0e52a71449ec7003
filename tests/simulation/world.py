"""The whole control loop in one process: fake clock, signals, approvers and runner; a crash after any effect.

Only the outside is fake. The stages are the real ones, on record stores that outlive them as a disk would.
"""

from __future__ import annotations

import asyncio
import atexit
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from hyops._version import __version__
from hyops.control.dispatch import choose
from hyops.errors import HostKeyError, HyopsError, PrerequisiteError, RunnerUnreachableError, StaleGenerationError
from hyops.model import canonical, protocol
from hyops.model.approval import Approval, ApprovalPolicy, ApprovalStatement
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest, Route
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.hold import HoldRecord, HoldStatement
from hyops.model.plan import Plan, Step
from hyops.model.policy import ServicePolicy
from hyops.model.refusal import Refusal
from hyops.model.routes import Routes
from hyops.model.run import RunResult, RunSpec
from hyops.model.signal import Sample
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Level, Occasion, Outcome, Phase
from hyops.ports.clock import Clock
from hyops.ports.records import Created
from hyops.ports.signals import Received
from hyops.ports.signer import ApproverSignature
from hyops.ports.transport import ClockSeen, RunEvent, RunnerHello, RunReturn, RunStatus, StageReport
from hyops.services.approval import ApprovalStage
from hyops.services.decision import DecisionStage
from hyops.services.dispatch import DispatchStage
from hyops.services.execution import ExecutionStage
from hyops.services.execution_parts import ExecutionStores
from hyops.services.holds import HoldBook
from hyops.services.inbox import refuses, slot_for
from hyops.services.returning import ReturnedStates
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import STAGES, SeedApprovals, SeedSigner, SeedVerifier
from hyops.testing.records import MemoryRecordStore
from hyops.testing.starts import MemoryStarts

VANTAGES = ("control", "witness", "cloud-runner")
RUNNERS = ("cloud-runner", "onprem-runner")
KINDS = [
    *("decisions", "inputs", "plans", "requests", "approvals", "executions", "attempts", "outcomes"),
    *("refused-decision", "refused-dispatch", "refused-approval", "refused-execution"),
]
EXECUTOR_READS = [kind for kind in KINDS if kind != "inputs" and not kind.startswith("refused")]
LONG = tuple("r" * 63 + which for which in "12")  # as long as the name of a runner may be
KEYS: dict[str, SeedSigner] = {
    **STAGES,
    **{f"runner:{ref}": SeedSigner(f"runner:{ref}") for ref in ("onprem-runner", *LONG)},
}
VERIFIER = SeedVerifier({signer.public: frozenset({role}) for role, signer in KEYS.items()})


def policy(**changes: Any) -> ServicePolicy:
    """The service `pg` of the lab, quick enough for tests."""
    probed = {"vantages": list(VANTAGES), "interval_s": 0.25, "timeout_s": 0.6, "max_age_s": 1.2}
    body: dict[str, Any] = {
        "api_version": "hybridops/v1",
        "kind": "ServicePolicy",
        "service": "pg",
        "env": "lab",
        "members": [
            {"host": "onprem-db", "site": "onprem", "address": "10.77.1.10", "runner_ref": "onprem-runner"},
            {"host": "cloud-db", "site": "cloud", "address": "10.77.2.10", "runner_ref": "cloud-runner"},
        ],
        "preferred": "onprem-db",
        "endpoint": {
            "name": "pg.lab.hyops.internal",
            "zone": "lab.hyops.internal",
            "authorities": ["10.77.3.20:53"],
            "tsig_key_name": "hyops-switch",
        },
        "lease": {"endpoints": ["http://10.77.3.10:2379"]},
        "signals": [
            {"name": "answers", "source": "postgresql", "weight": 3.0, **probed},
            {"name": "port", "source": "tcp", **probed},
            {
                "name": "wal_received",
                "source": "postgresql",
                "about": "target",
                "comparator": "lte",
                "threshold": 0.6,
                **probed,
            },
            {
                "name": "lag_bytes",
                "source": "postgresql",
                "about": "target",
                "comparator": "lte",
                "threshold": 1e6,
                **probed,
            },
        ],
        "quorum": 2,
        "confirm_for_s": 0.8,
        "stable_for_s": 30.0,
        "cooldown_s": 10.0,
        "receipts": ["observed", "lease-expired"],
        "decision_max_age_s": 120.0,
    }
    return ServicePolicy.of({**body, **changes})


def routes(**changes: Any) -> Routes:
    """Failover and failback, as in the lab."""
    lane = {"target_ref": "dr/postgresql-warm-promote@v1", "target_env": "lab", "execution_plane": "runner-local"}
    body: dict[str, Any] = {
        "env": "lab",
        "dispatcher_routes": {
            "failover": {**lane, "runner_ref": "cloud-runner"},
            "failback": {**lane, "runner_ref": "onprem-runner"},
        },
    }
    return Routes.of({**body, **changes})


def plan_for(route: Route, decision: Decision) -> Plan:
    """Stands in for the engine: one step."""
    return Plan(
        blueprint_ref=route.target_ref,
        blueprint_digest=canonical.digest(route.target_ref),
        env=route.target_env,
        service=decision.service or "pg",
        decision_type=decision.decision_type,
        runner_ref=route.runner_ref or "cloud-runner",
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        steps=[Step(id="fence", module_ref="native/fence", phase=Phase.PREPARE)],
        inputs={},
    )


class Crash(BaseException):
    """The process died here."""


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def in_turn(body: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, on one loop for all turns: there are thirteen thousand of them, and a loop costs two sockets.

    Whatever the turn left running is cancelled at its end, as the end of a process would.
    """
    loop = _loop()
    try:
        loop.run_until_complete(body)
    finally:
        while left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


@dataclass
class Meter:
    """Counts durable effects and kills the process after a chosen one."""

    done: int = 0
    crash_after: int | None = None
    log: list[str] = field(default_factory=list)

    def effect(self, name: str) -> None:
        """One effect has happened."""
        self.done += 1
        self.log.append(name)
        if self.crash_after == self.done:
            raise Crash(f"after effect {self.done}: {name}")


class MeteredStore:
    """A record store that reports its effects."""

    def __init__(self, inner: MemoryRecordStore, meter: Meter, kind: str) -> None:
        self._inner, self._meter, self._kind = inner, meter, kind

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """As the store, then tell the meter."""
        created = self._inner.create(record_id, data, slot=slot)
        if created.made:
            self._meter.effect(self._kind)
        return created

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class MeteredStarts(MemoryStarts):
    """Starts that report their effects."""

    meter: Meter

    def next_epoch(self) -> int:
        """As before, then tell the meter."""
        epoch = super().next_epoch()
        self.meter.effect("epoch")
        return epoch

    def note(self, attempt_id: str) -> None:
        """As before, then tell the meter."""
        super().note(attempt_id)
        self.meter.effect("start-noted")


class Approvers:
    """Stands in for OpenSSH: each principal has a key of his own, and roles."""

    def __init__(self, **roles: set[str]) -> None:
        self.roles = {name: frozenset(given) for name, given in roles.items()}

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Who signed; NotApprovedError otherwise."""
        SeedApprovals(*self.roles).verify(principal, data, ssh_signature, at)
        return ApproverSignature(principal, self.roles[principal], f"SHA256:{principal}")


LINES = (b"the first end", b"the second end")


class FakeRunner:
    """A standing runner: starts once per run id, refuses lower epochs, signs what it returns."""

    def __init__(self, world: World, ref: str) -> None:
        self.world, self.ref = world, ref
        self.specs: dict[str, RunSpec] = {}
        self.started: list[str] = []
        self.epoch = 0
        self.outcome = Outcome.SUCCEEDED
        self.exit_code = 0
        self.promoted = False
        self.life = 1
        self.refuses: HyopsError | None = None
        self.admits: Callable[[RunSpec], object] = lambda spec: None
        self.keeps_refused = False
        self.in_flight: list[RunSpec] = []
        self.cuts: list[str] = []
        self.host_key_changed = False
        self.forge: Callable[[RunResult], RunResult] = lambda result: result
        self.protocol = protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX
        self.clock = ClockSeen(0.0, 0.01)

    def arrive(self) -> None:
        """Starts that were on their way when the link was lost come in now."""
        for spec in self.in_flight:
            if spec.epoch > self.epoch and spec.run_id not in self.specs:
                self.epoch, self.specs[spec.run_id] = spec.epoch, spec
                self.started.append(spec.run_id)
        self.in_flight = []

    def result(self, run_id: str) -> RunResult:
        """What this runner says of a run."""
        spec, now = self.specs[run_id], self.world.clock.now()
        switches = spec.plan.decision_type is not DecisionType.BURST
        moved = switches and (self.outcome is Outcome.SUCCEEDED or self.promoted)
        made = RunResult(
            run_id=run_id,
            runner_ref=self.ref,
            service=spec.service,
            generation_before=spec.generation,
            generation_after=spec.generation + 1 if moved else None,
            primary_after=next(m.host for m in self.world.policy.members if m.runner_ref == self.ref)
            if moved
            else None,
            outcome=self.outcome,
            exit_code=self.exit_code,
            started_at=now,
            ended_at=now,
            steps=[],
            journal_head=canonical.digest_bytes(LINES[self.life - 1]),
            journal_records=self.life,
            plan_digest=spec.plan.digest(),
        )
        return self.forge(sign_record(made, KEYS[f"runner:{self.ref}"]))


class FakeSession:
    """One connection to a fake runner. A cut verb has its effect, and then the answer is lost."""

    def __init__(self, runner: FakeRunner) -> None:
        self._runner = runner

    def _cut(self, verb: str) -> None:
        if self._runner.cuts and self._runner.cuts[0] == verb:
            self._runner.cuts.pop(0)
            raise RunnerUnreachableError(f"link lost during {verb}")

    async def hello(self) -> RunnerHello:
        """Who it is."""
        self._cut("hello")
        there = protocol.Speaker(self._runner.ref, "0", *self._runner.protocol)
        protocol.agreed(protocol.ours("this host", __version__), there)
        return RunnerHello(self._runner.ref, "cloud", "0", *self._runner.protocol, 10**9, clock=self._runner.clock)

    async def stage(self, run_id: str, files: Mapping[str, bytes]) -> StageReport:
        """Nothing to keep."""
        self._cut("stage")
        return StageReport(len(files), len(files), 0)

    async def start(self, spec: RunSpec, secrets: Mapping[str, str]) -> Literal["started", "existing"]:
        """Once per run id; a lower epoch is refused."""
        runner = self._runner
        if runner.cuts and runner.cuts[0] == "start-in-flight":
            runner.cuts.pop(0)
            runner.in_flight.append(spec)
            raise RunnerUnreachableError("link lost after the start had left")
        if runner.refuses is not None:
            raise runner.refuses
        if spec.run_id in runner.specs:
            self._cut("start")
            return "existing"
        runner.admits(spec)
        if spec.epoch <= runner.epoch:
            raise StaleGenerationError(f"epoch {spec.epoch} is not above {runner.epoch}")
        runner.epoch = spec.epoch
        runner.specs[spec.run_id] = spec
        runner.started.append(spec.run_id)
        runner.world.meter.effect("run-started")
        self._cut("start")
        return "started"

    async def attach(self, run_id: str, offset: int = 0) -> AsyncIterator[RunEvent]:
        """One event and the end."""
        yield RunEvent("journal", 1, {"kind": "run-opened"})
        self._cut("attach")
        yield RunEvent("end", 2, {})

    async def status(self, run_id: str) -> RunStatus:
        """Finished as soon as it was started."""
        self._cut("status")
        if run_id in self._runner.specs:
            return RunStatus(run_id, "finished", outcome=str(self._runner.outcome))
        return RunStatus(run_id, "staged" if self._runner.keeps_refused else "absent")

    async def cancel(self, run_id: str, epoch: int, reason: str) -> RunStatus:
        """Not used by the loop."""
        return await self.status(run_id)

    async def collect(self, run_id: str) -> RunReturn:
        """The signed result."""
        self._cut("collect")
        if run_id not in self._runner.specs:
            raise PrerequisiteError(f"run {run_id}: there is no result yet")
        return RunReturn(
            self._runner.result(run_id), b"".join(line + b"\n" for line in LINES[: self._runner.life]), b"log"
        )


class FakeTransport:
    """Dials fake runners."""

    def __init__(self, world: World) -> None:
        self._world = world

    @asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[FakeSession]:
        """One connection."""
        runner = self._world.runners[runner_ref]
        if runner.host_key_changed:
            raise HostKeyError(f"host key of {runner_ref} changed")
        session = FakeSession(runner)
        session._cut("connect")
        yield session


@dataclass
class Seen:
    """What the vantage points would see. `primary`: who reaches it, if it lives; `wal_age_s`: age of the newest WAL."""

    dead: set[str] = field(default_factory=set)
    primary: set[str] = field(default_factory=lambda: set(VANTAGES))
    wal_age_s: float | None = 0.05
    lag_bytes: float | None = 0.0
    unwell: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    error: set[str] = field(default_factory=set)


class Hook:
    """Stands in for evidence: notes which outcomes it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.returned: dict[str, RunReturn | None] = {}

    def done(self, outcome: AttemptOutcome) -> bool:
        """Whether it has it."""
        return outcome.outcome_id in self.given

    async def closed(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        """Take it."""
        if outcome.outcome_id not in self.given:
            self.given.append(outcome.outcome_id)
            self.returned[outcome.outcome_id] = returned


STAGE_NAMES = ("decision", "dispatch", "approval", "execution")


class World:
    """One control loop with `instances` of every stage. Everything random comes from `seed`."""

    def __init__(
        self,
        seed: int = 1,
        *,
        instances: int = 1,
        service_policy: ServicePolicy | None = None,
        approval_policy: ApprovalPolicy | None = None,
        service_routes: Routes | None = None,
        mode: Literal["dry-run", "dispatch"] = "dispatch",
        clock: FakeClock | None = None,
        plans: Callable[[Route, Decision], Plan] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.clock = clock or FakeClock()
        self.plan_for = plans or plan_for
        self.disk = {kind: MemoryRecordStore() for kind in [*KINDS, "holds"]}
        self.starts = MeteredStarts()
        self.meter = self.starts.meter = Meter()
        self.approvers = Approvers(ada={"approver"}, bob={"approver"}, eve=set(), glass={"break-glass"})
        self.policy = service_policy or policy()
        refs = [*RUNNERS, *(member.runner_ref for member in self.policy.members)]
        self.runners = {ref: FakeRunner(self, ref) for ref in dict.fromkeys(refs)}
        self.approval_policy = approval_policy or ApprovalPolicy(allow_standing=True)
        self.routes = service_routes or routes()
        self.mode = mode
        self.hook = Hook()
        self.states: ReturnedStates | None = None
        self.seen = Seen()
        self.crashes = 0
        self._sequence: dict[tuple[str, str], int] = {}
        self._checked = (0, 0)
        self._read: dict[tuple[str, str], tuple[bytes, Any]] = {}
        self.stages: list[dict[str, Any]] = [{} for _ in range(instances)]
        for index in range(instances):
            self.boot(index)

    # the stages

    def opened(self, kind: str) -> MeteredStore:
        """One kind of record, as one process opens it."""
        return MeteredStore(self.disk[kind], self.meter, kind)

    def clock_of(self, _index: int, _name: str) -> Clock:
        """The clock of one process of an instance."""
        return self.clock

    def held_starts(self) -> Any:
        """The executor's memory, as one process holds it."""
        return self.starts

    def dialled(self) -> Any:
        """The way to the runners, as one process goes it."""
        return FakeTransport(self)

    def boot(self, index: int, *names: str) -> None:
        """Start (or start again) the stages of one instance; what they had in memory is gone."""
        store = {kind: self.opened(kind) for kind in self.disk}
        clock = {name: self.clock_of(index, name) for name in names or STAGE_NAMES}
        makers: dict[str, Callable[[], Any]] = {
            "decision": lambda: DecisionStage(
                self.policy,
                initial_generation=1,
                decisions=store["decisions"],
                inputs=store["inputs"],
                attempts=store["attempts"],
                outcomes=store["outcomes"],
                signer=KEYS["decision"],
                verifier=VERIFIER,
                clock=clock["decision"],
                holds=HoldBook(
                    self.disk["holds"],
                    self.policy,
                    people=self.approvers,
                    clock=clock["decision"],
                    refusals=store["refused-decision"],
                    signer=KEYS["decision"],
                ),
            ),
            "dispatch": lambda: DispatchStage(
                decisions=store["decisions"],
                requests=store["requests"],
                plans=store["plans"],
                refusals=store["refused-dispatch"],
                routes=self.routes,
                plan_for=self.plan_for,
                signer=KEYS["dispatch"],
                verifier=VERIFIER,
                clock=clock["dispatch"],
            ),
            "approval": lambda: ApprovalStage(
                requests=store["requests"],
                approvals=store["approvals"],
                executions=store["executions"],
                refusals=store["refused-approval"],
                policy=self.approval_policy,
                approval_verifier=self.approvers,
                signer=KEYS["approval"],
                verifier=VERIFIER,
                clock=clock["approval"],
            ),
            "execution": lambda: ExecutionStage(
                ExecutionStores(
                    **{kind: store[kind] for kind in EXECUTOR_READS},
                    refusals=store["refused-execution"],
                ),
                policies={self.policy.service: self.policy},
                initial_generations={self.policy.service: 1},
                transport=self.dialled(),
                starts=self.held_starts(),
                signer=KEYS["execution"],
                verifier=VERIFIER,
                clock=clock["execution"],
                states=self.states,
                mode=self.mode,
                hook=self.hook,
                people=self.approvers,
                holds={
                    self.policy.service: HoldBook(
                        store["holds"],
                        self.policy,
                        people=self.approvers,
                        clock=clock["execution"],
                        refusals=store["refused-decision"],
                    )
                },
            ),
        }
        for name in names or makers:
            self.stages[index][name] = makers[name]()

    def turn(self, index: int, name: str, *, slow: bool = True) -> None:
        """One pass of one stage. A crash loses its memory and starts it again."""
        stage = self.stages[index][name]

        async def passes() -> None:
            if name == "decision":
                stage.look()
            attempts = await stage.step(slow)
            if name == "execution":
                for attempt in attempts:
                    await stage.dial(attempt)
                await stage.finish_hooks()
                stage.refuse_stuck()

        try:
            in_turn(passes())
        except Crash:
            self.crashes += 1
            self.starts.dialled.clear()
            self.boot(index, name)
        self.check()

    def settle(self, passes_max: int = 12) -> None:
        """Let all stages of all instances run, in an order the seed decides, until nothing changes any more."""
        quiet = 0
        for _ in range(passes_max * len(self.stages) * 4):
            before = self._activity()
            turns = [(i, n) for i, stages in enumerate(self.stages) for n in stages]
            self.random.shuffle(turns)
            for index, name in turns:
                self.turn(index, name)
            quiet = quiet + 1 if self._activity() == before else 0
            if quiet == 2:
                return
        raise AssertionError(f"seed {self.seed}: still changing: {self.meter.log[-20:]}")

    def _activity(self) -> tuple[int, int, int]:
        return self.meter.done, self.crashes, sum(len(runner.cuts) for runner in self.runners.values())

    # the outside

    def watch(self, seconds: float, *, judge: bool = True, only: set[str] | None = None) -> None:
        """Let time pass with a look of every vantage point each quarter second."""
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            for vantage in VANTAGES:
                if vantage in self.seen.silent:
                    continue
                for signal in self.policy.signals:
                    if vantage in signal.vantages and (only is None or signal.name in only):
                        self._look(vantage, signal.name)
            if judge:
                for index in range(len(self.stages)):
                    self.turn(index, "decision", slow=False)

    def _look(self, vantage: str, signal: str) -> None:
        mode = self.stages[0]["decision"].mode
        lives = mode.primary not in self.seen.dead
        target = next(m.host for m in self.policy.members if m.host != mode.primary)
        asked = target not in self.seen.dead
        values: dict[str, float | None] = {
            "wal_received": (self.seen.wal_age_s if lives else 5.0) if asked else None,
            "lag_bytes": self.seen.lag_bytes if asked else None,
        }
        alive = float(lives and vantage in self.seen.primary)
        value = values.get(signal, alive)
        self.say(vantage, signal, None if vantage in self.seen.error else value)

    def say(self, vantage: str, signal: str, value: float | None, **more: Any) -> None:
        """One sample, to every decision service."""
        key = (vantage, signal)
        self._sequence[key] = self._sequence.get(key, -1) + 1
        sample = Sample(
            vantage=vantage,
            signal=signal,
            sequence=self._sequence[key],
            taken_at=self.clock.now(),
            value=value,
            error="unknown" if value is None else None,
            healthy_vantage=vantage not in self.seen.unwell,
            **more,
        )
        for stages in self.stages:
            stages["decision"].take(Received(sample, self.clock.monotonic()))

    def site_dies(self) -> None:
        """The primary and its site are gone: nobody reaches it and the standby gets no more WAL."""
        self.seen.dead = {self.policy.preferred}

    def site_lives(self) -> None:
        """All is well again."""
        self.seen = Seen()

    def say_yes(self, by: str = "ada", verdict: str = "grant", **changes: Any) -> Approval:
        """An approver signs about the newest request."""
        return self._say(self.records("requests", DispatchRequest)[-1], by, verdict, changes)

    def say_yes_to(self, dispatch_id: str, by: str = "ada") -> Approval:
        """An approver signs about one request."""
        request = next(r for r in self.records("requests", DispatchRequest) if r.dispatch_id == dispatch_id)
        return self._say(request, by, "grant", {})

    def _say(self, request: DispatchRequest, by: str, verdict: str, changes: dict[str, Any]) -> Approval:
        now = self.clock.now()
        body = {
            "verdict": verdict,
            "approver": by,
            "signed_at": now,
            "expires_at": now + timedelta(minutes=10),
            "plan_digest": request.plan_digest,
            "dispatch_id": request.dispatch_id,
            "request_digest": request.digest(),
            "acknowledged_warnings": request.warnings,
        }
        return self.put_approval(ApprovalStatement(**{**body, **changes}), by)

    def stand(self, by: str = "ada", **changes: Any) -> Approval:
        """An approver signs a standing approval for the failover plan."""
        now = self.clock.now()
        asked = FAILOVER.model_copy(update={"service": self.policy.service})
        plan = self.plan_for(self.routes.of_type(DecisionType.FAILOVER)[0], asked)
        body: dict[str, Any] = {
            "verdict": "standing",
            "approver": by,
            "signed_at": now,
            "expires_at": now + timedelta(days=30),
            "plan_digest": plan.digest(),
            "service": self.policy.service,
            "decision_types": [DecisionType.FAILOVER],
            "occasions": [Occasion.UNPLANNED],
        }
        return self.put_approval(ApprovalStatement(**{**body, **changes}), by)

    def say_hold(
        self, verdict: str = "hold", by: str = "ada", signature: str | None = None, **changes: Any
    ) -> HoldRecord:
        """A person signs a hold of the service, as `hyops hold add` does; `end` and `acknowledge` too."""
        now = self.clock.now()
        body: dict[str, Any] = {
            "verdict": verdict,
            "signer": by,
            "owner": by,
            "service": self.policy.service,
            "env": self.policy.env,
            "signed_at": now,
            "reason": "kernel upgrade",
        }
        said = HoldStatement(**{**body, **changes})
        record = HoldRecord.signed(said, signature or SeedApprovals.sign(by, said.signed_bytes()))
        self.disk["holds"].create(record.hold_id, record.encoded())
        return record

    def end_holds(self) -> None:
        """Who began them ends them, as `hyops hold end` does."""
        holds = [record.statement for record in self.records("holds", HoldRecord)]
        over = {statement.ends for statement in holds}
        for record in self.records("holds", HoldRecord):
            if record.statement.verdict == "hold" and record.hold_id not in over:
                self.say_hold("end", ends=record.hold_id)

    def put_approval(self, statement: ApprovalStatement, by: str, signature: str | None = None) -> Approval:
        """Drop an approval into the folder, as `hyops approval grant` does."""
        approval = Approval.signed(statement, signature or SeedApprovals.sign(by, statement.signed_bytes()))
        self.disk["approvals"].create(approval.approval_id, approval.encoded())
        return approval

    # what happened

    def records(self, kind: str, model: Any) -> list[Any]:
        """All records of one kind, oldest first."""
        for name, data in self.disk[kind].records.items():
            if self._read.get((kind, name), (b"", None))[0] != data:
                self._read[kind, name] = (data, model.read(data, source=name))
        found = [self._read[kind, name][1] for name in self.disk[kind].records]
        return sorted(found, key=lambda r: (getattr(r, "timestamp_utc", None) or self.clock.now(), r.record_id))

    def decisions(self, *kinds: DecisionType) -> list[Decision]:
        """Decisions of these types (all without any)."""
        return [d for d in self.records("decisions", Decision) if not kinds or d.decision_type in kinds]

    def refusals(self, stage: str) -> list[Refusal]:
        """What a stage refused or ignored."""
        return list(self.records(f"refused-{stage}", Refusal))

    def runs(self) -> list[str]:
        """Every run that any runner ever started."""
        return [run for runner in self.runners.values() for run in runner.started]

    def outcomes(self) -> list[AttemptOutcome]:
        """How attempts ended."""
        return list(self.records("outcomes", AttemptOutcome))

    def check(self) -> None:
        """The invariants, after every step that had an effect."""
        if self._checked == (self.meter.done, self.crashes):
            return
        self._checked = (self.meter.done, self.crashes)
        decisions = self.records("decisions", Decision)
        requests = self.records("requests", DispatchRequest)
        executions = self.records("executions", Execution)
        attempts = self.records("attempts", Attempt)
        outcomes = self.outcomes()
        where = f"seed {self.seed}, effects {self.meter.log}"
        closed = {
            r.subject_digest for r in self.refusals("execution") if refuses(r, slot_for("closed", r.subject_digest))
        }
        ran = {a.source_execution_digest for a in attempts if a.execution_mode == "dispatch"}
        assert not closed & ran, f"refused for good, and run: {where}"
        once("decision per incident", [d.incident for d in decisions if d.incident], where)
        once("request per decision", [r.source_decision_digest for r in requests], where)
        once("execution per request", [e.source_request_digest for e in executions], where)
        once(
            "attempt per execution", [a.source_execution_id for a in attempts if a.execution_mode == "dispatch"], where
        )
        once("outcome per attempt", [o.attempt_id for o in outcomes if o.reconciles is None], where)
        once("word per attempt", [o.attempt_id for o in outcomes if o.reconciliation], where)
        once("proof per attempt", [o.attempt_id for o in outcomes if o.reconciles and not o.reconciliation], where)
        once("run", self.runs(), where)
        specs = {run: spec for runner in self.runners.values() for run, spec in runner.specs.items()}
        recorded = {a.run_id for a in attempts}
        for run_id, spec in specs.items():
            assert run_id in recorded, f"run without an attempt on disk: {run_id} ({where})"
            assert run_id == spec.run_id == spec.execution.run_id(), f"run under another id: {run_id} ({where})"
            assert approved(self, spec) or freed(self, spec), f"run without approval: {run_id} ({where})"
            assert spec.plan.digest() == spec.execution.plan_digest == spec.request.plan_digest, where
        closed = {o.attempt_id for o in outcomes}
        active = [a.attempt_id for a in attempts if a.execution_mode == "dispatch" and a.attempt_id not in closed]
        assert len(active) <= 1, f"two active runs: {active} ({where})"
        for outcome in outcomes:
            ran = outcome.run_id in specs
            assert outcome.outcome is not Outcome.SUCCEEDED or ran, f"success of nothing ({where})"
            assert outcome.outcome is not Outcome.REFUSED or not ran, f"refused, but it runs ({where})"


def once(what: str, keys: list[str | None], where: str) -> None:
    """Fail when anything stands twice."""
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    assert not twice, f"more than one {what}: {twice} ({where})"


def approved(world: World, spec: RunSpec) -> bool:
    """Whether somebody who may approve really signed for what runs; computed apart from the product's own judge."""
    for approval in spec.approvals:
        statement = approval.statement
        good = approval.ssh_signature == SeedApprovals.sign(statement.approver, statement.signed_bytes())
        role = "break-glass" if statement.verdict == "break-glass" else "approver"
        may = role in world.approvers.roles.get(statement.approver, ())
        bound = spec.request.digest() == statement.request_digest or statement.verdict == "standing"
        same = statement.plan_digest == spec.plan.digest()
        if good and may and bound and same and statement.verdict in ("grant", "standing", "break-glass"):
            return True
    return False


def freed(world: World, spec: RunSpec) -> bool:
    """Whether policy, route and approval stage each say that nobody has to sign; apart from the product's judge too."""
    taken = choose(spec.decision, world.routes)
    if taken is None or taken.approvals_required is not None:
        return False
    asks = world.routes.dispatcher_require_approval if taken.requires_approval is None else taken.requires_approval
    said = [asks is False, world.policy.requires_approval is False, world.approval_policy.allow_unapproved]
    return all(said) and spec.decision.level is Level.TRIGGER


FAILOVER = Decision(decision_id="x", decision_type=DecisionType.FAILOVER, rationale="x", service="pg")
