"""What an installed stage publishes, made of what its host said (LOOP-4). Of its key the host says the public half and
nothing else: what that key may speak for is said here (INV-8).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from hyops.errors import NotVerifiedError
from hyops.services.stage_plan import STAGES, StageWanted

PUBLIC_BYTES = 32
MODES = ("emit-only", "record-only", "signed", "marker", "dry-run", "dispatch")


def published(wanted: StageWanted, host: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of the module.

    Raises:
        NotVerifiedError: the host says no mode or no public key.
    """
    said = answer.get("said")
    said = said if isinstance(said, dict) else {}
    mode, stage = said.get("execution_mode"), wanted.stage
    if mode not in MODES:
        raise NotVerifiedError(f"{host}: it does not say how {stage.unit} executes", hint="look at what runs there")
    name = f"decision_{stage.service}"
    return {
        f"cap.control.{name}": "ready",
        f"{name}.status": "ready",
        f"{name}.execution_mode": mode,
        f"{name}.unit": stage.unit,
        f"{name}.home": stage.home,
        f"{name}.release": wanted.release.release_id,
        f"{name}.host": host,
        "signing_key": trusted_key(said.get("signing_key"), stage.stage, host),
    }


def trusted_key(said: Any, stage: str, host: str) -> dict[str, Any]:
    """The entry for every `trusted_keys.json`."""
    public = said.get("public") if isinstance(said, dict) else None
    try:
        good = isinstance(public, str) and len(base64.b64decode(public, validate=True)) == PUBLIC_BYTES
    except ValueError:
        good = False
    if not good:
        raise NotVerifiedError(f"{host}: it says no public key of the {stage} stage", hint="look at what runs there")
    assert stage in STAGES
    return {"public": public, "roles": [stage], "name": f"{stage} on {host}"}
