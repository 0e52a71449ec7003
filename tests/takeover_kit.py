"""Standby orders as the stages seal them, people who approve them, and a runner that takes over; with seed keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hyops.control.dispatch import Routed, route
from hyops.control.standby import order_of, standby_decision, standby_inputs
from hyops.model import canonical
from hyops.model.approval import Approval
from hyops.model.base import Record
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.observed import Mode
from hyops.model.plan import Plan
from hyops.model.policy import Lease, ServicePolicy
from hyops.model.routes import Routes
from hyops.model.run import RunResult, RunSpec
from hyops.model.takeover import StandbyOrder
from hyops.model.vocabulary import Outcome
from hyops.ports.lease import LeaseStore
from hyops.runner import orders
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders
from hyops.services.takeover import Parts, RunnerTakeover
from hyops.services.takeover_paper import Paper
from hyops.services.takeover_trust import refuse_unsealed
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals
from hyops.testing.lease import MemoryLeaseStore
from hyops.testing.runs import approval_of, plan_of, step
from hyops_lab.wiring import service

BOB, EVE = "bob@example.org", "eve@example.org"
POLICY = ServicePolicy.of(service.policy())
RUNNER, SOURCE = "cloud-runner", "onprem-db"
GENERATION = 7
MODE = Mode(generation=GENERATION, primary=SOURCE)
ROUTES = Routes.of(service.routes())
JUDGE = partial(refuse_unsealed, verifier=VERIFIER)


def plan_for(runner_ref: str = RUNNER, *names: str) -> Plan:
    """Steps that do nothing much, with the inputs of a switch."""
    shared = service.policy()
    inputs = {"source": SOURCE, "target": "cloud-db", "lease": shared["lease"], "members": shared["members"]}
    made = plan_of([step(name) for name in names or ("a", "b")], inputs=inputs)
    return made.model_copy(update={"runner_ref": runner_ref, "blueprint_ref": service.BLUEPRINT})


def order_for(
    at: datetime, *, mode: Mode = MODE, runner_ref: str = RUNNER, plan: Plan | None = None, routes: Routes = ROUTES
) -> StandbyOrder:
    """One order, as decision stage and dispatcher seal it."""
    inputs = standby_inputs(POLICY, mode, runner_ref, at)
    decision = sign_record(standby_decision(inputs), STAGES["decision"])
    made = plan or plan_for(runner_ref)
    found = route(
        decision,
        source_file=f"{decision.decision_id}.json",
        signed=True,
        routes=routes,
        plan_for=lambda chosen, decided: made,
        now=at,
        max_age_s=1e9,
        standby=True,
    )
    assert isinstance(found, Routed), found
    return order_of(decision, inputs, sign_record(found.request, STAGES["dispatch"]), made)


def resigned(order: StandbyOrder, part: Literal["decision", "request"], **change: object) -> StandbyOrder:
    """The order with a record changed by somebody who holds that stage's key."""
    record: Record = getattr(order, part)
    role = "decision" if isinstance(record, Decision) else "dispatch"
    return order.model_copy(update={part: sign_record(record.model_copy(update=change), STAGES[role])})


def said(order: StandbyOrder, at: datetime, *people: str, **statement: object) -> list[Paper]:
    """What these people signed about an order, as files."""
    made = [approval_of(order.request, at, approver=person, **statement) for person in people]  # type: ignore[arg-type]
    return [paper(approval) for approval in made]


def paper(approval: Approval) -> Paper:
    """One approval as a file."""
    return Paper(f"{approval.statement.approver}.json", approval.encoded())


class Crashed(BaseException):
    """The process was killed here."""


class KeptLease(MemoryLeaseStore):
    """A quorum that stays when a client closes its connections."""

    async def close(self) -> None:
        """Nothing."""


@dataclass
class Survivor:
    """A runner in the other site. `quorum` None: nobody answers. What it starts is noted, and admitted."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    people: tuple[str, ...] = (APPROVER, BOB)
    roles: frozenset[str] = frozenset({"approver"})
    started: list[RunSpec] = field(default_factory=list)
    crash_at: str | None = None
    config_more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lease = KeptLease(self.clock)

    @property
    def config(self) -> RunnerConfig:
        """Its own file, written anew."""
        path = self.folder / "runner.json"
        for name in ("keys", "signers", "approvers", "signing"):
            (self.folder / name).touch()
        path.write_text(
            json.dumps(
                {
                    "runner_ref": RUNNER,
                    "site": "cloud",
                    "root": str(self.folder / "root"),
                    "signing_key": str(self.folder / "signing"),
                    "trusted_keys": str(self.folder / "keys"),
                    "allowed_signers": str(self.folder / "signers"),
                    "approvers": str(self.folder / "approvers"),
                    "secrets_dir": str(self.folder / "secrets"),
                    "disk_free_min_bytes": 1024,
                    "host_sites": {"onprem-db": "onprem", "cloud-db": "cloud"},
                    **self.config_more,
                }
            )
        )
        return RunnerConfig.load(path)

    @property
    def folders(self) -> Folders:
        """Its folders."""
        found = Folders(self.folder / "root", self.folder / "secrets")
        found.make()
        return found

    def quorum(self, lease: Lease) -> LeaseStore:
        """What the survivors' etcd says."""
        return self.lease

    def take(self) -> RunnerTakeover:
        """A new process of `hyops takeover`."""

        def boundary(name: str) -> None:
            if name == self.crash_at:
                self.crash_at = None
                raise Crashed(name)

        def start(spec: bytes) -> Literal["started", "existing"]:
            self.started.append(RunSpec.read(spec))
            return "started"

        approvals = SeedApprovals(*self.people, roles=self.roles)
        signer = STAGES[f"runner:{RUNNER}"]
        return RunnerTakeover(self.config, Parts(VERIFIER, approvals, signer, self.clock, self.quorum, start, boundary))

    def hold(self, *held: StandbyOrder) -> None:
        """An executor brought these."""
        for order in held:
            orders.keep(self.config, self.folders, order.encoded(), JUDGE)

    def plant(self, *planted: StandbyOrder) -> None:
        """They came to lie here in some other way, and nobody looked at them."""
        for order in planted:
            (self.folders.orders / f"{order.order_id}.json").write_bytes(order.encoded())

    def begun(self, spec: RunSpec) -> Path:
        """The folder of a run whose job is about to begin."""
        self.folders.raise_seen(spec.service)
        folder = self.folders.run(spec.run_id)
        folder.mkdir(mode=0o700)
        (folder / "spec.json").write_bytes(canonical.encode(spec.body()))
        return folder

    def ended(self, spec: RunSpec, outcome: Outcome, exit_code: int, **more: object) -> None:
        """Its job has come to an end."""
        at = self.clock.now()
        result = RunResult(
            run_id=spec.run_id, runner_ref=RUNNER, service=spec.service, generation_before=spec.generation,
            outcome=outcome, exit_code=exit_code, started_at=at, ended_at=at, steps=[], journal_records=0,
            journal_head="sha256:" + "0" * 64, plan_digest=spec.plan.digest(), **more,  # type: ignore[arg-type]
        )  # fmt: skip
        (self.begun(spec) / "result.json").write_bytes(sign_record(result, STAGES[f"runner:{RUNNER}"]).encoded())

    def run(self, papers: Sequence[Paper], *, by: str = APPROVER, order_id: str | None = None) -> RunSpec:
        """`hyops takeover run`."""
        return self.take().run(order_id, None, papers, by=by, reason="both are gone")


def later(at: datetime, seconds: float) -> datetime:
    """So much after."""
    return at + timedelta(seconds=seconds)
