"""What a dispatcher offers with a start, read as far as the runner's door must; the job reads all of it strictly.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

from hyops.errors import PrerequisiteError, RecordError, UnsafePlanError, UsageError
from hyops.model import canonical, ids
from hyops.runner.folders import SERVICE

SPEC_MAX = 4 * 1024 * 1024
SEALED = "hyops/sealed-secrets/v1"  # as `model.sealed` has it, which would bring more than the standard library


def parted(payload: bytes, size: object) -> tuple[bytes, bytes]:
    """The run spec, and the secrets that follow it.

    Raises:
        UsageError: the size that was said does not fit.
    """
    if type(size) is not int or not 0 < size <= min(len(payload), SPEC_MAX):
        raise UsageError(f"spec_bytes {size!r} does not fit the payload or is over {SPEC_MAX}")
    return payload[:size], payload[size:]


def spec(data: bytes) -> dict[str, Any]:
    """A run spec, of which the few fields that are needed here were looked at.

    Raises:
        RecordError: one of them is missing or mistyped.
    """
    try:
        value = json.loads(data)
        run_id, service, plan, execution = value["run_id"], value["service"], value["plan"], value["execution"]
        numbers = (value["epoch"], value["generation"])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise RecordError(f"run spec: {type(exc).__name__}: {exc}") from exc
    texts = isinstance(run_id, str) and isinstance(service, str) and SERVICE.fullmatch(service)
    maps = isinstance(plan, dict) and isinstance(execution, dict) and isinstance(plan.get("bundle", {}), dict)
    if not texts or not maps or any(type(n) is not int or not 0 <= n <= 2**53 for n in numbers):
        raise RecordError("run spec: run_id, service, epoch, generation, plan or execution is mistyped")
    return dict(value)


def only_run(offered: dict[str, Any]) -> None:
    """Return when the run id is the one that derives from the execution (INV-4).

    The job holds the same against the signed record; here it keeps a second id from staging anything.

    Raises:
        RecordError: the execution has no time that can be read. UnsafePlanError: another run id.
    """
    execution = {key: value for key, value in offered["execution"].items() if key != "signature"}
    try:
        at = datetime.fromisoformat(execution["timestamp_utc"])
        wanted = ids.run(at, canonical.digest(execution))
    except (ValueError, KeyError, TypeError, OverflowError) as exc:
        raise RecordError(f"run spec: execution.timestamp_utc: {type(exc).__name__}: {exc}") from exc
    if offered["run_id"] != wanted:
        raise UnsafePlanError(f"run {offered['run_id']}: its execution runs as {wanted} only")


def secrets(data: bytes) -> dict[str, str]:
    """The secrets handed over with a start; the error about broken ones never quotes them."""
    try:
        value = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        raise RecordError("secrets: not JSON") from None  # the cause would quote what must not be quoted
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise RecordError("secrets: a mapping of names to texts is needed")
    return value


def fitting_secrets(offered: Mapping[str, Any], handed: Mapping[str, str], *, sealed_only: bool) -> None:
    """Return when exactly the secrets that the plan names were handed over, in the form that this runner takes.

    Raises:
        UnsafePlanError: some are missing, or were not approved. PrerequisiteError: they are not sealed, or are and
            nobody here could open them. RecordError: the seal is no seal.
    """
    plan, sealed = offered["plan"], handed.get(SEALED)
    named = plan.get("sync_env") or {}
    if not isinstance(named, dict):
        raise RecordError("run spec: plan.sync_env is mistyped")
    if handed and sealed_only != (sealed is not None):
        what = "takes secrets only sealed to its key" if sealed_only else "has no key to open sealed secrets with"
        raise PrerequisiteError(
            f"this runner {what}", hint="make runners.<runner>.seal_key and the runner's own `seal_key` agree"
        )
    names = handed.keys() if sealed is None else _sealed_names(sealed, handed)
    if missing := sorted(named.keys() - names):
        raise UnsafePlanError(
            f"the plan names secrets that were not handed over: {', '.join(missing)}",
            hint="start it with `hyops runner blueprint deploy`, which hands them over",
        )
    if strange := sorted(str(name)[:128] for name in names - named.keys()):
        raise UnsafePlanError(f"secrets were handed over that the plan does not name: {', '.join(strange)}")


def _sealed_names(sealed: str, handed: Mapping[str, str]) -> Set[str]:
    """What the seal says is in it; it is bound into the box, so that a lie does not open."""
    try:
        names = json.loads(sealed)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordError("sealed secrets: not a seal") from None  # the cause would quote what was handed over
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(handed) != 1:
        raise RecordError("sealed secrets: not a seal, or plain ones beside it")
    return set(names)


def same_run(stored: dict[str, Any], offered: dict[str, Any]) -> None:
    """A run id stands for one execution of one plan; other bytes under the same id are refused."""
    for key in ("plan", "execution", "service", "generation", "occasion"):
        digests = [hashlib.sha256(json.dumps(s.get(key), sort_keys=True).encode()).digest() for s in (stored, offered)]
        if digests[0] != digests[1]:
            raise UnsafePlanError(f"run {stored['run_id']} exists here with another {key}")
