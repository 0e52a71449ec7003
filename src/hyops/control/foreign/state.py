"""The state that a foreign module left behind in our words (ROOT-3, VOC-5, CAT-5)."""

from __future__ import annotations

from typing import Any

from hyops.control.foreign.document import Foreign, secrets_in, time_of

GONE_FROM_STATE = {
    "env": "the runtime root says it",
    "rerun_inputs_file": "it is a path of the old installation",
    "resolved_inputs_file": "it is a path of the old installation",
}
STATUSES = ("running", "ok", "error", "destroyed", "unknown")


def state_body(given: Foreign) -> dict[str, Any]:
    """The JSON value of our module state for a foreign `latest.json` or `instances/<instance>.json`.

    Raises:
        ConfigError: it does not say which module it is of, or when it was written.
    """
    status = given.take("status", needed=True)
    if status not in STATUSES:
        given.lost(("status",), "unknown", "not a word that anything may rest on (VOC-5)", status)
        status = "unknown"
    if status == "running":
        given.lost(("status",), "unknown", "nobody here can ask that run any more", status)
        status = "unknown"
    outputs = given.take("outputs", dict) or {}
    for key in sorted(secrets_in(outputs)):
        given.lost(("outputs", key), "left out", "state holds no secrets: put it into the vault")
    listed = given.value.get("dependencies")
    dependencies = given.take("dependencies", dict if isinstance(listed, dict) else list)
    body = {
        "module_ref": given.take("module_ref", needed=True),
        "run_id": given.take("run_id", needed=True),
        "status": status,
        "updated_at": time_of(given, ("updated_at",), given.take("updated_at", needed=True)),
        "state_instance": given.take("state_instance"),
        "generation": 0,
        "outputs": {key: value for key, value in outputs.items() if key not in secrets_in(outputs)},
        "input_contract": given.take("input_contract", dict) or {},
        "execution": given.take("execution", dict) or {},
        "dependencies": dependencies or [],
        "evidence_dir": given.take("evidence_dir"),
    }
    given.lost_rest(GONE_FROM_STATE)
    return {key: value for key, value in body.items() if value is not None}
