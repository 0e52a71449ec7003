"""HTTPS for pull agents: one small request after the other, each answered by one callable, each with limits (RUN-11).

h11 speaks HTTP and asyncio TLS: a framework's server would keep the peer's certificate from us, and that certificate
is the whole identity here. A request whose connection breaks is cancelled.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable

import h11
from cryptography import x509

from hyops.adapters.pull_identity import RunnerCertificates, StrangerError
from hyops.ports.pull import PullAnswer, PullRequest, PullResponse

HEAD_MAX = 16 * 1024
READ_MAX = 256 * 1024
READ_LIMIT_S = 30.0  # for one request, once it has begun
IDLE_LIMIT_S = 120.0  # between two of them
WRITE_LIMIT_S = 30.0
HANDSHAKE_LIMIT_S = 10.0
CONNECTIONS_MAX = 64  # of one runner: two for each channel, one that waits, and room for broken ones
CONNECTIONS_ALL_MAX = 8192


class BadRequestError(Exception):
    """The peer does not keep to HTTP, or to a limit."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PullServer:
    """Serves `answer` to whom `certificates` knows."""

    def __init__(
        self,
        certificates: RunnerCertificates,
        answer: PullAnswer,
        *,
        body_max: int,
        answer_limit_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._certificates, self._answer, self._say = certificates, answer, say
        self._body_max, self._answer_limit_s = body_max, answer_limit_s
        self._open: Counter[str] = Counter()

    async def listen(self, address: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Serve until the server is closed."""
        return await asyncio.start_server(
            self._connected,
            address,
            port,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_LIMIT_S,
            ssl_shutdown_timeout=1.0,
            limit=READ_MAX,
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = ""
        try:
            raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            certificate = x509.load_der_x509_certificate(raw or b"")
            held = certificate.subject.rfc4514_string()[:200]
            self._open[held] += 1
            if self._open[held] <= CONNECTIONS_MAX and self._open.total() <= CONNECTIONS_ALL_MAX:
                await self._speak(Talk(reader, writer, self._body_max), certificate)
        except (OSError, EOFError, TimeoutError, ValueError, ssl.SSLError):
            pass  # the peer is gone, or never spoke HTTP
        finally:
            self._open[held] -= 1
            if self._open[held] <= 0:
                del self._open[held]
            writer.transport.abort()

    async def _speak(self, talk: Talk, certificate: x509.Certificate) -> None:
        while True:
            try:
                request = await talk.request()
                if request is None:
                    return
                found = await self._answered(talk, certificate, request)
                if found is None:
                    return
            except BadRequestError as exc:
                await talk.respond(PullResponse(exc.status, str(exc).encode()), last=True)
                return
            except StrangerError as exc:
                self._say(f"refused: {exc}")
                await talk.respond(PullResponse(403, str(exc).encode()), last=True)
                return
            if not await talk.respond(found):
                return

    async def _answered(
        self, talk: Talk, certificate: x509.Certificate, request: tuple[h11.Request, bytes]
    ) -> PullResponse | None:
        """None when the peer went away meanwhile."""
        head, body = request
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        told = PullRequest(
            self._certificates.who(certificate),
            head.method.decode("ascii"),
            head.target.decode("latin-1"),
            headers,
            body,
        )
        work = asyncio.ensure_future(self._answer(told))
        away = asyncio.ensure_future(talk.hears_nothing())
        try:
            await asyncio.wait({work, away}, timeout=self._answer_limit_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if away.done():
                return None
            raise BadRequestError(503, "no answer in time")
        finally:
            for task in (work, away):
                task.cancel()
            await asyncio.wait({work, away})


class Talk:
    """One connection's requests and responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body_max: int) -> None:
        self._in, self._out, self._body_max = reader, writer, body_max
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)

    async def request(self) -> tuple[h11.Request, bytes] | None:
        """The next one; None when the peer has ended between two."""
        try:
            async with asyncio.timeout(IDLE_LIMIT_S):
                head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            body = bytearray()
            async with asyncio.timeout(READ_LIMIT_S):
                while not isinstance(event := await self._event(), h11.EndOfMessage):
                    if not isinstance(event, h11.Data):
                        return None
                    body += event.data
                    if len(body) > self._body_max:
                        raise BadRequestError(413, f"a body over {self._body_max} bytes")
            return head, bytes(body)
        except h11.RemoteProtocolError as exc:
            raise BadRequestError(exc.error_status_hint, str(exc)) from exc

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                raise BadRequestError(417, "nobody is asked to wait")
            self._http.receive_data(await self._in.read(READ_MAX))
        if event is h11.PAUSED:
            raise BadRequestError(400, "one request at a time")
        return event

    async def hears_nothing(self) -> None:
        """Return when the peer ends, or speaks while it should listen."""
        await self._in.read(1)

    async def respond(self, response: PullResponse, *, last: bool = False) -> bool:
        """Send it; False when the connection ends with it."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        headers = [("content-length", str(len(response.body))), *response.headers.items()]
        if last:
            headers.append(("connection", "close"))
        parts = (
            h11.Response(status_code=response.status, headers=headers),
            h11.Data(data=response.body),
            h11.EndOfMessage(),
        )
        self._out.write(b"".join(self._http.send(part) or b"" for part in parts))
        async with asyncio.timeout(WRITE_LIMIT_S):
            await self._out.drain()
        states: set[object] = set(self._http.states.values())
        if states == {h11.DONE}:
            self._http.start_next_cycle()
            return True
        self._out.close()
        async with asyncio.timeout(WRITE_LIMIT_S):
            await self._out.wait_closed()
        return False
