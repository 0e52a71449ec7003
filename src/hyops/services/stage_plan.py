"""What one stage of the control loop is on its host: user, folders, unit, configuration (LOOP-4).

One place for whoever puts a stage on a host: `hyops apply`, and the lab. The work there is done by
`hyops.runner.stage_setup`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyops.cores import CORE_MAX_BYTES

TOP, GROUP = "/opt/hybridops", "hyops-loop"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON = "/usr/bin/python3"
TOOLS = ("systemctl", "useradd", "userdel", "groupadd", "groupdel")
KEY, TRUSTED, CONFIG = "signing_key.pem", "trusted_keys.json", "config.json"
OURS = (KEY, TRUSTED, CONFIG)


@dataclass(frozen=True)
class StageHost:
    """A stage by its own word and by the one of its service; `kinds` are the records that it writes."""

    stage: str
    service: str
    config_kind: str
    user: str
    kinds: tuple[str, ...]
    health_port: int

    @property
    def home(self) -> str:
        """Its folder."""
        return f"{TOP}/decision-{self.service}"

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"hyops-decision-{self.service}.service"


STAGES = {
    one.stage: one
    for one in (
        StageHost("decision", "service", "DecisionService", "hyops-decision", ("records", "inputs", "refusals"), 9471),
        StageHost(
            "dispatch", "dispatcher", "DecisionDispatcher", "hyops-dispatcher", ("requests", "plans", "refusals"), 9472
        ),
        StageHost(
            "approval", "consumer", "DecisionConsumer", "hyops-consumer", ("approvals", "executions", "refusals"), 9473
        ),
        StageHost(
            "execution",
            "executor",
            "DecisionExecutor",
            "hyops-executor",
            ("attempts", "outcomes", "refusals", "evidence"),
            9474,
        ),
    )
}

SANDBOX = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
RemoveIPC=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
KeyringMode=private
"""
"""What no stage needs, and none gets. Of `@resources` nothing is used; a child `ssh-keygen` needs none of it either.

`ProtectClock` would keep a stage from asking the kernel whether NTP keeps the clock (ADR 0012). Nobody sets one without
a capability, and `PrivateDevices` hides the hardware's.
"""


def unit(
    stage: StageHost,
    *,
    command: str,
    memory_max_mb: int = 512,
    tasks_max: int = 128,
    write_paths: Sequence[str] = (),
    sandbox: str = SANDBOX,
) -> str:
    """The text of its unit; `command` is the hyops that it runs."""
    writes = " ".join([f"{stage.home}/state", f"{stage.home}/logs", *write_paths])
    return f"""\
[Unit]
Description=hyops: the {stage.stage} stage of the control loop
After=network.target systemd-tmpfiles-setup.service
StartLimitIntervalSec=0

[Service]
Type=notify
User={stage.user}
Group={GROUP}
SupplementaryGroups={stage.user}
UMask=0027
ExecStart={command} service run {stage.stage} --config {stage.home}/config/{CONFIG}
Restart=always
RestartSec=200ms
WatchdogSec=30
TimeoutStartSec=60
TimeoutStopSec=60
MemoryMax={memory_max_mb}M
TasksMax={tasks_max}
LimitNOFILE=8192
LimitCORE={CORE_MAX_BYTES}
LogRateLimitIntervalSec=30s
LogRateLimitBurst=2000
{sandbox}ReadWritePaths={writes}

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class StageFile:
    """A file beside the configuration; `private`: nobody but the stage's user reads it."""

    data: bytes
    private: bool = False


@dataclass(frozen=True)
class ReleaseWanted:
    """A hyops to install: where its archive is named for the host later, its size and what it must be."""

    release_id: str
    size: int
    archive_bytes: int
    sha256: str
    python: str | None


@dataclass(frozen=True)
class StageWanted:
    """What is to stand on the host."""

    stage: StageHost
    config: Mapping[str, Any]
    files: Mapping[str, StageFile]
    trusted_keys: Sequence[Mapping[str, Any]]
    release: ReleaseWanted
    memory_max_mb: int = 512
    tasks_max: int = 128
    write_paths: Sequence[str] = field(default_factory=tuple)

    def whole_config(self) -> dict[str, Any]:
        """`config.json`, with what every stage has."""
        folder = f"{self.stage.home}/config"
        health = {"health": {"port": self.stage.health_port}}
        ours = {"signing_key": f"{folder}/{KEY}", "trusted_keys": f"{folder}/{TRUSTED}"}
        return {"api_version": "hybridops/v1", "kind": self.stage.config_kind, **health, **self.config, **ours}

    def data(self) -> dict[str, str]:
        """File name -> base64: everything that goes into the configuration's folder, secrets too."""
        made = {
            CONFIG: json.dumps(self.whole_config(), indent=2, sort_keys=True).encode() + b"\n",
            TRUSTED: json.dumps({"keys": list(self.trusted_keys)}, indent=2, sort_keys=True).encode() + b"\n",
        }
        given = {name: file.data for name, file in self.files.items()}
        return {name: base64.b64encode(data).decode() for name, data in {**given, **made}.items()}

    def plan(self) -> dict[str, Any]:
        """For `hyops.runner.stage_setup`; no secret in it."""
        return {
            **place(self.stage),
            "private": sorted(name for name, file in self.files.items() if file.private),
            "launcher": launcher(self.release.release_id),
            "unit_text": unit(
                self.stage,
                command=f"{self.stage.home}/bin/hyops",
                memory_max_mb=self.memory_max_mb,
                tasks_max=self.tasks_max,
                write_paths=self.write_paths,
            ),
            "release": {
                "id": self.release.release_id,
                "size": self.release.size,
                "bytes": self.release.archive_bytes,
                "sha256": self.release.sha256,
                "python": self.release.python,
                "archive": "",
            },
        }


def place(stage: StageHost) -> dict[str, Any]:
    """Where a stage is; enough to take it away."""
    return {
        "stage": stage.stage,
        "unit": stage.unit,
        "user": stage.user,
        "group": GROUP,
        "home": stage.home,
        "top": TOP,
        "kinds": list(stage.kinds),
        "path": PATH,
        "tools": list(TOOLS),
        "systemd": "/run/systemd/system",
        "units": "/etc/systemd/system",
        "purge": False,
        "release": {"id": "none", "size": 0, "python": None},
    }


def launcher(release_id: str) -> str:
    """The stage's own `hyops`: this release, and nothing else that the host has."""
    return (
        f"#!{PYTHON} -IS\n# made by hyops apply\nimport sys\nsys.path.append({f'{TOP}/releases/{release_id}'!r})\n"
        "from hyops.__main__ import main\nsys.exit(main())\n"
    )
