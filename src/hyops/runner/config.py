"""The runner's own configuration: a file of root's that no dispatch can change (INV-8). Standard library only."""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from hyops.errors import ConfigError

DEFAULT = Path("/etc/hyops/runner.json")
SECONDS_MAX = 10 * 366 * 86400


@dataclass(frozen=True)
class RunnerConfig:
    """`/etc/hyops/runner.json`. `host_sites` says where hosts are, so that a runner in the failed site is refused.

    `approval` has the keys of `model.approval.ApprovalPolicy`; `options` is for the drivers. A finished run is removed
    With `seal_key`, secrets come sealed to that key or not at all.
    `keep_finished_s` after its result was collected, and remembered for at least `remember_reaped_s` from then on.
    `takeover_approvals` people at least must approve a takeover; the request and `approval` may ask for more.
    At most `runs_at_once` runs are open here, whatever their services.
    The cache of bundle files holds `cache_bytes_max`, and a file for `cache_keep_s` after it was last asked for.
    """

    runner_ref: str
    site: str
    root: Path
    signing_key: Path
    trusted_keys: Path
    allowed_signers: Path
    approvers: Path = Path("/etc/hyops/approvers.json")
    revoked_signers: Path | None = None
    secrets_dir: Path = Path("/run/hyops/secrets")
    launcher: str = "systemd"
    job_command: list[str] = field(default_factory=lambda: [sys.argv[0], "runner-job"])
    host_sites: dict[str, str] = field(default_factory=dict)
    approval: dict[str, Any] = field(default_factory=dict)
    takeover_approvals: int = 2
    start_wait_s: float = 10.0
    cancel_wait_s: float = 30.0
    disk_free_min_bytes: int = 64 * 1024 * 1024
    runs_max: int = 1000
    runs_at_once: int = 8
    bundle_bytes_max: int = 1024 * 1024 * 1024
    cache_bytes_max: int = 4 * 1024 * 1024 * 1024
    cache_keep_s: float = 30 * 86400.0
    keep_finished_s: float = 30 * 86400.0
    remember_reaped_s: float = 365 * 86400.0
    options: dict[str, Any] = field(default_factory=dict)
    seal_key: Path | None = None
    source: Path = DEFAULT

    @classmethod
    def load(cls, path: Path) -> RunnerConfig:
        """Read the file.

        Raises:
            ConfigError: names the file and every missing, unknown or mistyped key.
        """
        try:
            value = json.loads(path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror}") from exc
        except ValueError as exc:
            raise ConfigError(f"{path}: {exc}") from exc
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: not an object")
        known = {f.name: f for f in fields(cls) if f.name != "source"}
        faults = [f"unknown key {key!r}" for key in value if key not in known]
        needed = (f for f in known.values() if f.default is MISSING and f.default_factory is MISSING)
        faults += [f"key {f.name!r} is missing" for f in needed if f.name not in value]
        parsed = {}
        for key in value.keys() & known.keys():
            try:
                parsed[key] = _typed(value[key], str(known[key].type))
            except (TypeError, ValueError) as exc:
                faults.append(f"{key}: {exc}")
        if value.get("launcher", "systemd") not in ("systemd", "fork"):
            faults.append("launcher: one of systemd, fork")
        if parsed.get("runs_at_once", 1) < 1:
            faults.append("runs_at_once: at least 1; a runner that is to take no run is stopped")
        if parsed.get("takeover_approvals", 1) < 1:
            faults.append("takeover_approvals: at least 1; the approvals that a takeover needs here")
        approval = value.get("approval")
        faults += _of_markers(approval) if isinstance(approval, dict) and approval.get("mode") == "marker" else []
        if faults:
            raise ConfigError(f"{path}: " + "; ".join(faults))
        return cls(**parsed, source=path)


def _of_markers(approval: dict[str, Any]) -> list[str]:
    """What a marker can never be, so that nobody would ever be admitted."""
    faults = []
    if (required := approval.get("required", 1)) != 1:
        faults.append(
            f"approval.required: {required} with mode marker: a request has one marker, of one person; set "
            "mode: signed (signatures are counted), or required: 1"
        )
    if approval.get("require_touch") or approval.get("require_pin"):
        faults.append("approval.require_touch, require_pin: a marker is signed by no key; set mode: signed")
    if approval.get("require_known_requester"):
        faults.append("approval.require_known_requester: a marker proves no name; set mode: signed")
    return faults


def _typed(value: Any, kind: str) -> Any:
    if kind == "Path | None" and value is None:
        return None
    if kind.startswith("Path"):
        if not isinstance(value, str) or not value.startswith("/"):
            raise ValueError("an absolute path is needed")
        return Path(value)
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= SECONDS_MAX:  # NaN is not, either
            return float(value)
        raise ValueError(f"seconds from 0 to {SECONDS_MAX} are needed")
    simple = {"str": str, "int": int}.get(kind)
    if simple is not None and type(value) is simple and value not in ("", -1):
        return value
    if kind == "list[str]" and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return value
    if kind.startswith("dict") and isinstance(value, dict):
        return value
    raise ValueError(f"{kind} is needed")
