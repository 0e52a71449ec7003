"""The four stages of the control loop as real processes on a temporary directory or an etcd: no root, no lab.

Every stage is `hyops service run <stage>` with its own configuration and key, as its unit would start it. The executor
records attempts and dials nobody (mode `dry-run`): what is measured ends where the attempt is durable.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.etcd import fill
from hyops.adapters.approval_ssh import SshApprovalVerifier, sign
from hyops.adapters.signer_ed25519 import Ed25519Signer
from hyops.compose import record_store
from hyops.compose_loop import planner
from hyops.control.approval import execution_of, judge
from hyops.control.approval import slot_of as execution_slot
from hyops.control.dispatch import Routed, route
from hyops.control.dispatch import slot_of as request_slot
from hyops.control.execution import Record, Seen, next_action
from hyops.control.hearing import Heard, Verified
from hyops.model import ids
from hyops.model.approval import Approval, ApprovalPolicy, ApprovalStatement
from hyops.model.base import Record as AnyRecord
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.etcd import EtcdStore
from hyops.model.execution import Attempt, Execution
from hyops.model.observed import Mode
from hyops.model.plan import Plan
from hyops.model.routes import Routes
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, Level, Occasion
from hyops.ports.records import RecordStore
from hyops.services.config import Home
from hyops.services.config_requests import DispatchConfig
from hyops_lab.wiring import service
from hyops_lab.wiring.keys import APPROVER, KeyRing

SERVICE, RUNNER = "pg", "cloud-runner"
STAGES = ("decision", "dispatch", "approval", "execution")
CATALOG = Path(__file__).parent.parent / "catalog"
READY_LIMIT_S = 300.0


@dataclass(frozen=True)
class Chain:
    """One decision with what follows from it."""

    decision: Decision
    request: DispatchRequest
    execution: Execution
    attempt: Attempt
    slot: str

    def places(self) -> Iterator[tuple[str, str, AnyRecord, str | None]]:
        """Stage, kind, record and slot of each."""
        yield "decision", "records", self.decision, None
        yield "dispatch", "requests", self.request, request_slot(self.decision)
        yield "approval", "executions", self.execution, execution_slot(self.request)
        yield "execution", "attempts", self.attempt, self.slot


class Stages:
    """A control host's folders, keys and configurations below one folder, for no-op plans under a standing approval."""

    def __init__(
        self, folder: Path, *, runner: str = RUNNER, ring: KeyRing | None = None, etcd: EtcdStore | None = None
    ) -> None:
        """All for plans that run on `runner`; with `ring`, keys that are there already; with `etcd`, records there."""
        self.folder, self.runner, self.ring, self.etcd = folder, runner, ring or KeyRing(folder / "ring"), etcd
        folder.mkdir(exist_ok=True)
        self.ring.make()
        self.signers = {stage: Ed25519Signer.load(self.ring.folder / f"{stage}.pem") for stage in STAGES}
        for stage in STAGES:
            self.config(stage).write_text(json.dumps({**self._common(stage), **getattr(self, f"_{stage}")()}))
        self.routes = Routes.of(self._dispatch()["routes"])
        self.plan = self._plan()

    def store(self, stage: str, kind: str) -> RecordStore:
        """Where a stage keeps one kind of record."""
        return record_store(Home.kept_in(str(self.folder / stage), stage, self.etcd), kind)

    def directory(self, stage: str, kind: str) -> Path:
        """The folder of one kind of record, where records are in files."""
        return self.folder / stage / "state" / kind

    def config(self, stage: str) -> Path:
        """The stage's configuration file."""
        return self.folder / f"{stage}.json"

    def decision(self, at: datetime, name: str) -> Decision:
        """A signed decision to run the no-op plan, as the decision stage would make it."""
        decision = Decision(
            schema="hyops/decision/v1",
            decision_id=ids.derived("decision", at, name, "failover"),
            timestamp_utc=at,
            expires_at=at + timedelta(hours=1),
            decision_type=DecisionType.FAILOVER,
            level=Level.TRIGGER,
            occasion=Occasion.UNPLANNED,
            service=SERVICE,
            generation=1,
            rationale=f"bench {name}",
        )
        return sign_record(decision, self.signers["decision"])

    def stand(self) -> Verified:
        """Sign the plan beforehand, with OpenSSH as a person does, hand it in, and check it as the stage will."""
        now = datetime.now(UTC)
        statement = ApprovalStatement(
            verdict="standing",
            approver=APPROVER,
            signed_at=now,
            expires_at=now + timedelta(days=1),
            plan_digest=self.plan.digest(),
            service=SERVICE,
            decision_types=[DecisionType.FAILOVER],
            occasions=[Occasion.UNPLANNED],
        )
        approval = Approval.signed(statement, sign(statement.signed_bytes(), self.ring.folder / "approver"))
        self.store("approval", "approvals").create(approval.approval_id, approval.encoded())
        verifier = SshApprovalVerifier(
            allowed_signers=self.ring.folder / "allowed_signers", approvers=self.ring.folder / "approvers.json"
        )
        return Verified(approval, verifier.verify(APPROVER, statement.signed_bytes(), approval.ssh_signature, now))

    def chains(self, count: int, approval: Verified) -> None:
        """That many old decisions, each requested, approved and attempted long ago."""
        at, sync = datetime.now(UTC) - timedelta(minutes=30), os.fsync
        chains = (self.chain(approval, at, f"old {number}") for number in range(count))
        if self.etcd is not None:
            fill(self.etcd, [place for chain in chains for place in chain.places()])
            return
        os.fsync = lambda fd: None  # what was written for the bench need not survive a power cut
        try:
            for chain in chains:
                for stage, kind, record, slot in chain.places():
                    self.store(stage, kind).create(record.record_id, record.encoded(), slot=slot)
        finally:
            os.fsync = sync

    def chain(self, approval: Verified, at: datetime, name: str) -> Chain:
        """A decision and all that follows from it, made by the stages' own pure functions."""
        decision = self.decision(at, name)
        found = route(
            decision, source_file=f"{decision.decision_id}.json", signed=True, routes=self.routes,
            plan_for=lambda _route, _decision: self.plan, now=at, max_age_s=3600.0,
        )  # fmt: skip
        assert isinstance(found, Routed)
        request = sign_record(found.request, self.signers["dispatch"])
        verdict = judge(request, Heard((approval,)), ApprovalPolicy(allow_standing=True), datetime.now(UTC))
        execution = sign_record(execution_of(request, verdict, at), self.signers["approval"])
        action = next_action(Seen(execution, "dry-run", at, Mode(generation=1, primary="onprem-db"), 0, 1))
        assert isinstance(action, Record)
        attempt = sign_record(action.attempt, self.signers["execution"])
        return Chain(decision, request, execution, attempt, action.slot)

    def spec(self, approval: Verified, name: str, *, epoch: int) -> RunSpec:
        """What the executor would send to the runner."""
        made = self.chain(approval, datetime.now(UTC), name)
        return RunSpec(
            run_id=made.attempt.run_id,
            epoch=epoch,
            service=SERVICE,
            generation=1,
            occasion=made.decision.occasion,
            plan=self.plan,
            execution=made.execution,
            request=made.request,
            decision=made.decision,
            approvals=[approval.approval],
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """All four stages, each ready as it tells systemd; ended by their own process ids."""
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for stage in STAGES:
                started[stage] = self._start(stage)
            yield started
        finally:
            for process in started.values():
                process.terminate()
            for process in started.values():
                process.wait()

    def _start(self, stage: str) -> subprocess.Popen[bytes]:
        notify = self.folder / f"{stage}.notify"
        notify.unlink(missing_ok=True)
        hyops = str(Path(sys.executable).with_name("hyops"))
        argv = [hyops, "service", "run", stage, "--config", str(self.config(stage))]
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
            (self.folder / f"{stage}.log").open("ab") as log,
        ):
            ready.bind(str(notify))
            process = subprocess.Popen(argv, env={**os.environ, "NOTIFY_SOCKET": str(notify)}, stderr=log)
            if not select.select([ready], [], [], READY_LIMIT_S)[0]:
                process.kill()
                raise TimeoutError(f"{stage} was not ready within {READY_LIMIT_S:g} s")
        return process

    def _common(self, stage: str) -> dict[str, Any]:
        return {
            "api_version": "hybridops/v1",
            **({"store": {"etcd": self.etcd.body()}} if self.etcd else {}),
            "homes": {name: str(self.folder / name) for name in STAGES},
            "signing_key": str(self.ring.folder / f"{stage}.pem"),
            "trusted_keys": str(self.ring.folder / "trusted_keys.json"),
        }

    @staticmethod
    def _protected() -> dict[str, Any]:
        """The lab's policy, but watched by nobody: what is measured here begins with the decision record."""
        quiet = {"name": "none", "source": "prometheus", "url": "http://127.0.0.1:9", "query": "up", "interval_s": 3600}
        return {"policy": {**service.policy(), "signals": [quiet], "quorum": 1}}

    def _decision(self) -> dict[str, Any]:
        return {"kind": "DecisionService", "protected": self._protected(), "vantages": {}}

    def _dispatch(self) -> dict[str, Any]:
        noop = {
            "target_ref": "core/noop@v1",
            "target_env": service.ENV,
            "execution_plane": "runner-local",
            "runner_ref": self.runner,
            "requires_approval": True,
        }
        routes = {"env": service.ENV, "dispatcher_routes": {"failover": noop}}
        return {"kind": "DecisionDispatcher", "routes": routes, "services": [SERVICE], "catalogs": [str(CATALOG)]}

    def _approval(self) -> dict[str, Any]:
        return {
            "kind": "DecisionConsumer",
            "policy": {"mode": "signed", "required": 1, "allow_standing": True},
            "allowed_signers": str(self.ring.folder / "allowed_signers"),
            "approvers": str(self.ring.folder / "approvers.json"),
        }

    def _execution(self) -> dict[str, Any]:
        return {"kind": "DecisionExecutor", "mode": "dry-run", "protected": [self._protected()], "runners": {}}

    def _plan(self) -> Plan:
        config = DispatchConfig.of({**self._common("dispatch"), **self._dispatch()})
        decision = self.decision(datetime.now(UTC), "plan")
        (chosen,) = self.routes.of_type(decision.decision_type)
        return planner(config)(chosen, decision)
