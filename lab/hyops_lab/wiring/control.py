"""The control host: four stages, four users, four units; each writes its own folders and only reads the others'."""

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
UNITS = {name: stage.unit.removesuffix(".service") for name, stage in STAGES.items()}
KINDS = {name: stage.kinds for name, stage in STAGES.items()}


def wire(lab: Lab, keys: KeyRing, receipts: Sequence[str] = service.RECEIPTS) -> None:
    """Prepare the control host."""
    common.add_users(lab, HOST, list(common.STAGE_USERS.values()))
    for path, content in {
        "trusted_keys.json": keys.trusted,
        "allowed_signers": keys.allowed_signers,
        "approvers.json": keys.approvers,
        "known_hosts": common.known_hosts(lab, *RUNNERS, *service.VANTAGES),
    }.items():
        lab.write(HOST, f"{ETC}/{path}", content)
    tmpfiles = []
    for stage, user in common.STAGE_USERS.items():
        config = {**_common(stage), **_STAGES[stage](receipts)}
        lab.write(HOST, f"{user.home}/config/config.json", json.dumps(config, indent=2).encode(), 0o640, user.name)
        lab.write(HOST, f"{ETC}/{stage}.pem", keys.private(stage), 0o600, user.name)
        lab.write(HOST, f"/etc/systemd/system/{UNITS[stage]}.service", _unit(stage, user))
        lab.enable(HOST, f"{UNITS[stage]}.service")
        tmpfiles += [f"d {user.home} 0755 {user.name} hyops-loop", f"d {user.home}/state 2750 {user.name} hyops-loop"]
        tmpfiles += [f"d {user.home}/state/{kind} 2750 {user.name} hyops-loop" for kind in KINDS[stage]]
    lab.write(HOST, "/etc/tmpfiles.d/hyops-loop.conf", ("\n".join(tmpfiles) + "\n").encode())
    lab.write(HOST, f"{ETC}/dispatcher_key", keys.private("dispatcher"), 0o600, "hyops-executor")
    lab.write(HOST, f"{ETC}/prober_key", keys.private("prober"), 0o600, "hyops-decision")
    lab.write(HOST, f"{ETC}/probe-password-decision", lab.secret("hyops").encode(), 0o600, "hyops-decision")
    lab.write(HOST, f"{ETC}/operator.pem", keys.private("operator"), 0o600, "hyops-decision")
    operator = {**_common("operator"), **_decision(receipts)}
    lab.write(HOST, f"{ETC}/operator.json", json.dumps(operator, indent=2).encode(), 0o640, "hyops-decision")


PEOPLE = {"allowed_signers": f"{ETC}/allowed_signers", "approvers": f"{ETC}/approvers.json"}


def _common(stage: str) -> dict[str, Any]:
    return {
        "api_version": "hybridops/v1",
        "signing_key": f"{ETC}/{stage}.pem",
        "trusted_keys": f"{ETC}/trusted_keys.json",
    }


def _login(host: str, user: str, key: str) -> dict[str, Any]:
    known = f"{ETC}/known_hosts"
    return {"address": HOSTS[host].address, "user": user, "key_file": f"{ETC}/{key}", "known_hosts": known}


def _protected(receipts: Sequence[str]) -> dict[str, Any]:
    return {"policy": service.policy(receipts), "initial_generation": 1}


def _decision(receipts: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": "DecisionService",
        "protected": _protected(receipts),
        "vantages": {v: None if v == HOST else _login(v, "hyops-probe", "prober_key") for v in service.VANTAGES},
        "probe_password_file": f"{ETC}/probe-password-decision",
        "people": PEOPLE,
    }


def _dispatch(receipts: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": "DecisionDispatcher",
        "routes": service.routes(receipts),
        "services": [service.SERVICE],
        "catalogs": ["/opt/hyops/app/catalog"],
    }


def _approval(_: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": "DecisionConsumer",
        "policy": {"mode": "signed", "required": 1, "allow_standing": True},
        "allowed_signers": f"{ETC}/allowed_signers",
        "approvers": f"{ETC}/approvers.json",
    }


def _execution(receipts: Sequence[str]) -> dict[str, Any]:
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


_STAGES: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
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
