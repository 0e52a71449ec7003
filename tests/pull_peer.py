"""A real pull desk and a real agent on loopback, each a process, with the scripted peer of `ssh_peer` behind them."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import ssh_peer
from loopback import free_ports, wait_for

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
HOLD_S, GRACE_S = 0.5, 1.5


@dataclass
class Authority:
    """A CA in a folder: `<name>.crt` and `<name>.key` of everything that it makes, its list in `crl.pem`."""

    folder: Path
    name: str = "ca"
    revoked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        made = self._made(self.subject, self.key.public_key(), days=(-1, 30)).add_extension(basic, critical=True)
        self._keep(self.name, made.sign(self.key, hashes.SHA256()), self.key)
        self.revoke()

    @property
    def file(self) -> Path:
        """Its own certificate."""
        return self.folder / f"{self.name}.crt"

    def issue(
        self,
        file: str,
        names: str | Iterable[str],
        usage: Any = CLIENT,
        days: tuple[int, int] = (-1, 1),
        address: str = "127.0.0.1",
    ) -> int:
        """A certificate in these common names, also for an address when it is a server's; its serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        given = [names] if isinstance(names, str) else names
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in given])
        made = self._made(subject, key.public_key(), days=days)
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if usage == SERVER:
            alternatives = [x509.IPAddress(ipaddress.ip_address(address))]
            made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        signed = made.sign(self.key, hashes.SHA256())
        self._keep(file, signed, key)
        return signed.serial_number

    def revoke(self, *serials: int, due_days: int = 1) -> None:
        """Write the list with these ones too."""
        self.revoked += serials
        now = dt.datetime.now(dt.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self.subject).last_update(now - dt.timedelta(9))
        made = made.next_update(now + dt.timedelta(due_days))
        for serial in self.revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            made = made.add_revoked_certificate(one)
        data = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (self.folder / "crl.new").write_bytes(data)
        (self.folder / "crl.new").rename(self.folder / "crl.pem")

    def _made(self, subject: x509.Name, key: Any, *, days: tuple[int, int]) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self.subject).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now + dt.timedelta(days[0])).not_valid_after(now + dt.timedelta(days[1]))

    def _keep(self, name: str, made: x509.Certificate, key: Any) -> None:
        (self.folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        path = self.folder / f"{name}.key"
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
        path.chmod(0o600)


@dataclass
class PullPeer:
    """One desk, and one agent at a time. `folder` is where the scripted peer looks for its mode."""

    folder: Path
    hold_s: float = HOLD_S
    grace_s: float = GRACE_S
    runner_refs: tuple[str, ...] = ("cloud-runner", "azure-runner", "idle-runner")
    port: int = 0
    command: list[str] = field(default_factory=list)
    desk: subprocess.Popen[bytes] | None = None
    agent: subprocess.Popen[bytes] | None = None
    agent_port: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.short = Path(tempfile.mkdtemp(prefix="hyops-pull-", dir="/tmp"))  # for the socket's path
        (self.folder / "socket").write_text(str(self.socket))
        self.ca = Authority(self.folder / "pki")
        self.ca.issue("desk", "desk", SERVER)
        self.serial = self.ca.issue("runner", "cloud-runner")
        self.command = self.command or [*ssh_peer.SERVE, str(self.folder)]
        (self.port,) = free_ports(1)
        self.says("")

    @property
    def socket(self) -> Path:
        """The desk's end for dispatchers."""
        return self.short / "desk.sock"

    def says(self, mode: str) -> None:
        """What the scripted peer does from the next channel on."""
        (self.folder / "mode").write_text(mode)

    def log(self, who: str) -> str:
        """What the desk or an agent wrote."""
        return (self.folder / f"{who}.log").read_text()

    def start(self) -> None:
        """Desk and agent."""
        self.start_desk()
        self.start_agent()

    def start_desk(self) -> None:
        """And wait until it is open."""
        pki = self.ca.folder
        value = {
            "api_version": "hybridops/v1",
            "kind": "PullDesk",
            "address": "127.0.0.1",
            "port": self.port,
            "certificate": str(pki / "desk.crt"),
            "key": str(pki / "desk.key"),
            "ca_file": str(self.ca.file),
            "crl_file": str(pki / "crl.pem"),
            "runner_refs": list(self.runner_refs),
            "socket": str(self.socket),
            "hold_s": self.hold_s,
            "grace_s": self.grace_s,
        }
        (self.folder / "desk.json").write_text(json.dumps(value))
        words = ["service", "run", "pull-desk", "--config", str(self.folder / "desk.json")]
        self.desk = self._spawn("desk", words)
        wait_for(lambda: "desk is open" in self.log("desk") or self.desk_ended(), "the desk")

    def desk_ended(self) -> bool:
        """Whether it runs no more."""
        return self.desk is None or self.desk.poll() is not None

    def configured(self, **change: Any) -> Path:
        """An agent's configuration."""
        pki = self.ca.folder
        value = {
            "host": "127.0.0.1",
            "port": self.port,
            "ca_file": str(self.ca.file),
            "certificate": str(pki / "runner.crt"),
            "key": str(pki / "runner.key"),
            "serve_command": self.command,
            "answer_limit_s": 2.5,
            "reconnect_max_s": 0.5,
            **change,
        }
        path = self.folder / "agent.json"
        path.write_text(json.dumps(value))
        return path

    def start_agent(self, **change: Any) -> None:
        """In place of the one before; does not wait for its connection."""
        self.end_agent()
        config = self.configured(**change)
        self.agent_port = change.get("port", self.port)
        self.agent = self._spawn("agent", ["runner-pull", "--config", str(config)])

    def reach(self, port: int) -> None:
        """Have the agent reach the desk over that port."""
        if port != self.agent_port:
            self.start_agent(port=port)

    def sessions(self) -> list[int]:
        """Process ids of the servers that the agent has running."""
        if self.agent is None or self.agent.poll() is not None:
            return []
        found = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{self.agent.pid}/task").iterdir():
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found

    def end_agent(self, how: signal.Signals = signal.SIGKILL) -> None:
        """And wait."""
        if self.agent is not None:
            self.agent.send_signal(how)
            self.agent.wait()
            self.agent = None

    def end_desk(self, how: signal.Signals = signal.SIGKILL) -> None:
        """And wait."""
        if self.desk is not None:
            self.desk.send_signal(how)
            self.desk.wait()
            self.desk = None

    def end(self) -> None:
        """Everything that it started."""
        self.end_agent()
        self.end_desk()
        shutil.rmtree(self.short, ignore_errors=True)

    def _spawn(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", "hyops", *words], stdin=subprocess.DEVNULL, stderr=log)
