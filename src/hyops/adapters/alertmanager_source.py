"""Alertmanager's webhook: `POST /alerts` on loopback, by a bearer token or a client certificate if one is asked for.

What it says is judged at once, and at the signal's pace afterwards, so that silence shows.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h11

from hyops.adapters.alerts import Alerts
from hyops.adapters.own_source import Emit, OwnSource
from hyops.adapters.probes_stream import Stream
from hyops.adapters.pull_http import BadRequestError, Talk
from hyops.adapters.pull_identity import server_context
from hyops.adapters.sampling import Look
from hyops.errors import ConfigError, RecordError
from hyops.ports.clock import Clock
from hyops.ports.pull import PullResponse
from hyops.ports.signals import Watched, Watchlist

PATH = b"/alerts"
BODY_MAX = 2 * 1024 * 1024
CONNECTIONS_MAX = 32


@dataclass(frozen=True)
class Door:
    """Where it is heard, and who may speak."""

    address: str = "127.0.0.1"
    port: int = 9799
    token_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None

    def token(self) -> bytes | None:
        """The secret that a request must carry; read at every start.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        if self.token_file is None:
            return None
        try:
            token = Path(self.token_file).read_bytes().strip()
        except OSError as exc:
            raise ConfigError(f"alertmanager.token_file: {self.token_file}: {exc.strerror}") from exc
        if not token:
            raise ConfigError(f"alertmanager.token_file: {self.token_file} is empty")
        return token

    def tls(self) -> ssl.SSLContext | None:
        """None on plain HTTP, which is for loopback."""
        if self.certificate is None or self.key is None:
            return None
        if self.client_ca is not None:
            return server_context(Path(self.client_ca), Path(self.certificate), Path(self.key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"alertmanager: {self.certificate}, {self.key}: {exc}") from exc
        return context


class AlertmanagerSource(OwnSource):
    """One receiver for all services; it goes on hearing while what is watched changes."""

    def __init__(self, vantage: str, clock: Clock, door: Door, say: Callable[[str], None]) -> None:
        super().__init__(vantage, clock)
        self._door, self._say = door, say
        self._alerts, self._open = Alerts(), 0
        self._token: bytes | None = None

    @asynccontextmanager
    async def _looking(self, watchlist: Watchlist, emit: Emit) -> AsyncIterator[Stream]:
        self._token = self._door.token()
        stream = Stream(watchlist, {"alertmanager": self._look}, emit)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                self._open += 1
                if self._open <= CONNECTIONS_MAX:
                    await self._speak(Talk(reader, writer, BODY_MAX), stream)
            except (OSError, EOFError, TimeoutError, ssl.SSLError):
                pass  # the peer is gone
            finally:
                self._open -= 1
                writer.transport.abort()

        tls = self._door.tls()
        server = await asyncio.start_server(connected, self._door.address, self._door.port, ssl=tls)
        try:
            yield stream
        finally:
            server.close()

    async def _look(self, watched: Watched, watchlist: Watchlist) -> Look:
        return self._alerts.look(watched, time.monotonic())

    async def _speak(self, talk: Talk, stream: Stream) -> None:
        while True:
            try:
                request = await talk.request()
                if request is None:
                    return
                answer = self._answer(*request)
            except BadRequestError as exc:
                await talk.respond(PullResponse(exc.status, str(exc).encode()), last=True)
                return
            if answer.status == 200:
                await stream.glance_all()
            if not await talk.respond(answer):
                return

    def _answer(self, head: h11.Request, body: bytes) -> PullResponse:
        headers = dict(head.headers)
        if self._token is not None:
            told = headers.get(b"authorization", b"")
            if not hmac.compare_digest(told, b"Bearer " + self._token):
                self._say("a notification without the right token was refused")
                return PullResponse(401, b"the bearer token is missing or wrong")
        if head.target.partition(b"?")[0] != PATH:
            return PullResponse(404, b"notifications go to /alerts")
        if head.method != b"POST":
            return PullResponse(405, b"POST", {"allow": "POST"})
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            return PullResponse(415, b"application/json")
        try:
            faults = self._alerts.take(body, now=self._clock.now(), now_s=time.monotonic())
        except RecordError as exc:
            self._say(f"refused: {exc.message}")
            return PullResponse(400, exc.message.encode())
        for fault in faults[:10]:
            self._say(f"passed over: {fault}")
        return PullResponse(200, b"")
