"""What the authorities that speak HTTP share (SEC-1).

One limit for a whole read, bounded replies, no proxies, no redirects (a login must not go where nobody sent it), waits
that the authority asks for within the limit, and sentences of ours: what it wrote is never quoted, since some quote
back what they were sent.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from hyops.adapters.http_client import GIVEN_UP, httpx, whole
from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.secret import Secret
from hyops.ports.authority import Answer, Fetched, Refused, Trouble

K = TypeVar("K")
T = TypeVar("T")
REPLY_BYTES_MAX = 1024 * 1024
FILE_BYTES_MAX = 64 * 1024
PARALLEL_MAX = 8
ATTEMPTS_MAX = 4
WAIT_S = 0.25  # before the second attempt, where the authority names no time; doubled each time
MISSING_WHY = "it has no such secret, or no such version"


@dataclass(frozen=True)
class TokenFile:
    """An access token that somebody else renews."""

    path: Path


class TroubleError(Exception):
    """Why there is no value, on its way to the ref that it is about."""

    def __init__(self, trouble: Trouble, why: str) -> None:
        super().__init__(why)
        self.refused = Refused(trouble, why)


@dataclass(frozen=True)
class Reply:
    """A whole answer; its body shows in no message."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Reply({self.status})"

    def object(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none, which no caller takes for an answer."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class AuthorityClient:
    """Connections to one authority, for one read."""

    def __init__(self, client: httpx.AsyncClient, name: str, end: float) -> None:
        self._client, self._name, self._end = client, name, end

    async def call(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: Any = None, form: Any = None
    ) -> Reply:
        """One answer; a throttled call is made again as long as the limit allows.

        Raises:
            TroubleError: unreachable or throttled.
        """
        wait_s = WAIT_S
        for attempt in range(1, ATTEMPTS_MAX + 1):
            reply = await self._once(method, url, dict(headers or {}), body, form)
            if reply.status != 429:
                break
            wait_s = _asked_wait_s(reply.headers.get("retry-after"), wait_s)
            if attempt == ATTEMPTS_MAX or wait_s >= self._end - asyncio.get_running_loop().time():
                raise TroubleError(Trouble.THROTTLED, "it asks to come back later than the limit allows")
            await asyncio.sleep(wait_s)
            wait_s *= 2
        if 300 <= reply.status < 400:
            raise TroubleError(Trouble.UNREACHABLE, "it sends us to another address; name that one if it is right")
        return reply

    async def _once(self, method: str, url: str, headers: dict[str, str], body: Any, form: Any) -> Reply:
        headers |= {"Accept-Encoding": "identity", "Accept": "application/json"}
        try:
            async with (
                asyncio.timeout_at(self._end),  # the library's own limits are for each step: a slow drip never ends
                self._client.stream(method, url, headers=headers, json=body, data=form) as answer,
            ):
                data = await whole(answer, REPLY_BYTES_MAX)
                if data is None:
                    raise TroubleError(Trouble.MALFORMED, f"its answer has more than {REPLY_BYTES_MAX} bytes")
                return Reply(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, data)
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise TroubleError(Trouble.UNREACHABLE, "no answer in time") from exc
        except UnicodeEncodeError:
            raise TroubleError(Trouble.MALFORMED, "its login gave what no header can hold") from None  # it would quote
        except httpx.RemoteProtocolError as exc:
            raise TroubleError(Trouble.MALFORMED, "the answer broke off") from exc
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as exc:
            if "CERTIFICATE_VERIFY_FAILED" in str(exc):
                raise TroubleError(Trouble.UNREACHABLE, "its certificate is not trusted") from exc
            raise TroubleError(Trouble.UNREACHABLE, f"no connection ({type(exc).__name__})") from exc


@asynccontextmanager
async def opened(name: str, limit_s: float, ca_file: Path | None, *, tls: bool) -> AsyncIterator[AuthorityClient]:
    """Connections that end with the read."""
    end = asyncio.get_running_loop().time() + limit_s
    async with httpx.AsyncClient(
        verify=_tls(name, ca_file, tls),
        timeout=limit_s,
        trust_env=False,  # a proxy would see where every secret lies, and could be inside the failed site
        follow_redirects=False,
        event_hooks=GIVEN_UP,
    ) as client:
        yield AuthorityClient(client, name, end)


async def ask_all(keys: Sequence[K], limit_s: float, ask: Callable[[K], Awaitable[T]]) -> dict[K, T | Refused]:
    """The answer about every key, several at a time; what has none when the time is up was not answered."""
    room = asyncio.Semaphore(PARALLEL_MAX)

    async def one(key: K) -> T | Refused:
        async with room:
            try:
                return await ask(key)
            except TroubleError as exc:
                return exc.refused

    tasks = {key: asyncio.create_task(one(key)) for key in keys}
    try:
        if tasks:
            await asyncio.wait(tasks.values(), timeout=limit_s)
        late = Refused(Trouble.UNREACHABLE, f"no answer within {limit_s:g} s")
        return {key: task.result() if task.done() else late for key, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def all_refused(refs: Sequence[str], refused: Refused) -> dict[str, Answer]:
    """The same trouble for every ref: nobody is logged in."""
    return dict.fromkeys(refs, refused)


async def read_as_bearer(
    place: tuple[str, float, Path | None],
    refs: Sequence[str],
    *,
    token: Callable[[AuthorityClient], Awaitable[str]],
    ask: Callable[[AuthorityClient, Mapping[str, str], str], Awaitable[Answer]],
) -> Mapping[str, Answer]:
    """A whole read with an access token: log in once, then ask for every ref.

    Args:
        place: the authority's name, its limit in seconds and its CA file, as `opened` takes them.
        refs: what is asked for.
        token: logs in; raises TroubleError when it is refused.
        ask: reads one ref with these headers; raises TroubleError.
    """
    name, limit_s, ca_file = place
    async with opened(name, limit_s, ca_file, tls=True) as client:
        try:
            headers = {"Authorization": f"Bearer {await token(client)}"}
        except TroubleError as exc:
            return all_refused(refs, exc.refused)
        return await ask_all(refs, limit_s, lambda ref: ask(client, headers, ref))


def credential(name: str, path: Path) -> str:
    """A token or a key that lies in a file of ours, read at each use so that a renewed one counts.

    Raises:
        PrerequisiteError: it cannot be read. ConfigError: it is empty or no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX)
    except OSError as exc:
        raise PrerequisiteError(f"{name}: {path}: {exc.strerror}") from exc
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: {path}: not a text") from None
    if not text:
        raise ConfigError(f"{name}: {path}: empty")
    return text


def token_of(name: str, path: Path) -> str:
    """The same for what goes into a header."""
    token = credential(name, path)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{name}: {path}: not a token")
    return token


def access_token(reply: Reply) -> str:
    """What an OAuth 2.0 login gave (RFC 6749, section 5.1); raises TroubleError when it gave none."""
    token = reply.object().get("access_token")
    if reply.status == 200 and isinstance(token, str) and token:
        return token
    if reply.status in (400, 401, 403, 404):
        raise TroubleError(Trouble.DENIED, f"it refuses the login (HTTP {reply.status})")
    raise failed(reply) if reply.status != 200 else TroubleError(Trouble.MALFORMED, "the login gave no token")


def field_of(fields: Mapping[str, Any], name: str, version: str | None) -> Answer:
    """One field of a secret that has several."""
    if name not in fields:
        return Refused(Trouble.MISSING, "the secret has no such field")
    value = fields[name]
    if not isinstance(value, str):
        return Refused(Trouble.MALFORMED, "the field is not a text")
    return Fetched(Secret(value), version)


def error_of(reply: Reply) -> Mapping[str, Any]:
    """The `error` object of an answer; empty when it has none."""
    error = reply.object().get("error")
    return error if isinstance(error, dict) else {}


def failed(reply: Reply) -> TroubleError:
    """The trouble of an answer that says nothing more than its number."""
    if reply.status in (401, 403):
        return TroubleError(Trouble.DENIED, f"it refuses us (HTTP {reply.status})")
    if reply.status >= 500 or reply.status == 408:
        return TroubleError(Trouble.UNREACHABLE, f"it has an error of its own (HTTP {reply.status})")
    return TroubleError(Trouble.MALFORMED, f"an answer that its API does not know (HTTP {reply.status})")


def _asked_wait_s(header: str | None, otherwise_s: float) -> float:
    """`Retry-After` in seconds, or as a date."""
    if header is None:
        return otherwise_s
    if header.strip().isdecimal():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return otherwise_s
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())


def _tls(name: str, ca_file: Path | None, tls: bool) -> ssl.SSLContext:
    if not tls:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and takes no time to load
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as exc:  # also ssl.SSLError
        raise ConfigError(f"{name}: {ca_file}: {exc.strerror or 'not a certificate'}") from exc
