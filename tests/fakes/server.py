"""What the fakes of HTTP services share: real sockets, TLS of their own, and the ways in which they fail."""

from __future__ import annotations

import atexit
import datetime
import ipaddress
import json
import shutil
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FLOOD_BYTES = 64 * 1024 * 1024  # far more than the buffers between two ends of a loopback connection


@dataclass(frozen=True)
class Request:
    """One request, header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Its body; empty when it is no JSON object."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self) -> bytes:
        """The bytes of the body."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class FakeServer:
    """`mode`: truth, hang, drip, flood (or `flood STATUS`), raw (`said`), cut, garbage, html, broken, elsewhere, or a
    word that the service itself knows.

    `turns` is how many requests the mode lasts, None for all. `seen` has every request, in order. `flooded_bytes` is
    how much somebody took of answers that do not end.
    """

    def __init__(self) -> None:
        self.mode = "truth"
        self.turns: int | None = None
        self.seen: list[Request] = []
        self.said = b""
        self.flooded_bytes = 0
        self.released = threading.Event()
        self.url = ""

    def answer(self, request: Request) -> Answer:
        """What the real service would say."""
        raise NotImplementedError

    def in_mode(self, mode: str, request: Request) -> Answer:
        """What it says in a mode of its own (sealed, throttled)."""
        raise NotImplementedError(mode)

    def be(self, mode: str, turns: int | None = None) -> None:
        """Change the mode."""
        self.mode, self.turns = mode, turns

    @contextmanager
    def serve(self, *, tls: bool = True) -> Iterator[str]:
        """Its URL, while it serves."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._handle(self)

            do_POST = do_LIST = do_GET  # noqa: N815  the names in the base class

            def log_message(self, format: str, *words: object) -> None:  # noqa: A002  the name in the base class
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that distrusts us or has enough

        with Server(("127.0.0.1", 0), Handler) as server:
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(authority_files()[1])
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
            try:
                yield self.url
            finally:
                self.released.set()
                server.shutdown()
                thread.join()

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        body = http.rfile.read(int(http.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in http.headers.items()}
        request = Request(http.command, http.path, headers, body)
        self.seen.append(request)
        mode = self._mode_now()
        if mode == "hang":
            self.released.wait(30)
            http.close_connection = True
            return None
        if mode == "drip":
            return self._drip(http)
        if mode.startswith("flood"):
            return self._flood(http, int(mode.partition(" ")[2] or 200))
        data, answer = b"", Answer(200)
        if mode in ("truth", "cut"):
            answer = self.answer(request)
        elif mode == "raw":
            answer = Answer(200, self.said)
        elif mode == "garbage":
            answer = Answer(200, b'{"data": {"data"')
        elif mode == "html":
            answer = Answer(404, b"<html><body>404 Not Found: a proxy</body></html>")
        elif mode == "broken":
            answer = Answer(500, {"errors": ["internal error"], "error": {"code": 500, "status": "INTERNAL"}})
        elif mode == "elsewhere":
            answer = Answer(307, None, (("Location", f"{self.url}/elsewhere"),))
        else:
            answer = self.in_mode(mode, request)
        data = answer.encoded()
        http.send_response(answer.status)
        for name, value in answer.headers:
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        if mode == "cut":
            data, http.close_connection = data[: len(data) // 2], True
        try:
            http.wfile.write(data)
        except OSError:
            http.close_connection = True

    def _drip(self, http: BaseHTTPRequestHandler) -> None:
        """A byte now and then, never the last one."""
        http.send_response(200)
        http.send_header("Content-Length", "1000")
        http.end_headers()
        http.close_connection = True
        try:
            for _ in range(600):
                http.wfile.write(b" ")
                if self.released.wait(0.05):
                    return
        except OSError:
            return

    def _flood(self, http: BaseHTTPRequestHandler, status: int) -> None:
        """One JSON text without an end that anybody should wait for."""
        http.send_response(status)
        http.send_header("Content-Length", str(FLOOD_BYTES))
        http.end_headers()
        http.close_connection = True
        piece = b" " * 65536
        try:
            for _ in range(FLOOD_BYTES // len(piece)):
                http.wfile.write(piece)
                self.flooded_bytes += len(piece)
        except OSError:
            return

    def _mode_now(self) -> str:
        if self.turns is None:
            return self.mode
        if self.turns == 0:
            return "truth"
        self.turns -= 1
        return self.mode


@cache
def authority_files() -> tuple[Path, Path, Path]:
    """The CA's certificate, the server's key and certificate, and a CA that did not sign it; made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="hyops-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ca_key, ca = _certificate("hyops test CA", None)
    _, other = _certificate("another CA", None)
    key, leaf = _certificate("127.0.0.1", (ca_key, ca))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, data in {
        "ca": ca.public_bytes(pem),
        "server": private + leaf.public_bytes(pem),
        "other": other.public_bytes(pem),
    }.items():
        (folder / f"{name}.pem").write_bytes(data)
    return folder / "ca.pem", folder / "server.pem", folder / "other.pem"


def _certificate(
    name: str, signer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    sign_key, issuer = (key, subject) if signer is None else (signer[0], signer[1].subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(sign_key.public_key()), critical=False)
    )
    if signer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    return key, builder.sign(sign_key, hashes.SHA256())
