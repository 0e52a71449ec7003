"""A foreign decision record in our words (VOC-1, VOC-4, CAT-5)."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from hyops.control.foreign.document import LAPTOP, Foreign, Where, iso, kind_of, known_type, time_of
from hyops.model.vocabulary import CheckStatus

GONE_FROM_DECISIONS = {
    "execution_mode": "every decision goes the one way here: request, approval, run",
    "thanos_query_url": "a check names its own query",
    "module_ref": "the route names the blueprint",
    "desired": "the plan says what becomes of the endpoint",
    "target_mode": "mode follows confirmed outcomes",
    "signal_ready": "each check says ok, bad or unknown",
    "signal_ready_reason": "each check gives its own reason",
    "degraded": "confidence and quorum say it",
    "module_inputs": "a plan's inputs come from its route, and are approved with it",
}
CONTRACT = (
    *("dr_mode", "target_cloud", "runner_ref", "execution_plane", "repo_state_ref"),
    *("workload_profile_ref", "secret_sync_profile"),
)


def decision_body(given: Foreign, *, service: str | None = None) -> dict[str, Any]:
    """The JSON value of our decision for a foreign record.

    Raises:
        ConfigError: what it says cannot be said here.
    """
    kind = given.take("decision_type", needed=True)
    known_type(given, ("decision_type",), kind)
    body: dict[str, Any] = {
        "decision_id": given.take("decision_id", needed=True),
        "decision_type": kind,
        "rationale": given.take("rationale", needed=True),
        "checks": [_check(given, index) for index in range(len(given.take("checks", list) or []))],
        "level": "recommend",
        "service": service,
        "env": given.take("runtime_env"),
        **{key: given.take(key) for key in CONTRACT},
    }
    stamp = given.take("timestamp_utc")
    body["timestamp_utc"] = None if stamp is None else time_of(given, ("timestamp_utc",), stamp)
    if body["execution_plane"] == LAPTOP:
        raise given.wrong(
            ("execution_plane",), f"{LAPTOP} recovers nothing here", "name the runner's plane in the route"
        )
    second = given.take("secondary_backup_copy_required", bool)
    body["secondary_backup_copy_required"] = second
    body["cutover_policy"] = given.take("cutover_policy", dict)
    if given.take("requires_approval", bool) is False:
        given.lost(("requires_approval",), "true", "an unsigned record waives no approval", False)
    status = given.take("status")
    if status in ("proposed", "queued-local-exec"):
        acted = "; it may have acted already, so look before you ask again" if status != "proposed" else ""
        body["dry_run"] = True
        given.lost(("status",), "dry_run: true", f"it was not meant to be dispatched{acted}", status)
    elif status not in (None, "emitted"):
        raise given.wrong(("status",), f"{status!r} is none of emitted, proposed, queued-local-exec")
    if service is None:
        given.lost(("service",), "not named", "a request without a service is recorded and runs nothing: --service")
    given.lost(("generation",), "not named", "the old loop had none, so nothing can be run from it until one is")
    given.lost_rest(GONE_FROM_DECISIONS)
    return {key: value for key, value in body.items() if value is not None}


def _check(given: Foreign, index: int) -> dict[str, Any]:
    where: Where = ("checks", index)
    told = given.value["checks"][index]
    if not isinstance(told, dict):
        raise given.wrong(where, f"a check is a mapping, not {kind_of(told)}")
    if "status" in told:
        kept = {key: told[key] for key in ("name", "status", "reason", "query", "value", "threshold") if key in told}
        for key in told.keys() - kept.keys():
            given.lost((*where, key), "left out", "not part of a check", told[key])
        return kept
    name = told.get("metric") or told.get("name")
    ok, fresh = told.get("ok"), told.get("fresh", True)
    if not isinstance(name, str):
        raise given.wrong(where, "a check names its metric")
    status, reason = (CheckStatus.OK if ok is True else CheckStatus.BAD), None
    if ok not in (True, False) or not _number(told.get("value")) or fresh is not True:
        status, reason = CheckStatus.UNKNOWN, "the old loop had no fresh value for it"
    if reason and ok is False:
        given.lost((*where, "ok"), "unknown", "without a fresh value it is no failure that anybody saw", ok)
    made: dict[str, Any] = {"name": name.replace(" ", "_"), "status": str(status), "reason": reason}
    for key in ("value", "threshold"):
        if _number(told.get(key)):
            made[key] = float(told[key])
    if told.get("comparator") in ("gte", "lte"):
        made["comparator"] = told["comparator"]
    if _number(told.get("sample_epoch")):
        try:
            made["sampled_at"] = iso(datetime.fromtimestamp(told["sample_epoch"], UTC))
        except (OverflowError, ValueError, OSError):
            raise given.wrong((*where, "sample_epoch"), f"{told['sample_epoch']} is no time") from None
    if _number(told.get("sample_age_s")):
        made["age_s"] = float(told["sample_age_s"])
    for key in told.keys() & {"query_key"}:
        given.lost((*where, key), "left out", "a check carries its query itself", told[key])
    return {key: value for key, value in made.items() if value is not None}


def _number(value: Any) -> bool:
    """A finite one; a flag is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
