"""One valid example of every kind in the registry of schemas, as the JSON that its parser reads; small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hyops.model.base import Part
from hyops.testing.evidence import failover, receipt
from hyops.testing.runs import noop_plan, spec_of

REPOSITORY = Path(__file__).parent.parent
AT, LATER, LATE = "2026-03-14T03:00:07.000000Z", "2026-03-14T04:00:07.000000Z", "2026-03-15T03:00:07.000000Z"
DIGEST, KEY, RUN = f"sha256:{'a1' * 32}", "A" * 43 + "=", "run-20260314T030007Z-00000001"
HYBRIDOPS = "hybridops/v1"
SWITCH, PLAN = failover(), noop_plan()
SPEC = spec_of(PLAN)
BASTION = {"address": "10.0.0.2", "user": "hyops", "key_file": "/k", "known_hosts": "/h", "site": "onprem"}
STATE = {"module_ref": "platform/network/dns", "run_id": RUN, "status": "ok", "updated_at": AT, "outputs": {"a": [1]}}


def examples() -> dict[str, dict[str, Any]]:
    """Name in the registry -> JSON value."""
    made = SWITCH.run_return
    inputs = SWITCH.inputs.model_copy(update={"series": SWITCH.inputs.series[:2]})
    records: dict[str, Part] = {
        "service-policy": SWITCH.inputs.policy,
        "plan": PLAN,
        "decision": SWITCH.decision,
        "decision-inputs": inputs,
        "request": SWITCH.request,
        "approval": SWITCH.approvals[0],
        "execution": SWITCH.execution,
        "attempt": SWITCH.attempt,
        "outcome": SWITCH.outcome,
        "run-spec": SPEC,
        "run-result": made.result,
        "fence-receipt": receipt(made.result.run_id, made.result.started_at),
    }
    found = {name: record.body() for name, record in records.items()}
    order = {"decision": SPEC.decision, "request": SPEC.request, "plan": PLAN, "inputs": inputs}
    found["standby-order"] = {"schema": "hyops/standby-order/v1", **{key: part.body() for key, part in order.items()}}
    found["taken-over"] = {"schema": "hyops/taken-over/v1", "spec": SPEC.body(), "inputs": inputs.body()}
    catalog = REPOSITORY / "catalog"
    files = {
        "blueprint": catalog / "blueprints/core/noop@v1/blueprint.yml",
        "module-spec": catalog / "modules/platform/network/decision-executor/spec.yml",
        "driver-profile": catalog / "profiles/config/ansible/standing-host@v1.0.yml",
    }
    return {**found, **{name: yaml.safe_load(file.read_text()) for name, file in files.items()}, **WRITTEN}


ROUTE = {
    "target_ref": "core/noop@v1", "target_env": "lab", "execution_plane": "runner-local", "runner_ref": "cloud",
    "requires_approval": True, "approvals_required": 2, "inputs": {"a": {"b": [1, 2.5, None]}},
}  # fmt: skip
STATEMENT = {
    "schema": "hyops/hold/v1", "verdict": "hold", "signer": "ann@example.org", "owner": "dba", "service": "pg",
    "env": "lab", "reason": "maintenance", "signed_at": AT, "until": LATER,
}  # fmt: skip
WRITTEN: dict[str, dict[str, Any]] = {
    "routes": {"env": "lab", "dispatcher_routes": {"failover": ROUTE, "failback": [ROUTE]}},
    "route": ROUTE,
    "runner-map": {
        "api_version": HYBRIDOPS, "kind": "RunnerMap", "onprem_sites": ["onprem"],
        "runners": {"r": {"site": "onprem", "seal_key": KEY}}, "mapping": {"gcp/failover": "r"},
    },
    "approval-policy": {"mode": "signed", "required": 2, "allow_standing": True, "max_age_s": 600.0},
    "notify": {
        "api_version": HYBRIDOPS, "kind": "Notify", "trusted_keys": "/t",
        "sinks": {"hook": {"type": "webhook", "url": "https://hooks.example.org/x", "secret_file": "/s"},
                  "mail": {"type": "mail", "host": "localhost", "tls": "none", "sender": "a@example.org",
                           "to": ["b@example.org"]}},
    },
    "access-options": {"site_networks": {"cloud": ["10.1.0.0/16"]}, "bastions": {"b": BASTION}, "bastion": "b"},
    "access-desk": {
        "api_version": HYBRIDOPS, "kind": "AccessDesk", "grants_dir": "/g", "guarded": [{"address": "10.0.0.9"}],
        "vantage": BASTION,
    },
    "store": {"etcd": {"endpoints": ["https://10.0.0.1:2379"], "env": "lab", "ca_file": "/ca.pem", "dial_ttl_s": 5}},
    "hold": {"hold_id": "hold-1", "statement": STATEMENT, "ssh_signature": "-----BEGIN SSH SIGNATURE-----"},
    "secrets": {"api_version": HYBRIDOPS, "kind": "Secrets"},
    "told": {
        "schema": "hyops/told/v1", "told_id": "told-1", "sink": "hook", "notice_id": "n-1", "event": "waiting",
        "about": "dispatch-1", "at": AT, "how": "delivered", "tries": 1,
    },
    "refusal": {
        "schema": "hyops/refusal/v1", "refusal_id": "refusal-1", "timestamp_utc": AT, "stage": "dispatch",
        "subject_kind": "decision", "subject_id": "decision-1", "subject_digest": DIGEST, "reason": "it is too old",
    },
    "module-state": STATE,
    "state-conflict": {
        "schema": "hyops/state-conflict/v1", "conflict_id": "conflict-1", "state_ref": "platform/network/dns#a",
        "run_id": RUN, "runner_ref": "cloud", "step_id": "s", "journal_records": 7, "found_at": AT, "keys": ["a"],
        "reason": "both changed it", "status": "ok", "published": {"a": 2}, "publishes": ["a"], "base": STATE,
    },
    "state-resolution": {
        "schema": "hyops/state-resolution/v1", "conflict_id": "conflict-1", "take": "theirs", "by": "ann", "at": AT,
        "generation": 3,
    },
    "state-return": {
        "schema": "hyops/state-return/v1", "outcome_id": "outcome-1", "run_id": RUN, "env": "lab", "at": AT,
        "changes": [{"step_id": "s", "what": "merged", "generation": 3, "keys": ["a"]}],
    },
    "sealed-secrets": {
        "schema": "hyops/sealed-secrets/v1", "env": "lab", "runner_ref": "cloud", "key_id": DIGEST, "keys": ["A_KEY"],
        "sealed_at": AT, "expires_at": LATE, "box": KEY,
    },
    "access-grant": {
        "schema": "hyops/access-grant/v1", "grant_id": "grant-1", "state": "open", "occasion": "drill", "reason": "r",
        "by": "ann", "source": "203.0.113.7/32", "address": "10.0.0.9", "port": 22, "opened_at": AT,
        "expires_at": LATER,
    },
}  # fmt: skip
