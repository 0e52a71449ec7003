"""Every key of a lab, made once when it comes up and gone with it.

Who holds what is the point: a stage can sign only its own records, a runner's key opens one forced command on the
database hosts, and the approver's key exists nowhere on a host of the lab.
"""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

STAGES = {"decision": ["decision"], "dispatch": ["dispatch"], "approval": ["approval"], "execution": ["execution"]}
RUNNERS = ("cloud-runner", "onprem-runner")
OPERATOR = "operator"
APPROVER = "approver@hyops.internal"
SECOND = "second@hyops.internal"  # a takeover needs two people
PEOPLE = {APPROVER: "approver", SECOND: "second"}


@dataclass(frozen=True)
class KeyRing:
    """Files under `folder`: `<name>.pem` (Ed25519 signers), `<name>` and `<name>.pub` (OpenSSH identities)."""

    folder: Path

    def make(self) -> None:
        """Make what is not there yet; an existing key is kept."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in self.signers:
            path = self.folder / f"{name}.pem"
            if not path.exists():
                key = Ed25519PrivateKey.generate()
                path.touch(mode=0o600)
                path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (self.folder / "trusted_keys.json").write_bytes(self.trusted)
        for name in ("dispatcher", "prober", *(f"{r}-target" for r in RUNNERS), *PEOPLE.values()):
            if not (self.folder / name).exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)],
                    check=True,
                )
        (self.folder / "allowed_signers").write_bytes(self.allowed_signers)
        (self.folder / "approvers.json").write_bytes(self.approvers)

    @property
    def signers(self) -> dict[str, list[str]]:
        """Signing key -> what it may sign."""
        return {**STAGES, **{runner: [f"runner:{runner}"] for runner in RUNNERS}, OPERATOR: ["decision"]}

    def private(self, name: str) -> bytes:
        """The private key's file, PEM or OpenSSH."""
        path = self.folder / f"{name}.pem"
        return (path if path.exists() else self.folder / name).read_bytes()

    def public(self, name: str) -> str:
        """The OpenSSH public key, as authorized_keys wants it."""
        return (self.folder / f"{name}.pub").read_text().strip()

    @cached_property
    def trusted(self) -> bytes:
        """`trusted_keys.json`: every signer's public key with its roles."""
        keys = []
        for name, roles in self.signers.items():
            path = self.folder / f"{name}.pem"
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            key = load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, Ed25519PrivateKey)
            raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            keys.append({"name": name, "public": base64.b64encode(raw).decode(), "roles": roles})
        return json.dumps({"keys": keys}, indent=2).encode() + b"\n"

    @property
    def approvers(self) -> bytes:
        """`approvers.json`: what the approvers may do."""
        return json.dumps({"roles": {APPROVER: ["approver", "break-glass"], SECOND: ["approver"]}}).encode()

    @property
    def allowed_signers(self) -> bytes:
        """OpenSSH's allowed signers file with the approvers."""
        lines = []
        for principal, name in PEOPLE.items():
            kind, blob, *_ = self.public(name).split()
            lines.append(f'{principal} namespaces="hyops-approval@v1" {kind} {blob}\n')
        return "".join(lines).encode()
