"""A real Terraform takes the projected token, and reads the stored file, for the host that they are for and no other.

Terraform is sent to a registry whose host name leads, by a proxy on loopback, to a server of this test with a
certificate of its own. What counts is the `Authorization` header that arrives.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hyops.adapters.tfrc_file import TfrcFile
from hyops.model.terraform import project
from waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")

TOKEN = "canary0token.atlasv1.5f1c"
HOSTS = ("my-tfe.example.org", "app.tfe-2.example.org")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for both hosts that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hyops test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(plain)
    return folder / "cert.pem", folder / "key.pem"


class Registry:
    """A proxy that is the registry itself: any host it is asked to connect to, it answers for."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = certificate(folder)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.certificate, key)
        self.seen: list[tuple[str, str, str | None]] = []

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Its URL as a proxy, while it serves."""
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                request, host = outer.head(self.request.makefile("rb")), ""
                host = request[0].split()[1].partition(":")[0]
                self.request.sendall(b"HTTP/1.1 200 ok\r\n\r\n")
                with outer.tls.wrap_socket(self.request, server_side=True) as link:
                    outer.answer(host, outer.head(link.makefile("rb")), link)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()

    @staticmethod
    def head(lines: Iterator[bytes]) -> list[str]:
        """The lines of a request up to the empty one."""
        found = []
        for line in lines:
            if not line.strip():
                break
            found.append(line.decode().strip())
        return found

    def answer(self, host: str, head: list[str], link: ssl.SSLSocket) -> None:
        """Discovery says where modules are; of modules there are none."""
        path = head[0].split()[1]
        headers = dict(line.lower().split(": ", 1) for line in head[1:])
        self.seen.append((host, path, headers.get("authorization")))
        status, body = "404 not found", b"{}"
        if path == "/.well-known/terraform.json":
            status, body = "200 ok", b'{"modules.v1": "/v1/modules/"}'
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        link.sendall(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body)

    def tokens(self) -> dict[str, set[str | None]]:
        """What each host was shown when it was asked for a module."""
        found: dict[str, set[str | None]] = {}
        for host, path, token in self.seen:
            if path.startswith("/v1/modules/"):
                found.setdefault(host, set()).add(token)
        return found


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """One that nobody has asked yet."""
    return Registry(tmp_path)


def init(registry: Registry, folder: Path, **env: str) -> None:
    """`terraform init` of a configuration with a module of each host; it ends in error, since there are none."""
    modules = [f'module "m{n}" {{\n  source = "{host}/a/b/c"\n}}\n' for n, host in enumerate(HOSTS)]
    (folder / "main.tf").write_text("".join(modules))
    (folder / "empty.tfrc").write_text("")
    with registry.serve() as url:
        surroundings = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HTTPS_PROXY": url,
            "SSL_CERT_FILE": str(registry.certificate),
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_CONFIG_FILE": str(folder / "empty.tfrc"),
        }
        command = ["terraform", "init", "-input=false", "-no-color"]
        done = subprocess.run(
            command, cwd=folder, env=surroundings | env, capture_output=True, timeout=PATIENCE_S, check=False
        )
    assert set(registry.tokens()) == set(HOSTS), done.stderr.decode()
    assert TOKEN.encode() not in done.stdout + done.stderr


@pytest.mark.req("RUN-10", "SEC-2")
def test_terraform_shows_a_projected_token_to_its_host_alone(registry: Registry, tmp_path: Path) -> None:
    """Hyphens and dots in the name arrive as the variable says; the other host is shown nothing."""
    kept = TfrcFile(tmp_path / "root")
    for host in HOSTS:
        kept.store(host, f"{TOKEN}-{host}")

    init(registry, tmp_path, **project(kept.read(), [HOSTS[0]]))

    assert registry.tokens() == {HOSTS[0]: {f"bearer {TOKEN}-{HOSTS[0]}".lower()}, HOSTS[1]: {None}}


@pytest.mark.req("RUN-10")
def test_terraform_reads_the_stored_file_as_its_own(registry: Registry, tmp_path: Path) -> None:
    """Named as its configuration, the file gives each host its token."""
    kept = TfrcFile(tmp_path / "root")
    for host in HOSTS:
        kept.store(host, f"{TOKEN}-{host}")

    init(registry, tmp_path, TF_CLI_CONFIG_FILE=str(kept.path))

    assert registry.tokens() == {host: {f"bearer {TOKEN}-{host}".lower()} for host in HOSTS}
    assert json.loads(kept.path.read_text())["credentials"].keys() == set(HOSTS)
