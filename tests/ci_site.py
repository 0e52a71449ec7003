"""What a CI runner sees: a control host's folder with a request, approvals and a run, and the files it trusts.

The records are those of `hyops.testing.evidence`, made as of now; the approval is signed with a real SSH key.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from hyops.adapters import approval_ssh
from hyops.adapters.store_files import FileRecordStore
from hyops.evidence.assemble import Story, assemble
from hyops.model.approval import SSHSIG_NAMESPACE, Approval, ApprovalStatement
from hyops.model.base import Record
from hyops.model.dsse import sign_record
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import Outcome
from hyops.testing import evidence as seeds

HOMES = {"decision": "service", "dispatch": "dispatcher", "approval": "consumer", "execution": "executor"}
PLACES = {
    "decision": ("decision", "records"),
    "request": ("dispatch", "requests"),
    "approval": ("approval", "approvals"),
    "execution": ("approval", "executions"),
    "attempt": ("execution", "attempts"),
    "outcome": ("execution", "outcomes"),
}
POLICY: dict[str, Any] = {"required": 1}
ROUTES: dict[str, Any] = {
    "env": "lab",
    "dispatcher_routes": {
        "failover": [
            {
                "target_ref": "dr/postgresql-warm-promote@v1",
                "target_env": "lab",
                "execution_plane": "runner-local",
                "runner_ref": "cloud-runner",
                "when": {"target_cloud": "gcp"},
            }
        ]
    },
}
RUNNERS: dict[str, Any] = {
    "api_version": "hybridops/v1",
    "kind": "RunnerMap",
    "runners": {"cloud-runner": {"site": "cloud"}, "onprem-runner": {"site": "onprem"}},
    "onprem_sites": ["onprem"],
    "host_sites": {"onprem-db": "onprem", "cloud-db": "cloud"},
}


def switch_now(outcome: Outcome = Outcome.SUCCEEDED, ago_s: float = 30.0) -> seeds.Switch:
    """A switch that began a moment ago."""
    return seeds.failover(outcome=outcome, start=datetime.now(UTC) - timedelta(seconds=ago_s))


class CiSite:
    """`root/store` and `root/trust`. Records are put there step by step, as the loop would."""

    def __init__(self, root: Path, switch: seeds.Switch | None = None) -> None:
        self.root, self.store, self.trust = root, root / "store", root / "trust"
        self.switch = switch or switch_now()
        self.trust.mkdir(parents=True)
        self.store.mkdir()
        self.key = self._person("ada")
        self.write("trusted_keys.json", {"keys": [_trusted(role) for role in seeds.STAGES]})
        self.write("approvers.json", {"roles": {seeds.APPROVER: ["approver"]}})
        for name, body in (("approval-policy", POLICY), ("routes", ROUTES), ("runners", RUNNERS)):
            self.write(f"{name}.yml", body)

    @property
    def dispatch_id(self) -> str:
        """The request's id."""
        return self.switch.request.dispatch_id

    def write(self, name: str, body: Any) -> Path:
        """One file of the trust folder."""
        path = self.trust / name
        path.write_text(json.dumps(body) if name.endswith(".json") else yaml.safe_dump(body))
        return path

    def folder(self, stage: str, kind: str) -> Path:
        """Where a stage keeps one kind of record."""
        return self.store / f"decision-{HOMES[stage]}" / "state" / kind

    def put(self, record: Record) -> Path:
        """One record where its stage writes it."""
        stage, kind = PLACES[record.kind]
        FileRecordStore(self.folder(stage, kind)).create(record.record_id, record.encoded())
        return self.folder(stage, kind) / f"{record.record_id}.json"

    def ask(self) -> CiSite:
        """Decision, plan and request: what waits for an approval."""
        name = self.switch.plan.digest().removeprefix("sha256:")
        data = json.dumps(self.switch.plan.body()).encode()
        FileRecordStore(self.folder("dispatch", "plans")).create(name, data)
        self.put(self.switch.decision)
        self.put(self.switch.request)
        return self

    def statement(self, **changes: Any) -> ApprovalStatement:
        """What the approver signs, or what somebody would like it to say."""
        body = self.switch.approvals[0].statement.body() | changes
        return ApprovalStatement.of({key: value for key, value in body.items() if value is not None})

    def signed(self, statement: ApprovalStatement | None = None, key: Path | None = None, name: str = "") -> Approval:
        """An approval with a real signature."""
        made = self.switch.approvals[0]
        said = statement or made.statement
        signature = approval_ssh.sign(said.signed_bytes(), key or self.key)
        return Approval(approval_id=f"{made.approval_id}{name}", statement=said, ssh_signature=signature)

    def approve(self, **changes: Any) -> CiSite:
        """The approval that carries the request."""
        self.put(self.signed(self.statement(**changes)))
        return self

    def run(self) -> CiSite:
        """Execution, attempt and outcome, and the evidence of it."""
        for record in (self.switch.execution, self.switch.attempt, self.switch.outcome):
            self.put(record)
        self.bundle()
        return self

    def bundle(self) -> Path:
        """The sealed bundle, with the real approval in it."""
        facts = {f.name: getattr(self.switch, f.name) for f in dataclasses.fields(self.switch)}
        story = Story(**(facts | {"approvals": (self.signed(),)}))
        place = self.folder("execution", "evidence")
        return assemble(story, directory=place, signer=seeds.STAGES["execution"], now=datetime.now(UTC))

    def refuse(self, stage: str, kind: str, subject: str, reason: str) -> None:
        """A stage looked at something and did not act."""
        digest = self.switch.request.digest()
        made = Refusal(
            refusal_id="refusal-20260314T030008Z-request-00000000",
            timestamp_utc=datetime.now(UTC),
            stage=stage,  # type: ignore[arg-type]  # the tests name real ones
            subject_kind=kind,
            subject_id=subject,
            subject_digest=digest,
            reason=reason,
        )
        signed = sign_record(made, seeds.STAGES[stage])
        FileRecordStore(self.folder(stage, "refusals")).create(signed.refusal_id, signed.encoded())

    def _person(self, name: str) -> Path:
        key = self.root / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = " ".join((self.root / f"{name}.pub").read_text().split()[:2])
        (self.trust / "allowed_signers").write_text(f'{seeds.APPROVER} namespaces="{SSHSIG_NAMESPACE}" {public}\n')
        return key


def _trusted(role: str) -> dict[str, Any]:
    return {"public": seeds.base64_of(seeds.STAGES[role]), "roles": [role], "name": role}
