"""The state that a foreign module left behind in our words (ROOT-3, VOC-5, CAT-5)."""

from __future__ import annotations

from typing import Any

from hyops.control.foreign.document import Foreign, Where, secrets_in, time_of

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
    listed = given.value.get("dependencies")
    dependencies = given.take("dependencies", dict if isinstance(listed, dict) else list)
    body = {
        "module_ref": given.take("module_ref", needed=True),
        "run_id": given.take("run_id", needed=True),
        "status": status,
        "updated_at": time_of(given, ("updated_at",), given.take("updated_at", needed=True)),
        "state_instance": given.take("state_instance"),
        "generation": 0,
        "outputs": without_secrets(given, ("outputs",), outputs),
        "input_contract": without_secrets(given, ("input_contract",), given.take("input_contract", dict) or {}),
        "execution": without_secrets(given, ("execution",), given.take("execution", dict) or {}),
        "dependencies": without_secrets(given, ("dependencies",), dependencies or []),
        "evidence_dir": given.take("evidence_dir"),
    }
    given.lost_rest(GONE_FROM_STATE)
    return {key: value for key, value in body.items() if value is not None}


def without_secrets(given: Foreign, where: Where, value: Any) -> Any:
    """The value without what its names say is a secret, at any depth; each is noted with its path."""
    if isinstance(value, list):
        return [without_secrets(given, (*where, index), item) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        if key in secrets_in(value):
            given.lost((*where, key), "left out", "state holds no secrets: put it into the vault")
        else:
            kept[key] = without_secrets(given, (*where, key), item)
    return kept
