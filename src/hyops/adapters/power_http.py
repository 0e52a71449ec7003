"""A power switch behind a small HTTP API with a bearer token (FEN-1, faults 22 and 23).

APIs of this kind differ in their words only, so the words are data (`PowerWords`); what they share is here: one limit
for a whole call, a bounded reply, the reply must be about the host that was asked about, no redirects, no proxies.
The token is read at each call: a rotated one is used at once, and a missing one spoils this switch and nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hyops.adapters.http_client import GIVEN_UP, httpx, whole
from hyops.errors import ConfigError, DeadlineError, Effect, PrerequisiteError, RecordError, TargetError
from hyops.model import canonical
from hyops.ports.power import PowerState

BYTES_MAX = 64 * 1024
TOKEN_BYTES_MAX = 4096


@dataclass(frozen=True)
class PowerWords:
    """How one API says it; `{host}` stands for the host in both paths."""

    state_path: str = "/hosts/{host}"
    off_path: str = "/hosts/{host}/off"
    off_body: Mapping[str, Any] | None = None
    state_key: str = "power"
    host_key: str | None = "host"
    on: frozenset[str] = field(default_factory=lambda: frozenset({"on"}))
    off: frozenset[str] = field(default_factory=lambda: frozenset({"off"}))


class HttpPowerSwitch:
    """`PowerSwitch`. `limit_s` bounds a whole call, from the connection to the last byte."""

    def __init__(
        self,
        url: str,
        token_file: Path,
        *,
        limit_s: float,
        ca_file: Path | None = None,
        words: PowerWords | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._token_file, self._ca_file = url.rstrip("/"), token_file, ca_file
        self._limit_s, self._words, self._transport = limit_s, words or PowerWords(), transport

    async def state(self, host: str) -> PowerState:
        """See the port."""
        body = await self._call("GET", self._words.state_path, host, None)
        try:
            said = canonical.parse(body, source=f"power switch: {host}", bytes_max=BYTES_MAX)
        except RecordError as exc:
            raise TargetError(exc.message, effect=Effect.NONE, host=host) from exc
        words = self._words
        word = said.get(words.state_key) if isinstance(said, dict) else None
        if not isinstance(word, str):
            raise TargetError(f"power switch: no {words.state_key!r} in its answer about {host}", host=host)
        if words.host_key is not None and said.get(words.host_key, host) != host:
            raise TargetError(f"power switch: asked about {host}, answered about another host", host=host)
        return PowerState.OFF if word in words.off else PowerState.ON if word in words.on else PowerState.UNKNOWN

    async def off(self, host: str) -> None:
        """See the port."""
        await self._call("POST", self._words.off_path, host, self._words.off_body)

    async def _call(self, method: str, path: str, host: str, body: Mapping[str, Any] | None) -> bytes:
        url = self._url + path.format(host=quote(host, safe=""))
        headers = {"Authorization": f"Bearer {self._token()}", "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(self._limit_s),
                httpx.AsyncClient(
                    verify=self._tls(),
                    transport=self._transport,
                    timeout=self._limit_s,
                    trust_env=False,
                    follow_redirects=False,
                    event_hooks=GIVEN_UP,
                ) as client,
                client.stream(method, url, headers=headers, json=body) as reply,
            ):
                data = await whole(reply, BYTES_MAX)
                if data is None:
                    raise TargetError(f"power switch: its answer has more than {BYTES_MAX} bytes", host=host)
                if not reply.is_success:
                    raise TargetError(f"power switch: {method} about {host}: HTTP {reply.status_code}", host=host)
                return data
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise DeadlineError(f"power switch: no answer within {self._limit_s:g} s", host=host) from exc
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as exc:
            raise TargetError(f"power switch: {type(exc).__name__}", host=host) from exc

    def _token(self) -> str:
        try:
            with self._token_file.open("rb") as file:
                token = file.read(TOKEN_BYTES_MAX).decode("ascii").strip()
        except OSError as exc:
            raise PrerequisiteError(f"power switch: {self._token_file}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(f"power switch: {self._token_file}: not a token") from exc
        if not token or not token.isprintable() or " " in token:
            raise ConfigError(f"power switch: {self._token_file}: not a token")
        return token

    def _tls(self) -> ssl.SSLContext:
        if not self._url.startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and takes no time to load
        try:
            return ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except OSError as exc:  # also ssl.SSLError
            raise ConfigError(f"power switch: {self._ca_file}: {exc.strerror or 'not a certificate'}") from exc
