"""Sinks over HTTP: a signed JSON webhook, and Slack-compatible incoming webhooks (UX-4, INV-10).

One request for a message, one limit for all of it, no redirect, no proxy, no cookie; of the answer only the status
and `Retry-After` are read. Errors name neither URL nor secret.

The signature is `X-Hyops-Signature: t=<unix seconds>,v1=<hex>`, where hex is HMAC-SHA256 of `<t>.<body>`: whoever
receives it compares in constant time, and refuses a `t` that is old.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from hyops.adapters.http_client import GIVEN_UP, httpx
from hyops.adapters.private_file import read_private
from hyops.errors import ConfigError
from hyops.model.notify import SlackSink, WebhookSink, check_way
from hyops.ports.clock import Clock
from hyops.ports.sink import Message, UndeliveredError

SIGNATURE, DELIVERY = "X-Hyops-Signature", "X-Hyops-Delivery"
RETRY_AFTER_MAX_S = 3600.0
SLACK_TEXT_MAX = 35_000  # Slack cuts at 40,000 characters


class WebhookNotifier:
    """`Sink`: what is told as JSON, signed with the secret that lies in a file."""

    def __init__(self, config: WebhookSink, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def deliver(self, message: Message) -> None:
        """See the port."""
        body = encode(message)
        secret = read_private(Path(self._config.secret_file), "webhook secret")
        at = int(self._clock.now().timestamp())
        headers = {SIGNATURE: signature(secret, at, body), DELIVERY: message.delivery_id}
        await _post(self._config.url, body, headers, self._config.limit_s, self._config.ca_file, self._clock.now)


class SlackNotifier:
    """`Sink`: plain text for an incoming webhook; nothing in it is markup, so no record can call a channel or link."""

    def __init__(self, config: SlackSink, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def deliver(self, message: Message) -> None:
        """See the port."""
        url = read_private(Path(self._config.url_file), "incoming webhook")
        try:
            check_way(url)
        except ValueError as exc:
            raise ConfigError(f"incoming webhook {self._config.url_file}: {exc}") from exc
        text = slack_text(message)
        body = json.dumps({"text": text, "mrkdwn": False, "unfurl_links": False}, ensure_ascii=False).encode()
        await _post(url, body, {}, self._config.limit_s, self._config.ca_file, self._clock.now)


def encode(message: Message) -> bytes:
    """The webhook's body; `notice_id` names each thing told, the same in every message that tells it."""
    body = {
        "schema": "hyops/notice/v1",
        "delivery_id": message.delivery_id,
        "title": message.title,
        "text": message.text(),
        "notices": [notice.body() for notice in message.notices],
    }
    return json.dumps(body, ensure_ascii=False, sort_keys=True).encode()


def signature(secret: str, at: int, body: bytes) -> str:
    """What the receiver computes too."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


def slack_text(message: Message) -> str:
    """With the three characters escaped that Slack reads as markup of its own."""
    text = message.text().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text if len(text) <= SLACK_TEXT_MAX else text[:SLACK_TEXT_MAX] + "…"


def retry_after_s(value: str | None, now: datetime) -> float:
    """Seconds, or a date (RFC 9110); 0 when there is none that makes sense."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return min(float(value.strip()[:9]), RETRY_AFTER_MAX_S)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


async def _post(
    url: str, body: bytes, headers: Mapping[str, str], limit_s: float, ca_file: str | None, now: Callable[[], datetime]
) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "hyops", **headers}
    try:
        async with (
            asyncio.timeout(limit_s),
            httpx.AsyncClient(
                verify=_tls(url, ca_file),
                timeout=limit_s,
                trust_env=False,
                follow_redirects=False,
                event_hooks=GIVEN_UP,
            ) as client,
            client.stream("POST", url, headers=headers, content=body) as reply,
        ):
            status, after = reply.status_code, reply.headers.get("Retry-After")
    except (TimeoutError, httpx.TimeoutException):
        raise UndeliveredError(f"no answer within {limit_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as exc:
        raise UndeliveredError(f"not reached: {type(exc).__name__}") from None  # its words may hold the URL
    if not 200 <= status < 300:
        raise UndeliveredError(f"HTTP {status}", wait_s=retry_after_s(after, now()))


def _tls(url: str, ca_file: str | None) -> ssl.SSLContext:
    if url.startswith("http://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and takes no time to load
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # also ssl.SSLError
        raise ConfigError(f"ca_file {ca_file}: {exc.strerror or 'not a certificate'}") from exc
