"""The HTTP probe against servers that answer well, badly, elsewhere, or not at all."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.probes_http import HttpProbe
from hyops.adapters.sampling import Look
from hyops.model.policy import Signal
from hyops.ports.signals import Watched, Watchlist
from loopback import free_ports
from waiting import PATIENCE_S


def watched(port: int, scheme: str = "http", **words: Any) -> Watched:
    """One signal about something on loopback."""
    body = {"name": "web", "source": "http", "vantages": ["here"], "url": f"{scheme}://$address:$port/health", **words}
    return Watched(signal=Signal.of(body), host="web", address="127.0.0.1", port=port)


def response(status: str, body: bytes = b"", more: str = "") -> bytes:
    """A whole response."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


def looked(said: dict[str, bytes], tls: ssl.SSLContext | None = None, scheme: str = "http", **words: Any) -> Look:
    """One look at a server with these answers by path."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(said.get(head.split()[1].decode(), b""))
        writer.close()

    async def run() -> Look:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        one = watched(server.sockets[0].getsockname()[1], scheme, **words)
        probe = HttpProbe()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await probe(one, Watchlist(vantage="here", watched=[one]))
        finally:
            await probe.close()
            server.close()

    return asyncio.run(run())


AWAY = "location: /elsewhere\r\n"
OTHER = {"expect": {"status": [200, 204]}}
WORD = {"expect": {"contains": "ready"}}
FOLLOW = {"expect": {"redirects": 1}}


@pytest.mark.req("DEC-2", "DEC-3")
@pytest.mark.parametrize(
    ("said", "words", "value"),
    [
        ({"/health": response("200 OK")}, {}, 1.0),
        ({"/health": response("204 No Content")}, OTHER, 1.0),
        ({"/health": response("200 OK", b"all ready now")}, WORD, 1.0),
        ({"/health": response("200 OK", b"starting")}, WORD, 0.0),
        ({"/health": response("200 OK", b"x" * 100_000 + b"ready")}, WORD, None),
        ({"/health": response("503 Service Unavailable")}, {}, 0.0),
        ({"/health": response("401 Unauthorized")}, {}, None),
        ({"/health": response("429 Too Many Requests")}, {}, None),
        ({"/health": response("302 Found", more=AWAY), "/elsewhere": response("200 OK")}, {}, None),
        ({"/health": response("302 Found", more=AWAY), "/elsewhere": response("200 OK")}, FOLLOW, 1.0),
        ({"/health": response("302 Found", more=AWAY), "/elsewhere": response("301 M", more=AWAY)}, FOLLOW, None),
        ({"/health": response("302 Found", more="location: file:///etc/passwd\r\n")}, FOLLOW, None),
        ({"/health": b"\0\1\2\3"}, {}, None),
        ({"/health": b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nready"}, WORD, None),
    ],
    ids="ok other word no-word far-word failing denied limited redirect followed twice file nonsense cut".split(),  # noqa: SIM905
)
def test_an_answer_is_judged(said: dict[str, bytes], words: dict[str, Any], value: float | None) -> None:
    """What was declared is 1; a failing server is 0; what may be our own fault, or another's answer, is unknown."""
    look = looked(said, **words)

    assert look.value == value
    assert look.said


@pytest.mark.req("DEC-2")
def test_nobody_there_is_bad_and_an_odd_address_unknown() -> None:
    """A refused connection is 0; a URL that is none says so."""
    (port,) = free_ports(1)

    async def run(one: Watched) -> Look:
        return await HttpProbe()(one, Watchlist(vantage="here", watched=[one]))

    assert asyncio.run(run(watched(port))).value == 0.0
    assert asyncio.run(run(watched(port, url="http://[/x"))).value is None


@pytest.mark.req("DEC-2", "INV-5")
def test_a_certificate_that_does_not_verify_tells_nothing(tmp_path: Path) -> None:
    """Signed by nobody known: unknown, though it answers 200; with its CA named: 1; a CA file that is none: unknown."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += [
        "-subj",
        "/CN=web",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    well = {"/health": response("200 OK")}

    unknown = looked(well, tls, "https")
    assert unknown.value is None
    assert "does not verify" in (unknown.said or "")
    assert looked(well, tls, "https", expect={"ca_file": str(certificate)}).value == 1.0
    assert looked(well, tls, "https", expect={"ca_file": str(key)}).value is None
