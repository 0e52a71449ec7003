"""JSON Schemas of every file that a person writes and every record that is kept, generated from the types (UX-2)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hyops.model.base import Part

TYPES = {
    "service-policy": "policy:ServicePolicy",
    "routes": "routes:Routes",
    "route": "dispatch:Route",
    "runner-map": "runners:RunnerMap",
    "blueprint": "plan:Blueprint",
    "module-spec": "module_spec:ModuleSpec",
    "driver-profile": "module_spec:DriverProfile",
    "approval-policy": "approval:ApprovalPolicy",
    "notify": "notify:NotifyFile",
    "access-options": "access:AccessOptions",
    "access-desk": "access:AccessDesk",
    "store": "etcd:Store",
    "hold": "hold:HoldRecord",
    "secrets": "secrets:SecretsConfig",
    "plan": "plan:Plan",
    "decision": "decision:Decision",
    "decision-inputs": "observed:DecisionInputs",
    "request": "dispatch:DispatchRequest",
    "approval": "approval:Approval",
    "execution": "execution:Execution",
    "attempt": "execution:Attempt",
    "outcome": "execution:AttemptOutcome",
    "told": "notify:Told",
    "refusal": "refusal:Refusal",
    "run-spec": "run:RunSpec",
    "standby-order": "takeover:StandbyOrder",
    "taken-over": "takeover:TakenOver",
    "run-result": "run:RunResult",
    "module-state": "module_state:ModuleState",
    "state-conflict": "state_change:StateConflict",
    "state-resolution": "state_change:StateResolution",
    "state-return": "state_change:StateReturn",
    "sealed-secrets": "sealed:Sealed",
    "fence-receipt": "fence:FenceReceipt",
    "access-grant": "access:AccessGrant",
}


def type_of(name: str) -> type[Part]:
    """The type behind a schema's name; KeyError when there is none."""
    module, _, attribute = TYPES[name].partition(":")
    found: type[Part] = getattr(import_module(f"hyops.model.{module}"), attribute)
    return found


def schema_of(name: str) -> dict[str, Any]:
    """One JSON Schema (draft 2020-12)."""
    body = type_of(name).model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"hyops/{name}.schema.json", **body}
