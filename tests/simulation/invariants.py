"""SPEC section 1 over an arena, computed apart from the product: by rows, signatures, samples and times.

- INV-1: acknowledged rows are ordered by generation, each generation has one host, and no acknowledged row is missing
  from the host that was promoted last, but for those that an unplanned promotion is known to have left behind.
- INV-2: whoever is promoted is so by a run with a receipt, and at that moment the other host can acknowledge nothing.
- INV-3: generation, epochs and the name's record never go back, and the name leads to no host of another one.
- INV-4: what runs is what people signed, enough of them, none of whom said no.
- INV-5: a move that the loop decides was really seen by a quorum, for long enough, without a gap.
- INV-7 and EXE-3: one record answers another once; one run at a time; a success is a run's, a refusal is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.hold import HoldRecord
from hyops.model.plan import Plan
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, DrMode, Level, Occasion, Outcome
from hyops.testing.evidence import SeedApprovals
from simulation.hosts import ADDRESSES, HOSTS
from simulation.world import VANTAGES

if TYPE_CHECKING:
    from simulation.arena import Arena

FUTURE_S = 300.0
NO_GAP_S = 1.2


class ViolationError(BaseException):
    """An invariant does not hold. No stage may take it for a fault of the record that it is about, and go on."""


def insist(holds: object, what: str) -> None:
    """Raise when it does not hold."""
    if not holds:
        raise ViolationError(what)


@dataclass(frozen=True)
class Began:
    """When a turn of a stage began, and what lay there then: by that it may judge, however long it stands still."""

    at: datetime
    at_s: float
    approvals: frozenset[str]
    attempts: frozenset[str]
    outcomes: frozenset[str]


class Ledger:
    """What clients were told, and who was promoted with what."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.owed: list[str] = []
        self.lost: dict[int, int] = {}
        self.top = (0, "onprem-db")
        self.promotions: list[tuple[int, str]] = [(1, "onprem-db")]
        self.rows = 0

    def acknowledged(self, host: str, generation: int, row: str) -> None:
        """A client was told that this row is committed."""
        top, holder = self.top
        if self._arena.broken_glass and (generation, host) != self.promotions[-1]:
            self._arena.met("lost-by-broken-glass")  # people accepted it, by name
            return
        if generation < top:
            self._broken(f"INV-1: {host} acknowledged a row under {generation}, after {holder} did under {top}")
        elif generation == top and host != holder:
            self._broken(f"INV-1: {host} and {holder} both acknowledged rows under generation {top}")
        self.top = (generation, host)
        self.owed.append(row)
        self.rows += 1

    def promoted(self, host: str) -> None:
        """A server is about to become primary."""
        arena = self._arena
        it = arena.pair.hosts[host]
        generation = it.agent.state.generation
        missing = set(self.owed) - set(it.database.rows)
        arena.met("promoted", host)
        self.promotions.append((generation, host))
        glass = arena.broken_glass
        for other in HOSTS:
            if other != host and not glass and would_write(arena, other):
                self._broken(f"INV-2: {host} is promoted while {other} would acknowledge a write")
        holder = arena.pair.store._services["pg"].holder
        if holder is None or holder[:2] != (host, generation):
            self._broken(f"INV-3: {host} is promoted under {generation} without its lease ({holder})")
        run = arena.pair.store._services["pg"].changed_by
        spec = next((r.specs[run] for r in arena.sim_runners.values() if run in r.specs), None)
        if spec is None:
            self._broken(f"INV-2: {host} is promoted by {run}, which is no run")
            return
        self._receipt(spec, host, generation)
        if missing and spec.occasion is Occasion.PLANNED:
            self._broken(f"INV-1: a planned switch lost {len(missing)} rows")
        if missing:
            arena.met("rows-lost-and-counted")
        self.lost[generation] = len(missing)
        self.owed = [row for row in self.owed if row not in missing]

    def _receipt(self, spec: RunSpec, host: str, generation: int) -> None:
        receipts = [
            entry.body["outputs"]["receipt"]
            for runner in self._arena.sim_runners.values()
            for run_id, job in runner.jobs.items()
            if run_id == spec.run_id
            for entry in job.journal.entries
            if entry.kind == "outcome" and "receipt" in entry.body.get("outputs", {})
        ]
        if not receipts:
            self._broken(f"INV-2: {host} is promoted by {spec.run_id} without a receipt")
            return
        (receipt,) = receipts[-1:]
        self._arena.met("receipt", receipt["receipt_class"])
        if (receipt["next_generation"], receipt["target"]) != (generation, host) or receipt["host"] == host:
            self._broken(f"INV-2: {host} is promoted to {generation} with a receipt for something else")
        glass = any(a.statement.verdict == "break-glass" for a in spec.approvals)
        if receipt["receipt_class"] == "break-glass" and not glass:
            self._broken(f"INV-2: {host} is promoted by a broken glass that nobody broke")
        said = {o["how"]: o for o in receipt["observations"]}
        proofs = {"observed": {"fence-agent", "write-probe"}, "lease-expired": {"lease-store", "write-probe"}}
        if missing := proofs.get(receipt["receipt_class"], set()) - set(said):
            self._broken(f"INV-2: a receipt of class {receipt['receipt_class']} without {sorted(missing)}")
        if said.get("write-probe", {}).get("facts", {}).get("verdict") == "accepted":
            self._broken("INV-2: a receipt although a write was accepted")

    def proved(self, receipt: Mapping[str, Any]) -> None:
        """A run has written a receipt down: it says what is so at this very moment (FEN-1)."""
        if receipt["receipt_class"] == "break-glass":
            self._arena.broken_glass = True
        elif would_write(self._arena, receipt["host"]):
            self._broken(f"FEN-1: a receipt says {receipt['receipt_class']}, and {receipt['host']} acknowledges writes")
        holder = self._arena.pair.store._services["pg"].holder
        held = holder is not None and holder[0] == receipt["host"] and holder[1] <= receipt["generation"]
        left_s = self._arena.pair.store._services["pg"].expires_at - self._arena.clock.monotonic()
        if held and left_s > 0 and receipt["receipt_class"] == "lease-expired":
            self._broken(f"FEN-1: a receipt says lease-expired, and {receipt['host']} holds it for {left_s:.2f} s more")

    def _broken(self, what: str) -> None:
        self._arena.violations.append(what)

    def check(self) -> None:
        """No row that was acknowledged is gone from who was promoted last."""
        _, host = self.promotions[-1]
        database = self._arena.pair.hosts[host].database
        if database.standby:  # it is about to be
            return
        if gone := set(self.owed) - set(database.rows):
            raise ViolationError(f"INV-1: {len(gone)} acknowledged rows are not on {host}, e.g. {min(gone)}")


def check_all(arena: Arena) -> None:
    """All that can be said at any moment."""
    arena.ledger.check()
    _check_names(arena)
    if arena._checked != (arena.meter.done, arena.crashes):
        arena._checked = (arena.meter.done, arena.crashes)
        _check_records(arena)
    if arena.violations:
        raise ViolationError(arena.violations[0])


def _check_names(arena: Arena) -> None:
    stands = arena.pair.store._services["pg"].generation
    before = arena.__dict__.setdefault("_high", {"store": 1, "dns": 1})
    address, generation = arena.dns.records["dns:53"]
    insist(stands >= before["store"], f"INV-3: the quorum's generation went back from {before['store']} to {stands}")
    insist(generation >= before["dns"], f"INV-3: the name went back from {before['dns']} to {generation}")
    before.update(store=stands, dns=generation)
    hosts = {host for number, host in arena.ledger.promotions if number == generation}
    insist({ADDRESSES[host] for host in hosts} == {address}, f"INV-3: the name leads to {address} under {generation}")
    running = [r for runner in arena.sim_runners.values() for r, job in runner.jobs.items() if job.state != "finished"]
    insist(len(running) <= 1, f"EXE-3: two runs at a time: {running}")


def _check_records(arena: Arena) -> None:
    decisions = arena.records("decisions", Decision)
    requests = arena.records("requests", DispatchRequest)
    executions = arena.records("executions", Execution)
    attempts = arena.records("attempts", Attempt)
    outcomes = arena.records("outcomes", AttemptOutcome)
    _once("decision per incident", [d.incident for d in decisions if d.incident])
    _once("request per decision", [r.source_decision_digest for r in requests])
    _once("execution per request", [e.source_request_digest for e in executions])
    _once("attempt per execution", [a.source_execution_id for a in attempts])
    _once("outcome per attempt", [o.attempt_id for o in outcomes if o.reconciles is None])
    _once("proof per attempt", [o.attempt_id for o in outcomes if o.reconciles])
    specs = {run: spec for runner in arena.sim_runners.values() for run, spec in runner.specs.items()}
    _once("run", [run for runner in arena.sim_runners.values() for run in runner.started])
    recorded = {a.run_id: a for a in attempts}
    for run_id, spec in specs.items():
        insist(run_id in recorded, f"INV-7: run {run_id} without an attempt on disk")
        insist(run_id == spec.run_id == spec.execution.run_id(), f"INV-4: run under another id: {run_id}")
        insist(spec.plan.digest() == spec.request.plan_digest, f"INV-4: {run_id} runs another plan")
        insist(spec.execution.execution_id in arena.disk["executions"].records, f"INV-4: {run_id} of no execution")
    closed = {o.attempt_id for o in outcomes}
    active = [a.attempt_id for a in attempts if a.attempt_id not in closed]
    insist(len(active) <= 1, f"EXE-3: two active attempts: {active}")
    for outcome in outcomes:
        job = next((r.jobs[outcome.run_id] for r in arena.sim_runners.values() if outcome.run_id in r.jobs), None)
        proved = job is not None and job.result is not None and job.result.outcome is outcome.outcome
        signed = job is not None and job.result is not None and job.result.body() == outcome.result
        insist(not outcome.result or signed, f"RUN-6: the outcome of {outcome.run_id} is not what was signed")
        insist(outcome.outcome is not Outcome.SUCCEEDED or proved, f"VOC-5: {outcome.run_id} did not succeed")
        insist(outcome.outcome is not Outcome.REFUSED or job is None or proved, f"VOC-5: {outcome.run_id} runs")


def _once(what: str, keys: list[Any]) -> None:
    insist(len(keys) == len(set(keys)), f"INV-7: more than one {what}: {[k for k in keys if keys.count(k) > 1][:1]}")


def would_write(arena: Arena, host: str) -> bool:
    """Whether a client would get an answer to a write there, now or when it thaws."""
    it = arena.pair.hosts[host]
    return it.up and it.edge.passes() and it.database.role() == "primary"


def check_made(arena: Arena, kind: str, data: bytes, began: Began) -> None:
    """A record that is about to be made: may it be, by what its maker could know when its turn began?"""
    if kind == "decisions":
        _check_decision(arena, Decision.read(data), began)
    elif kind == "requests":
        _check_request(arena, DispatchRequest.read(data), began)
    elif kind == "executions":
        _check_execution(arena, Execution.read(data), began)
    elif kind == "attempts":
        _check_attempt(arena, Attempt.read(data), began)


@dataclass(frozen=True)
class Stands:
    """Where the service is by the records that were there."""

    generation: int
    open: frozenset[str]
    unknown: bool


def _stood(arena: Arena, began: Began) -> Stands:
    outcomes = [o for o in arena.records("outcomes", AttemptOutcome) if o.outcome_id in began.outcomes]
    closed = {o.attempt_id for o in outcomes}
    generation = max([1, *(o.generation_after or 0 for o in outcomes)])
    answered = {o.reconciles for o in outcomes if o.reconciles}
    unknown = any(
        o.outcome is Outcome.UNKNOWN and o.outcome_id not in answered and o.generation_before >= generation
        for o in outcomes
    )
    return Stands(generation, began.attempts - closed, unknown)


def _held(arena: Arena, began: Began) -> bool:
    """Whether a hold stood all the while: signed before it began, not over by then, and ended by nobody."""
    said = list(arena.records("holds", HoldRecord))
    over = {record.statement.ends for record in said}
    return any(
        record.hold_id not in over and record.statement.signed_at < began.at < record.statement.until
        for record in said
        if record.statement.until is not None
    )


def _check_decision(arena: Arena, decision: Decision, began: Began) -> None:
    """A move that nobody asked for and that is not denied was really seen, by a quorum, without a gap (INV-5)."""
    moves = decision.decision_type in (DecisionType.FAILOVER, DecisionType.FAILBACK)
    arena.met("decided", f"{decision.decision_type} {decision.occasion} {decision.dr_mode or ''}".strip())
    stood = _stood(arena, began)
    acts = decision.decision_type is not DecisionType.HOLD
    insist(not (acts and _held(arena, began)), "DEC-6: decided in a hold")
    insist(not stood.open, "DEC-6: decided while a run is open")
    insist(not stood.unknown, "VOC-5: decided although nobody knows how a run ended")
    insist(decision.generation == stood.generation, "GEN-1: decided under another generation")
    if not moves or decision.dr_mode is DrMode.DENY:
        return
    if decision.occasion is Occasion.PLANNED:
        insist(decision.level is not Level.TRIGGER, "INV-5: the way back is only ever recommended")
        return
    seeing = [_saw_it_lost(arena, index, began.at_s) for index in range(len(arena.stages))]
    insist(any(seeing), "INV-5: a failover that no quorum of healthy vantage points saw for long enough")


def _check_request(arena: Arena, request: DispatchRequest, began: Began) -> None:
    """It answers a decision that is there, not too old, and not denied (LOOP-2, DSP-4)."""
    decision = Decision.read(arena.disk["decisions"].records.get(request.source_decision_id, b""))
    insist(decision.digest() == request.source_decision_digest, "DSP-2: a request for other bytes")
    late = decision.expires_at is not None and began.at >= decision.expires_at
    insist(not late, "LOOP-2: a request for an expired decision")
    denied = decision.dr_mode is DrMode.DENY
    insist(not denied or request.status == "denied", "DEC-4: a request that may run for a decision that denies")
    signed = decision.signature is not None
    insist(signed or request.requires_approval, "DSP-3: nobody has to approve what anybody may have written")


def _check_attempt(arena: Arena, attempt: Attempt, began: Began) -> None:
    """For the present generation, in time, not in a hold or after a no, and while no other is open or unknown (EXE-3,
    INV-3, VOC-5, DEC-6)."""
    stood = _stood(arena, began)
    execution = Execution.read(arena.disk["executions"].records.get(attempt.source_execution_id, b""))
    insist(execution.digest() == attempt.source_execution_digest, "INV-4: an attempt of other bytes")
    insist(attempt.generation == stood.generation, f"INV-3: an attempt for {attempt.generation} at {stood.generation}")
    insist(began.at < execution.expires_at, "LOOP-2: an attempt of an expired execution")
    request = DispatchRequest.read(arena.disk["requests"].records.get(attempt.source_dispatch_id, b""))
    decided = Decision.read(arena.disk["decisions"].records.get(request.source_decision_id, b""))
    by_itself = decided.requested_by is None
    insist(not (by_itself and _held(arena, began)), "DEC-6: an attempt in a hold")
    insist(not _rejected(arena, request, began), "INV-4: an attempt although somebody said no")
    insist(not stood.open, "EXE-3: an attempt beside an open one")
    insist(not stood.unknown, "VOC-5: an attempt although nobody knows how the one before it ended")
    plan = arena.disk["plans"].records.get(execution.plan_digest.removeprefix("sha256:"), b"")
    insist(Plan.read(plan).digest() == execution.plan_digest, "INV-4: an attempt of a plan that was changed")


def _rejected(arena: Arena, request: DispatchRequest, began: Began) -> bool:
    said = [approval for name in began.approvals if (approval := _read(arena, name)) is not None]
    return any(one.statement.verdict == "reject" and _genuine(arena, one, request) for one in said)


def _saw_it_lost(arena: Arena, index: int, at_s: float) -> bool:
    policy = arena.policy
    lost = 0
    for vantage in VANTAGES:
        told = [t for t in arena.heard.get((index, vantage, "answers"), []) if t[0] <= at_s]
        bad: list[float] = []
        for when, value, healthy in reversed(told):
            if value != 0.0 or not healthy or (bad and bad[-1] - when > NO_GAP_S):
                break
            bad.append(when)
        fresh = bool(bad) and at_s - bad[0] <= NO_GAP_S
        lost += fresh and len(bad) >= 2 and at_s - bad[-1] >= policy.confirm_for_s
    latest = {v: arena.heard.get((index, v, "wal_received"), [(0.0, None, False)])[-1] for v in VANTAGES}
    known = [value for when, value, ok in latest.values() if value is not None and ok and at_s - when <= NO_GAP_S]
    arrives = bool(known) and all(value <= 0.6 for value in known)
    lags = [arena.heard.get((index, v, "lag_bytes"), [(0.0, None, False)])[-1] for v in VANTAGES]
    behind = [v for when, v, ok in lags if v is not None and ok and at_s - when <= NO_GAP_S and v > 1e6]
    good = [v for when, v, ok in lags if v is not None and ok and at_s - when <= NO_GAP_S and v <= 1e6]
    return lost >= policy.quorum and not arrives and bool(known) and not behind and bool(good)


def _check_execution(arena: Arena, execution: Execution, began: Began) -> None:
    """Enough people said yes to these bytes, in time, and nobody no, by what lay there when the turn began (INV-4)."""
    now, there = began.at, began.approvals
    stored = arena.disk["requests"].records.get(execution.source_dispatch_id)
    insist(stored is not None, "INV-4: an execution of no request")
    request = DispatchRequest.read(stored or b"")
    insist(request.digest() == execution.source_request_digest, "INV-4: an execution of other bytes")
    insist(request.plan_digest == execution.plan_digest, "INV-4: an execution of another plan")
    insist(request.status != "denied", "INV-4: an execution of a denied request")
    insist(now < request.expires_at, "LOOP-2: an execution of an expired request")
    people, glass = set[str](), set[str]()
    withdrawn = set[str]()
    for name in sorted(there):
        approval = _read(arena, name)
        if approval is None or not _genuine(arena, approval, request):
            continue
        statement = approval.statement
        if statement.verdict == "reject":
            insist(False, f"INV-4: an execution although {statement.approver} said no")
        elif statement.verdict == "withdraw":
            withdrawn.add(statement.approver)
        elif _counts(arena, statement, request, now):
            (glass if statement.verdict == "break-glass" else people).add(statement.approver)
    people, glass = people - withdrawn, glass - withdrawn
    needed = max(arena.approval_policy.required, request.approvals_needed)
    enough = (len(people) >= needed and bool(people - {request.requester})) or bool(glass)
    arena.met("execution", execution.approval.mode)
    insist(enough, f"INV-4: {sorted(people)} of {needed} said yes to {request.dispatch_id}")


def _read(arena: Arena, name: str) -> Approval | None:
    data = arena.disk["approvals"].records.get(name, b"")
    try:
        approval = Approval.read(data)
    except Exception:  # noqa: BLE001  # whatever it is, it is no approval
        return None
    return approval if approval.approval_id == name else None


def _genuine(arena: Arena, approval: Approval, request: DispatchRequest) -> bool:
    statement = approval.statement
    signed = approval.ssh_signature == SeedApprovals.sign(statement.approver, statement.signed_bytes())
    role = "break-glass" if statement.verdict == "break-glass" else "approver"
    may = role in arena.approvers.roles.get(statement.approver, ())
    standing = statement.verdict == "standing" and statement.service == request.service
    return signed and may and (standing or statement.request_digest == request.digest())


def _counts(arena: Arena, statement: Any, request: DispatchRequest, now: datetime) -> bool:
    in_time = statement.signed_at <= now + timedelta(seconds=FUTURE_S) and now < statement.expires_at
    same = statement.plan_digest == request.plan_digest
    told = set(request.warnings) <= set(statement.acknowledged_warnings)
    if statement.verdict != "standing":
        young = (now - statement.signed_at).total_seconds() <= arena.approval_policy.max_age_s
        return in_time and same and told and young
    for_it = request.decision_type in statement.decision_types and request.occasion in statement.occasions
    whole = request.source_decision_signed and request.level is Level.TRIGGER
    lasts_s = (statement.expires_at - statement.signed_at).total_seconds()
    return in_time and same and told and for_it and whole and lasts_s <= arena.approval_policy.standing_max_s
