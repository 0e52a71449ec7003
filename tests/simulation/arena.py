"""The loop and the switch together in virtual time: real stages, admission, engine, drivers, agents; fake outside.

Whatever happens, `check` holds the invariants of the specification against what really is: who acknowledged which row,
what was approved, what the vantage points had really said. It is called after every event and every turn of a stage.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Coroutine
from functools import cache
from typing import Any

from hyops.errors import HyopsError, PrerequisiteError
from hyops.model.approval import ApprovalPolicy
from hyops.model.execution import Attempt
from hyops.model.policy import ServicePolicy
from hyops.model.run import RunResult
from hyops.model.signal import Sample
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.records import Created
from hyops.ports.signals import Received
from hyops.runner.admission import Rules
from hyops.testing.clock import EPOCH
from hyops.testing.switch import MemoryDns
from simulation.hosts import HOSTS, SITE_OF, DatabasePair, Tethered
from simulation.invariants import Began, Ledger, ViolationError, check_all, check_made
from simulation.runners import RECEIPTS, SITE_OF_RUNNER, SimRunner, SimTransport, switch_plan
from simulation.virtual import Process, VirtualClock, the_loop
from simulation.world import RUNNERS, VANTAGES, VERIFIER, Crash, MeteredStore, World, policy
from switch_pair import ENDPOINT, MEMBERS

STAGES = ("decision", "dispatch", "approval", "execution")
SITE_OF_VANTAGE = {"control": "control", "witness": "control", "cloud-runner": "cloud"}
LOOK_S = 0.4
HEARD_S = 5.0
WAL_FRESH_S = 0.6


class SimStore(MeteredStore):
    """A record store as one process holds it: it may stand still before an effect, find the disk full, be dead."""

    def __init__(self, arena: Arena, process: Process, kind: str) -> None:
        super().__init__(arena.disk[kind], arena.meter, kind)
        self._arena, self._process = arena, process

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """As the store, at the mercy of the schedule."""
        self._process.alive()
        self._arena.before_create(self._process, self._kind)
        there = self._arena.disk[self._kind]
        fresh = record_id not in there.records and (slot is None or there.slot(slot) is None)
        if fresh:
            self._arena.judged(self._process, self._kind, record_id, data)
        return super().create(record_id, data, slot=slot)


class Arena(World):
    """One service, its loop on `instances` processes per stage, two runners and two database hosts."""

    def __init__(self, seed: int = 1, *, instances: int = 1, required: int = 1) -> None:
        self.loop = the_loop().fresh()
        clock = VirtualClock(self.loop)
        self.coverage: Counter[str] = Counter()
        self.ledger = Ledger(self)
        self.violations: list[str] = []
        self.processes: dict[tuple[int, str], Process] = {}
        self.began: dict[str, Began] = {}
        self.heard: dict[tuple[int, str, str], list[tuple[float, float | None, bool]]] = {}
        self.stalls: dict[str, Any] = {}
        self.full_creates = 0
        self.broken_glass = False
        self.lies: dict[str, float] = {}
        self._tasks: dict[tuple[int, str], Any] = {}
        self._booting: Process | None = None
        classes = [ReceiptClass(word) for word in RECEIPTS]
        self.pair = DatabasePair(
            self.loop, clock, random.Random(seed), VERIFIER, classes, self.ledger.promoted, self.ledger.acknowledged
        )
        self.dns = MemoryDns(dict.fromkeys(ENDPOINT.authorities, (MEMBERS[0].address, 1)))
        super().__init__(
            seed,
            instances=instances,
            approval_policy=ApprovalPolicy(allow_standing=True, required=required),
            service_policy=_policy(),
            clock=clock,
            plans=switch_plan,
        )
        self.sim_runners = {ref: SimRunner(self, ref) for ref in RUNNERS}
        self.runners = self.sim_runners  # type: ignore[assignment]  # the same place, other runners
        self.loop.let_pass(0.3)

    # what stages are made of

    def boot(self, index: int, *names: str) -> None:
        """Start (or start again) stages, each as a process of its own."""
        for name in names or STAGES:
            if (old := self.processes.get((index, name))) is not None:
                old.kill()
            self._booting = self.processes[index, name] = Process(f"{name} {index}", self.loop)
            if name == "decision":
                self.heard = {key: told for key, told in self.heard.items() if key[0] != index}
            super().boot(index, name)

    def opened(self, kind: str) -> MeteredStore:
        """See the world."""
        assert self._booting is not None
        return SimStore(self, self._booting, kind)

    def held_starts(self) -> Any:
        """See the world."""
        assert self._booting is not None
        return Tethered(self.starts, self._booting)

    def dialled(self) -> Any:
        """See the world."""
        assert self._booting is not None
        return Tethered(SimTransport(self), self._booting)

    def rules(self, ref: str) -> Rules:
        """What a runner trusts."""
        return Rules(ref, SITE_OF_RUNNER[ref], VERIFIER, self.approvers, self.approval_policy, SITE_OF)

    # turns

    def turn(self, index: int, name: str, *, slow: bool = True) -> None:
        """One pass of one stage, unless it stands still."""
        process = self.processes[index, name]
        if process.frozen or self.stalls.get(process.name) == "stalled":
            return
        stage = self.stages[index][name]
        self.began[process.name] = Began(
            self.clock.now(),
            self.clock.monotonic(),
            frozenset(self.disk["approvals"].records),
            frozenset(self.disk["attempts"].records),
            frozenset(self.disk["outcomes"].records),
        )
        try:
            if name == "decision":
                self._look_at_records(index)
            attempts = _at_once(stage.step(slow))
            if name == "execution":
                self._follow(index, attempts, slow=slow)
                stage.refuse_stuck()
        except Crash:
            self.crashed(index, name)
        except HyopsError as exc:
            self.met("step-failed", f"{name} {type(exc).__name__}")
        self.check()

    def _look_at_records(self, index: int) -> None:
        """What was seen of a primary that is none any more, or in a run's own outage, says nothing of the present."""
        stage = self.stages[index]["decision"]
        before = stage.mode
        stage.look()
        now = stage.mode
        ended = before.open_attempt is not None and before.open_attempt != now.open_attempt
        if ended or (before.primary, before.generation) != (now.primary, now.generation):
            self.heard = {key: told for key, told in self.heard.items() if key[0] != index}

    def crashed(self, index: int, name: str) -> None:
        """It died at an effect, and systemd starts it again."""
        self.met("crash", f"{name} {self.meter.log[-1]}")
        self.crashes += 1
        self.boot(index, name)

    def _follow(self, index: int, attempts: list[Attempt], *, slow: bool) -> None:
        stage, process = self.stages[index]["execution"], self.processes[index, "execution"]
        for attempt in attempts:
            self._background(index, process, attempt.attempt_id, stage.dial(attempt))
        if slow:
            self._background(index, process, "hooks", stage.finish_hooks())

    def _background(self, index: int, process: Process, key: str, work: Coroutine[Any, Any, Any]) -> None:
        running = self._tasks.get((index, key))
        if running is not None and not running.done():
            work.close()
            return

        async def survived() -> None:
            try:
                await work
            except HyopsError as exc:
                self.met("dial-failed", type(exc).__name__)
            except Crash:
                self.loop.call_soon(self.crashed, index, "execution")

        task = self._tasks[index, key] = process.task(survived())
        task.add_done_callback(lambda _: work.close())  # of one that was killed before it began

    def pump(self) -> None:
        """A turn of everybody, in an order the seed decides."""
        turns = [(index, name) for index in range(len(self.stages)) for name in STAGES]
        self.random.shuffle(turns)
        for index, name in turns:
            self.turn(index, name)
        self.loop.let_pass(0.02)
        self.check()

    # at the place of an effect

    def before_create(self, process: Process, kind: str) -> None:
        """A process may stand still here while the others go on, and a disk may be full."""
        if callable(stalled := self.stalls.get(process.name)) and not self.loop.is_running():
            self.stalls[process.name] = "stalled"
            self.met("stalled-before", kind)
            try:
                stalled()
            finally:
                del self.stalls[process.name]
            process.alive()
        if self.full_creates > 0:
            self.full_creates -= 1
            self.met("full-create", kind)
            raise PrerequisiteError("No space left on device")

    def judged(self, process: Process, kind: str, name: str, data: bytes) -> None:
        """A record that is about to be made: may it be, by what this process could know when its turn began?"""
        self.met("record", kind)
        if process.name in self.began:
            check_made(self, kind, data, self.began[process.name])

    # the outside

    def watch(self, seconds: float, *, judge: bool = True, only: set[str] | None = None) -> None:
        """Let time pass with a look of every vantage point each time."""
        for _ in range(max(1, round(seconds / LOOK_S))):
            self.loop.let_pass(LOOK_S)
            for index in range(len(self.stages)):
                process = self.processes[index, "decision"]
                if process.frozen or self.stalls.get(process.name) == "stalled":
                    continue
                self._look_all(index)
                if judge:
                    self.turn(index, "decision", slow=False)
            self.check()

    def _look_all(self, index: int) -> None:
        mode = self.stages[index]["decision"].mode
        target = next(host for host in HOSTS if host != mode.primary)
        seen, pair, now_s = self.seen, self.pair, self.clock.monotonic()
        for vantage in VANTAGES:
            if vantage in seen.silent:
                continue
            net, site = pair.net, SITE_OF_VANTAGE[vantage]
            alive = float(mode.primary in pair.writers() and net.reaches(site, SITE_OF[mode.primary]))
            alive = self.lies.get(vantage, alive)
            asked = pair.lives(target) and net.reaches(site, SITE_OF[target])
            wal_s = now_s - pair.hosts[target].database.streamed_at if seen.wal_age_s == 0.05 else seen.wal_age_s
            values: dict[str, float | None] = {
                "answers": alive,
                "wal_received": wal_s if asked else None,
                "lag_bytes": seen.lag_bytes if asked else None,
            }
            if vantage == "witness":  # it watches the primary alone
                values = {"answers": alive}
            for signal, value in values.items():
                self._tell(index, vantage, signal, None if vantage in seen.error else value)

    def _tell(self, index: int, vantage: str, signal: str, value: float | None) -> None:
        key, now_s, healthy = (index, vantage, signal), self.clock.monotonic(), vantage not in self.seen.unwell
        number = self._sequence[f"{index}{vantage}", signal] = self._sequence.get((f"{index}{vantage}", signal), -1) + 1
        body = {"vantage": vantage, "signal": signal, "sequence": number, "taken_at": self.clock.now(), "value": value}
        more = {"error": "unknown" if value is None else None, "healthy_vantage": healthy}
        sample = _sample(body | more)
        told = self.heard.setdefault(key, [])
        told.append((now_s, value, healthy))
        if told[0][0] < now_s - 2 * HEARD_S:
            self.heard[key] = [t for t in told if t[0] >= now_s - HEARD_S]
        self.stages[index]["decision"].take(Received(sample, now_s))

    def records(self, kind: str, model: Any) -> list[Any]:
        """See the world; without what a schedule put there under a name that is not its own."""
        strange = [name for name in self.disk[kind].records if name.startswith("forged-")]
        return super().records(kind, model) if not strange else self._genuine(kind, model, strange)

    def _genuine(self, kind: str, model: Any, strange: list[str]) -> list[Any]:
        store = self.disk[kind]
        kept = {name: store.records.pop(name) for name in strange}
        try:
            return super().records(kind, model)
        finally:
            store.records.update(kept)

    # what is met

    def met(self, kind: str, what: str = "") -> None:
        """One more of this in the coverage table."""
        self.coverage[f"{kind}: {what}" if what else kind] += 1

    def ended(self, result: RunResult) -> None:
        """A job wrote its result."""
        self.met("run-ended", f"{result.outcome} {result.exit_code}")

    def check(self) -> None:
        """The invariants, now."""
        if self.violations:
            raise ViolationError(self.violations[0])
        check_all(self)


@cache
def _policy() -> ServicePolicy:
    """The one of the small simulation, with fewer looks, each of them at most one gap old."""
    plain = policy(receipts=list(RECEIPTS)).body()
    signals = [signal for signal in plain["signals"] if signal["name"] != "port"]
    for signal in signals:
        if signal["name"] != "answers":
            signal["vantages"] = ["control", "cloud-runner"]
    return policy(receipts=list(RECEIPTS), signals=signals)


_PLAIN = Sample(vantage="control", signal="answers", sequence=0, taken_at=EPOCH, value=1.0)


def _sample(body: dict[str, Any]) -> Sample:
    """A sample whose values are good by construction."""
    made = _PLAIN.model_copy()
    made.__dict__.update(body)
    return made


def _at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a step of a stage waits for something")
