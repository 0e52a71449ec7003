"""Records on the etcd of a test: a session that is closed at the end, stores of it, and etcd asked directly."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hyops.adapters.etcd_gateway import EtcdGateway, b64
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.adapters.etcd_records_session import CALL_LIMIT_S, EtcdSession
from hyops.ports.lease import QuorumLostError
from loopback import free_ports, listens
from waiting import wait_for

PATIENT_S = 20.0  # a slow machine is no lost quorum


class Records:
    """One process's session with one loop. `hasty`: with the limits of production."""

    def __init__(self, endpoints: Sequence[str], env: str = "lab", *, hasty: bool = False, **access: Any) -> None:
        def connect() -> EtcdGateway:
            return EtcdGateway(endpoints, attempt_s=1.0 if hasty else PATIENT_S, limit_s=PATIENT_S, **access)

        self.endpoints, self.env = list(endpoints), env
        self.session = EtcdSession(connect, env, f"etcd {env}", call_limit_s=CALL_LIMIT_S if hasty else PATIENT_S)

    def store(self, stage: str = "dispatch", kind: str = "requests") -> EtcdRecordStore:
        """One kind of record."""
        return EtcdRecordStore(self.session, stage, kind)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


class Overheard(Records):
    """A session whose transactions are kept as they are sent and as they are answered; `stop` keeps one from going.

    One that is `dead` sends nothing at all.
    """

    def __init__(self, endpoints: Sequence[str], env: str = "lab", *, hasty: bool = False) -> None:
        super().__init__(endpoints, env, hasty=hasty)
        self.sent: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.stop: Callable[[dict[str, Any]], bool] = lambda _: False
        self.dead = False
        self.session.do(self._listen)

    async def _listen(self) -> None:
        call = self.session.gateway.call

        async def kept(path: str, body: dict[str, Any], **how: Any) -> dict[str, Any]:
            if self.dead:
                raise QuorumLostError("this process was killed")
            if path == "/v3/kv/txn":
                self.sent.append(body)
                if self.stop(body):
                    raise QuorumLostError("no answer")
            answer = await call(path, body, **how)
            self.answered.append(str(body))
            return answer

        self.session.gateway.call = kept  # type: ignore[method-assign]


def ask(endpoint: str, path: str, **body: Any) -> dict[str, Any]:
    """One request to one member, as `etcdctl` would send it."""
    answer = httpx.post(endpoint + path, json=body, trust_env=False, timeout=10.0)
    value = answer.json()
    assert answer.status_code == 200, value
    return dict(value)


def put(endpoint: str, key: str, value: bytes) -> dict[str, Any]:
    """Write a key."""
    return ask(endpoint, "/v3/kv/put", key=b64(key), value=base64.b64encode(value).decode())


def delete(endpoint: str, key: str) -> dict[str, Any]:
    """Remove a key."""
    return ask(endpoint, "/v3/kv/deleterange", key=b64(key))


def value_of(endpoint: str, key: str) -> bytes | None:
    """What a key holds."""
    found = ask(endpoint, "/v3/kv/range", key=b64(key)).get("kvs", [])
    return base64.b64decode(found[0]["value"]) if found else None


def compact(endpoint: str) -> int:
    """Forget everything but the present; returns its revision."""
    now = int(ask(endpoint, "/v3/kv/range", key=b64("x"))["header"]["revision"])
    ask(endpoint, "/v3/kv/compaction", revision=str(now), physical=True)
    return now


class Identities:
    """A CA and what it signed, as PEM files in one folder; `other-ca` is a stranger's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for ca in ("ca", "other-ca"):
            key = ec.generate_private_key(ec.SECP256R1())
            self._write(ca, key, _certificate(ca, key, None, key))
            signer = (x509.load_pem_x509_certificate((folder / f"{ca}.pem").read_bytes()), key)
            for name, common in (("server", ""), ("client", ""), ("named", "hyops-lab-decision")):
                prefix = "" if ca == "ca" else "other-"
                own = ec.generate_private_key(ec.SECP256R1())
                self._write(prefix + name, own, _certificate(common, own, *signer))

    def access(self, name: str = "client", ca: str = "ca") -> dict[str, str]:
        """The keys of a configuration."""
        files = {"ca_file": f"{ca}.pem", "cert_file": f"{name}.pem", "key_file": f"{name}.key"}
        return {key: str(self.folder / file) for key, file in files.items()}

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        (self.folder / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


def _certificate(
    common: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        made = made.add_extension(here, critical=not common)
    return made.sign(signer, hashes.SHA256())


@contextmanager
def mutual_tls(folder: Path, identities: Identities) -> Iterator[str]:
    """One member that speaks TLS and wants a certificate of the CA; yields its endpoint."""
    client, peer = free_ports(2)
    url, there = f"https://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    words = ["etcd", "--data-dir", str(folder / "data"), "--listen-client-urls", url, "--advertise-client-urls", url]
    words += ["--listen-peer-urls", there, "--initial-advertise-peer-urls", there, "--initial-cluster"]
    words += [f"default={there}", "--bcrypt-cost", "4", "--client-cert-auth"]
    words += ["--trusted-ca-file", str(identities.folder / "ca.pem")]
    words += ["--cert-file", str(identities.folder / "server.pem"), "--key-file", str(identities.folder / "server.key")]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: listens(client), url)
            yield url
        finally:
            process.kill()
