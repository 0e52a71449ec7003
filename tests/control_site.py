"""A control host in one folder, for tests of commands: homes, stage keys, people with real SSH keys, configurations."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedKeys
from hyops.cli.main import main
from hyops.model.approval import SSHSIG_NAMESPACE

Run = Callable[..., tuple[int, str, str]]
HOMES = {name: f"{name}-home" for name in ("decision", "dispatch", "approval", "execution")}
STAGES = ("decision", "dispatch", "execution")


class ControlSite:
    """Everything but what protects it: `decision`, `execution` and `approval` are configuration files there."""

    def __init__(self, root: Path, *, people: Mapping[str, Sequence[str]], protected: dict[str, Any]) -> None:
        """`people`: everybody who has a key here, with their roles. `protected`: the one service."""
        self.root = root
        self.stages = {role: Ed25519Signer.create(root / f"{role}.pem") for role in STAGES}
        trusted = [key.trusted(role) for role, key in self.stages.items()]
        (root / "trusted_keys.json").write_text(json.dumps(TrustedKeys(keys=trusted).body()))
        (root / "allowed").touch()
        for who in people:
            self.enter(who)
        roles = {who: list(may) for who, may in people.items() if may}
        (root / "approvers.json").write_text(json.dumps({"roles": roles}))
        self.people = {"allowed_signers": str(root / "allowed"), "approvers": str(root / "approvers.json")}
        self.common: dict[str, Any] = {
            "api_version": "hybridops/v1",
            "homes": {name: str(root / home) for name, home in HOMES.items()},
            "trusted_keys": str(root / "trusted_keys.json"),
            "signing_key": str(root / "decision.pem"),
        }
        decides = {"kind": "DecisionService", "protected": protected, "vantages": {}}
        executes = {"kind": "DecisionExecutor", "protected": [protected], "runners": {}}
        executes["signing_key"] = str(root / "execution.pem")
        rules = {"kind": "DecisionConsumer", "policy": {"allow_standing": True}}
        self.without_people = self.write("nobody", {**self.common, **decides})
        self.decision = self.write("decision", {**self.common, **decides, "people": self.people})
        self.execution = self.write("execution", {**self.common, **executes, "people": self.people})
        self.approval = self.write("approval", {**self.common, **rules, **self.people})

    def write(self, name: str, body: dict[str, Any]) -> Path:
        """One configuration file."""
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(body))
        return path

    def enter(self, who: str, public: str | None = None) -> None:
        """Somebody becomes a known signer, without a role: with a fresh key in a file, or with this public key."""
        if public is None:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / who)], check=True)
            public = " ".join((self.root / f"{who}.pub").read_text().split()[:2])
        else:
            (self.root / f"{who}.pub").write_text(f"{public} {who}\n")
        with (self.root / "allowed").open("a") as file:
            file.write(f'{who} namespaces="{SSHSIG_NAMESPACE}" {public}\n')

    def approve_by(self, **policy: object) -> None:
        """The approval stage's policy says this too."""
        body = json.loads(self.approval.read_text())
        self.approval.write_text(json.dumps({**body, "policy": {**body["policy"], **policy}}))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line as a program calls it: exit code, stdout, stderr."""

    def called(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as exc:
            code = int(exc.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return called
