"""Standing runners in virtual time: real admission, engine and drivers; a job outlives the connection, not a kill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from hyops._version import __version__
from hyops.cutover.drivers import CutoverPorts, cutover_drivers
from hyops.engine.journal import FIRST, Entry, JournalFullError, digest_line
from hyops.engine.result import RunFacts, result_of
from hyops.engine.run import Run, SuspendedError
from hyops.errors import HostKeyError, HyopsError, PrerequisiteError, RunnerUnreachableError, StaleGenerationError
from hyops.fence.driver_fence import FencePorts
from hyops.fence.driver_promote import fence_drivers
from hyops.model import canonical, protocol
from hyops.model.decision import Decision
from hyops.model.dispatch import Route
from hyops.model.plan import Plan
from hyops.model.run import RunResult, RunSpec
from hyops.model.vocabulary import DecisionType, ExecutionPlane
from hyops.ports.driver import Driver
from hyops.ports.transport import ClockSeen, RunEvent, RunnerHello, RunReturn, RunStatus, StageReport
from hyops.runner import admission
from simulation.hosts import CONNECT_S, HOP_S, QuorumView, RemoteAgent, SiteProbe, Tethered
from simulation.virtual import Process
from simulation.world import KEYS
from switch_pair import ENDPOINT, LEASE, MEMBERS, STEPS

if TYPE_CHECKING:
    from simulation.arena import Arena

SITE_OF_RUNNER = {"cloud-runner": "cloud", "onprem-runner": "onprem"}
TIMEOUTS_S = {"fence": 60.0, "promote": 45.0, "verify-target": 15.0, "cutover": 30.0, "verify-traffic": 30.0}
PHASES = {"fence": "prepare", "promote": "data", "verify-target": "data", "rejoin": "backup"}
LOOK_S = 0.25
RECEIPTS = ("observed", "lease-expired", "break-glass")


def switch_plan(route: Route, decision: Decision) -> Plan:
    """The blueprint of the switch, from where the service is at home to its other member or back."""
    kind = DecisionType.FAILBACK if decision.decision_type is DecisionType.FAILBACK else DecisionType.FAILOVER
    return _plan(kind, route.target_ref, route.target_env, route.runner_ref or "cloud-runner")


@cache
def _plan(kind: DecisionType, target_ref: str, env: str, runner_ref: str) -> Plan:
    hosts = [member.host for member in MEMBERS]
    source, target = hosts if kind is DecisionType.FAILOVER else hosts[::-1]
    words: dict[str, Any] = {
        "source": source,
        "target": target,
        "members": [member.body() for member in MEMBERS],
        "lease": LEASE.body(),
        "receipts": list(RECEIPTS),
        "endpoint": ENDPOINT.body(),
    }
    steps, before = [], list[str]()
    for step, module, names in STEPS:
        body = {
            "id": step,
            "module_ref": module,
            "phase": PHASES.get(step, "traffic"),
            "requires": before[-1:],
            "inputs": {name: words[name] for name in names},
            "timeout_s": TIMEOUTS_S.get(step, 90.0),
            "optional": step == "rejoin",
            "retries": 2 if step == "verify-target" else 0,
        }
        steps.append(body)
        before.append(step)
    return Plan.of(
        {
            "schema": "hyops/plan/v1",
            "blueprint_ref": target_ref,
            "blueprint_digest": canonical.digest(target_ref),
            "env": env,
            "service": "pg",
            "decision_type": str(kind),
            "runner_ref": runner_ref,
            "execution_plane": str(ExecutionPlane.RUNNER_LOCAL),
            "steps": steps,
            "inputs": {"source": source, "target": target},
        }
    )


class MemoryJournal:
    """The engine's journal on a disk that outlives its process; `full`: nothing but outcomes fits any more."""

    def __init__(self, proved: Callable[[Mapping[str, Any]], None]) -> None:
        self._proved = proved
        self.entries: list[Entry] = []
        self.head = FIRST
        self.lines: list[bytes] = []
        self.process: Process | None = None
        self.full = False

    def append(self, kind: str, body: Mapping[str, Any], *, at: str, t: float, essential: bool = False) -> Entry:
        """See the engine."""
        assert self.process is not None, "nobody writes this journal"
        self.process.alive()
        if self.full and not essential:
            raise JournalFullError("no room for the journal")
        entry = Entry(len(self.entries), kind, at, round(t, 6), dict(body))
        value = {"seq": entry.seq, "prev": self.head, "kind": kind, "at": at, "t": entry.t, "body": entry.body}
        raw = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()
        self.entries.append(entry)
        self.lines.append(raw)
        self.head = digest_line(raw)
        if kind == "outcome" and "receipt" in (outputs := body.get("outputs", {})):
            self._proved(outputs["receipt"])
        return entry


@dataclass
class Job:
    """One run on its runner."""

    spec: RunSpec
    journal: MemoryJournal
    state: Literal["running", "interrupted", "finished"] = "interrupted"
    result: RunResult | None = None
    process: Process | None = None


class SimRunner:
    """A standing runner at its site."""

    def __init__(self, arena: Arena, ref: str) -> None:
        self.arena, self.ref, self.site = arena, ref, SITE_OF_RUNNER[ref]
        self.jobs: dict[str, Job] = {}
        self.started: list[str] = []
        self.specs: dict[str, RunSpec] = {}
        self.epoch, self.generation_seen = 0, 0
        self.up = True
        self.cuts: list[str] = []
        self.in_flight: list[RunSpec] = []
        self.host_key_changed = False
        self.forging: dict[str, Any] = {}
        self.dies_at = -1  # so many boundaries of a job from now
        self.full = False
        self.boots = 0

    # the machine

    def reboot(self) -> None:
        """Every job dies; what lies there is resumed by `boot`."""
        self.up = False
        for job in self.jobs.values():
            if job.process is not None:
                job.process.kill()
            if job.state == "running":
                job.state = "interrupted"

    def boot(self) -> None:
        """It is back, and starts what was interrupted."""
        if self.up:
            return
        self.up = True
        self.boots += 1
        for job in self.jobs.values():
            if job.state == "interrupted":
                self._run(job)

    # starts

    def arrive(self) -> None:
        """Starts that were on their way when the link was lost come in now."""
        if not self.up:
            return
        coming, self.in_flight = self.in_flight, []
        for spec in coming:
            with contextlib.suppress(HyopsError):
                self.begin(spec)

    def begin(self, spec: RunSpec) -> Literal["started", "existing"]:
        """Once per run id; judged by what this runner itself trusts."""
        job = self.jobs.get(spec.run_id)
        if job is not None:
            if spec.epoch < self.epoch:
                raise StaleGenerationError(f"epoch {spec.epoch} is older than {self.epoch}")
            if job.state == "interrupted":
                self._run(job)
            self.epoch = max(self.epoch, spec.epoch)
            return "existing"
        if spec.epoch < self.epoch:
            raise StaleGenerationError(f"epoch {spec.epoch} is older than {self.epoch}")
        if beside := [run for run, other in self.jobs.items() if other.state != "finished"]:
            raise PrerequisiteError(f"run {beside[0]} of pg is open here; one at a time (EXE-3)")
        admission.admit(
            spec, self.arena.rules(self.ref), now=self.arena.clock.now(), generation_seen=self.generation_seen
        )
        self._insist_on(spec)
        self.epoch, self.generation_seen = spec.epoch, max(self.generation_seen, spec.generation)
        job = self.jobs[spec.run_id] = Job(spec, MemoryJournal(self.arena.ledger.proved))
        self.specs[spec.run_id] = spec
        self.started.append(spec.run_id)
        self._run(job)
        return "started"

    def _insist_on(self, spec: RunSpec) -> None:
        """What was admitted, judged apart from who admitted it (INV-3, INV-4, LOOP-2)."""
        now = self.arena.clock.now()
        faults = {
            f"INV-3: admitted for {spec.generation} after {self.generation_seen}": spec.generation
            < self.generation_seen,
            "LOOP-2: an expired execution was admitted": now >= spec.execution.expires_at,
            "INV-4: admitted with another plan": spec.plan.digest() != spec.execution.plan_digest,
            "INV-4: admitted on another runner": spec.execution.runner_ref != self.ref,
        }
        self.arena.violations += [fault for fault, found in faults.items() if found]

    def _run(self, job: Job) -> None:
        process = job.process = job.journal.process = Process(f"{job.spec.run_id} on {self.ref}", self.arena.loop)
        job.state = "running"
        job.journal.full = self.full
        run = Run(
            job.spec,
            job.journal,  # type: ignore[arg-type]  # the engine's journal in all that it is asked for
            self.drivers(process),
            self.arena.clock,
            on_outputs=self._outputs,
            at_boundary=lambda name: self._boundary(process, name),
        )
        process.task(self._live(job, run))

    async def _live(self, job: Job, run: Run) -> None:
        fresh = not job.journal.entries
        run.append("run-opened" if fresh else "resumed", {"admitted": True})
        try:
            await run.execute()
        except (SuspendedError, HyopsError):
            job.state = "interrupted"
            return
        spec = job.spec
        facts = RunFacts(spec.run_id, self.ref, spec.service, spec.generation, spec.plan.digest(), spec.plan)
        job.result = result_of(facts, job.journal, KEYS[f"runner:{self.ref}"])  # type: ignore[arg-type]  # as above
        job.state = "finished"
        self.arena.ended(job.result)

    def _outputs(self, outputs: Mapping[str, Any]) -> None:
        after = outputs.get("generation_after")
        if isinstance(after, int):
            self.generation_seen = max(self.generation_seen, after)

    def _boundary(self, process: Process, name: str) -> None:
        process.alive()
        self.arena.met("boundary", name.partition(":")[2])
        if self.dies_at >= 0:
            self.dies_at -= 1
            if self.dies_at < 0:
                self.arena.met("job-killed", name)
                self.reboot()
                self.boot()
                process.alive()

    def drivers(self, process: Process) -> dict[str, Driver]:
        """All native drivers of a switch, as one job has them."""
        arena, pair = self.arena, self.arena.pair
        view, probe = Tethered(QuorumView(pair, self.site), process), Tethered(SiteProbe(pair, self.site), process)
        fence = FencePorts(
            lambda _: view,
            lambda member: Tethered(RemoteAgent(pair, self.site, member.host), process),
            probe,
            KEYS[f"runner:{self.ref}"],
            arena.clock,
            self.ref,
        )
        return {
            **fence_drivers(fence),
            **cutover_drivers(CutoverPorts(Tethered(arena.dns, process), probe, arena.clock)),
        }

    def forged(self, result: RunResult) -> RunResult:
        """What comes home, perhaps changed on its way."""
        return result.model_copy(update=self.forging) if self.forging else result


class SimSession:
    """One connection from the control host. A cut verb has its effect, and then the answer is lost."""

    def __init__(self, runner: SimRunner) -> None:
        self._runner = runner

    async def reach(self) -> None:
        """Return when the runner is there."""
        runner = self._runner
        await runner.arena.clock.sleep(HOP_S)
        if not runner.up or not runner.arena.pair.net.reaches("control", runner.site):
            await runner.arena.clock.sleep(CONNECT_S)
            raise RunnerUnreachableError(f"{runner.ref} is not reached")

    def cut(self, verb: str) -> None:
        """The link is lost now, if it is this verb's turn."""
        if self._runner.cuts and self._runner.cuts[0] == verb:
            self._runner.cuts.pop(0)
            self._runner.arena.met("cut", verb)
            raise RunnerUnreachableError(f"link lost during {verb}")

    async def hello(self, **_: Any) -> RunnerHello:
        """Who it is."""
        await self.reach()
        self.cut("hello")
        span = protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX
        return RunnerHello(self._runner.ref, self._runner.site, __version__, *span, 10**9, clock=ClockSeen(0.0, 0.01))

    async def stage(self, run_id: str, files: Mapping[str, bytes]) -> StageReport:
        """Nothing to keep."""
        await self.reach()
        self.cut("stage")
        return StageReport(len(files), len(files), 0)

    async def start(self, spec: RunSpec, secrets: Mapping[str, str]) -> Literal["started", "existing"]:
        """Once per run id."""
        runner = self._runner
        if runner.cuts and runner.cuts[0] == "start-in-flight":
            runner.cuts.pop(0)
            runner.arena.met("cut", "start-in-flight")
            runner.in_flight.append(spec)
            raise RunnerUnreachableError("link lost after the start had left")
        await self.reach()
        how = runner.begin(spec)
        if how == "started":
            runner.arena.meter.effect("run-started")
        self.cut("start")
        return how

    async def attach(self, run_id: str, offset: int = 0) -> AsyncIterator[RunEvent]:
        """Its end, as long as the link stands."""
        await self.reach()
        yield RunEvent("journal", 1, {"kind": "run-opened"})
        self.cut("attach")
        while run_id in self._runner.jobs and self._runner.jobs[run_id].state == "running":
            await self._runner.arena.clock.sleep(LOOK_S)
            if not self._runner.up or not self._runner.arena.pair.net.reaches("control", self._runner.site):
                raise RunnerUnreachableError("the link died")
        yield RunEvent("end", 2, {})

    async def status(self, run_id: str) -> RunStatus:
        """Where it stands."""
        await self.reach()
        self.cut("status")
        job = self._runner.jobs.get(run_id)
        if job is None:
            return RunStatus(run_id, "absent")
        return RunStatus(run_id, job.state, outcome=str(job.result.outcome) if job.result else None)

    async def cancel(self, run_id: str, epoch: int, reason: str) -> RunStatus:
        """Not used by the loop."""
        return await self.status(run_id)

    async def collect(self, run_id: str) -> RunReturn:
        """The signed result."""
        await self.reach()
        self.cut("collect")
        job = self._runner.jobs.get(run_id)
        if job is None or job.result is None:
            raise PrerequisiteError(f"run {run_id}: there is no result yet")
        lines = b"".join(line + b"\n" for line in job.journal.lines)
        return RunReturn(self._runner.forged(job.result), lines, b"log")


class SimTransport:
    """Dials runners from the control host."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    @asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[SimSession]:
        """One connection."""
        runner = self._arena.sim_runners[runner_ref]
        if runner.host_key_changed:
            raise HostKeyError(f"host key of {runner_ref} changed")
        session = SimSession(runner)
        await session.reach()
        session.cut("connect")
        yield session
