"""A control host: four stages, four users, four units; each writes its own folders and only reads the others'.

`control` is one as the lab comes up; `control_hosts` makes more of them, over etcd.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hyops.services.stage_plan import STAGES
from hyops_lab.hosts import HOSTS
from hyops_lab.wiring import common, service
from hyops_lab.wiring.keys import RUNNERS, KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

HOST = "control"
ETC = "/etc/hyops"
OPERATOR = f"{ETC}/operator.json"
TMPFILES = "/etc/tmpfiles.d/hyops-loop.conf"
KNOWN_HOSTS = f"{ETC}/loop_known_hosts"  # a runner that is a control host too has pins of its own
UNITS = {name: stage.unit.removesuffix(".service") for name, stage in STAGES.items()}
KINDS = {name: stage.kinds for name, stage in STAGES.items()}


Store = Callable[[str], dict[str, Any]]
"""Stage -> `store` of its configuration."""


def wire(lab: Lab, keys: KeyRing, receipts: Sequence[str] = service.RECEIPTS) -> None:
    """Prepare the control host, with its records in files."""
    common.add_users(lab, HOST, list(common.STAGE_USERS.values()))
    write(lab, keys, receipts)
    lab.enable(HOST, *(f"{unit}.service" for unit in UNITS.values()))


def write(
    lab: Lab,
    keys: KeyRing,
    receipts: Sequence[str] = service.RECEIPTS,
    *,
    host: str = HOST,
    store: Store | None = None,
) -> None:
    """Every file of a control host that has the stages' users; its records are in files, or in `store`."""
    for path, content in {
        f"{ETC}/trusted_keys.json": keys.trusted,
        f"{ETC}/allowed_signers": keys.allowed_signers,
        f"{ETC}/approvers.json": keys.approvers,
        KNOWN_HOSTS: common.known_hosts(lab, *RUNNERS, *service.VANTAGES),
    }.items():
        lab.write(host, path, content)
    tmpfiles = []
    for stage, user in common.STAGE_USERS.items():
        path = f"{user.home}/config/config.json"
        lab.write(host, path, _config(stage, _STAGES[stage](receipts, host), store), 0o640, user.name)
        lab.write(host, f"{ETC}/{stage}.pem", keys.private(stage), 0o600, user.name)
        lab.write(host, f"/etc/systemd/system/{UNITS[stage]}.service", _unit(stage, user))
        tmpfiles += [f"d {user.home} 0755 {user.name} hyops-loop", f"d {user.home}/state 2750 {user.name} hyops-loop"]
        tmpfiles += [f"d {user.home}/state/{kind} 2750 {user.name} hyops-loop" for kind in KINDS[stage]]
    lab.write(host, TMPFILES, ("\n".join(tmpfiles) + "\n").encode())
    lab.write(host, f"{ETC}/dispatcher_key", keys.private("dispatcher"), 0o600, "hyops-executor")
    lab.write(host, f"{ETC}/prober_key", keys.private("prober"), 0o600, "hyops-decision")
    lab.write(host, f"{ETC}/probe-password-decision", lab.secret("hyops").encode(), 0o600, "hyops-decision")
    lab.write(host, f"{ETC}/operator.pem", keys.private("operator"), 0o600, "hyops-decision")
    lab.write(host, OPERATOR, _config("operator", _decision(receipts, host), store), 0o640, "hyops-decision")


def _config(stage: str, own: dict[str, Any], store: Store | None) -> bytes:
    placed = {} if store is None else {"store": store(stage)}
    return json.dumps({**_common(stage), **placed, **own}, indent=2).encode()


PEOPLE = {"allowed_signers": f"{ETC}/allowed_signers", "approvers": f"{ETC}/approvers.json"}


def _common(stage: str) -> dict[str, Any]:
    return {
        "api_version": "hybridops/v1",
        "signing_key": f"{ETC}/{stage}.pem",
        "trusted_keys": f"{ETC}/trusted_keys.json",
    }


def _login(host: str, user: str, key: str) -> dict[str, Any]:
    key_file = f"{ETC}/{key}"
    return {"address": HOSTS[host].address, "user": user, "key_file": key_file, "known_hosts": KNOWN_HOSTS}


def _protected(receipts: Sequence[str]) -> dict[str, Any]:
    return {"policy": service.policy(receipts), "initial_generation": 1}


def _decision(receipts: Sequence[str], host: str) -> dict[str, Any]:
    return {
        "kind": "DecisionService",
        "protected": _protected(receipts),
        "vantages": {v: None if v == host else _login(v, "hyops-probe", "prober_key") for v in service.VANTAGES},
        "probe_password_file": f"{ETC}/probe-password-decision",
        "people": PEOPLE,
    }


def _dispatch(receipts: Sequence[str], _: str) -> dict[str, Any]:
    return {
        "kind": "DecisionDispatcher",
        "routes": service.routes(receipts),
        "services": [service.SERVICE],
        "catalogs": ["/opt/hyops/app/catalog"],
    }


def _approval(_: Sequence[str], __: str) -> dict[str, Any]:
    return {
        "kind": "DecisionConsumer",
        "policy": {"mode": "signed", "required": 1, "allow_standing": True},
        "allowed_signers": f"{ETC}/allowed_signers",
        "approvers": f"{ETC}/approvers.json",
    }


def _execution(receipts: Sequence[str], _: str) -> dict[str, Any]:
    return {
        "kind": "DecisionExecutor",
        "mode": "dispatch",
        "protected": [_protected(receipts)],
        "runners": {runner: _login(runner, "hyops", "dispatcher_key") for runner in RUNNERS},
        "people": PEOPLE,
        "takeover": {
            "allowed_signers": f"{ETC}/allowed_signers",
            "approvers": f"{ETC}/approvers.json",
            "policy": {"mode": "signed", "required": 1, "allow_standing": True},
        },
    }


_STAGES: dict[str, Callable[[Sequence[str], str], dict[str, Any]]] = {
    "decision": _decision,
    "dispatch": _dispatch,
    "approval": _approval,
    "execution": _execution,
}


def _unit(stage: str, user: common.User) -> bytes:
    return common.unit(
        f"hyops: the {stage} stage of the control loop",
        service=[
            "Type=notify",
            f"User={user.name}",
            "Group=hyops-loop",
            "UMask=0027",
            f"ExecStart=/usr/bin/hyops service run {stage} --config {user.home}/config/config.json",
            "Restart=always",
            "RestartSec=200ms",
            "WatchdogSec=30",
            "NoNewPrivileges=yes",
            "CapabilityBoundingSet=",
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            f"ReadWritePaths={user.home}/state",
        ],
        after="network.target systemd-tmpfiles-setup.service",
    )
