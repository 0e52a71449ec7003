"""What a module left behind in a runtime root (ROOT-3): status and outputs, no secrets."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from hyops.errors import UsageError
from hyops.model.base import Name, Part, Text, UtcTime
from hyops.model.plan import ModuleRef

STATE_REF = re.compile(r"([a-z0-9](?:[a-z0-9._/-]*[a-z0-9])?)(?:#([a-z0-9][a-z0-9_.-]{0,63}))?")


class ModuleState(Part):
    """`state/modules/<module_id>/latest.json` or `instances/<instance>.json`."""

    module_ref: ModuleRef
    run_id: Text
    status: Literal["running", "ok", "error", "destroyed", "unknown"]
    updated_at: UtcTime
    state_instance: Name | None = None
    generation: int = Field(default=0, ge=0)
    outputs: dict[str, Any] = Field(default_factory=dict)
    input_contract: dict[str, Any] = Field(default_factory=dict)
    execution: dict[str, Any] = Field(default_factory=dict)
    dependencies: list[Any] | dict[str, Any] = Field(default_factory=list)
    evidence_dir: Text | None = None


def state_path(state_ref: str) -> tuple[str, str, str | None]:
    """Where below a root the state of `<module_ref>[#<instance>]` lies, the module and the instance.

    Raises:
        UsageError: it is no state reference, or leads out of the folder.
    """
    found = STATE_REF.fullmatch(state_ref)
    if found is None or ".." in state_ref:
        raise UsageError(f"state reference {state_ref[:200]!r}: <module_ref>[#<instance>] is needed")
    folder = f"state/modules/{found[1].replace('/', '__')}"
    file = f"instances/{found[2]}.json" if found[2] else "latest.json"
    return f"{folder}/{file}", found[1], found[2]
