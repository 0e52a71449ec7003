"""Webhooks over real sockets: what arrives, and receivers that hang, redirect, refuse and cut off (UX-4, INV-10)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from pathlib import Path

import pytest

from hyops.adapters.notify_webhook import SlackNotifier, WebhookNotifier, retry_after_s
from hyops.errors import ConfigError, HyopsError, PrerequisiteError
from hyops.model.notify import SlackSink, WebhookSink
from hyops.ports.sink import Message, Sink, UndeliveredError
from hyops.testing.clock import EPOCH, FakeClock
from notify_servers import MESSAGE, NOTICE, Receiver, private

SECRET = "canary-hmac-41d8"


def webhook(url: str, folder: Path, limit_s: float = 20.0, **more: object) -> WebhookNotifier:
    """One to that URL."""
    secret = private(folder / "secret", SECRET)
    words = {"type": "webhook", "url": url, "secret_file": str(secret), "limit_s": limit_s, **more}
    return WebhookNotifier(WebhookSink.model_validate(words), FakeClock())


def slack(url: str, folder: Path, limit_s: float = 20.0) -> SlackNotifier:
    """One to that URL."""
    at = str(private(folder / "url", url))
    return SlackNotifier(SlackSink.model_validate({"type": "slack", "url_file": at, "limit_s": limit_s}), FakeClock())


def deliver(sink: Sink, message: Message = MESSAGE) -> None:
    """Once."""
    asyncio.run(sink.deliver(message))


@pytest.mark.req("UX-4")
def test_a_receiver_can_check_who_says_it_and_whether_it_was_told_before(tmp_path: Path) -> None:
    """The signature is HMAC over time and body; delivery and notice have ids; the body is JSON."""
    receiver = Receiver()
    with receiver.serve() as url:
        deliver(webhook(url, tmp_path))
    ((_, headers, body),) = receiver.seen
    at, mac = (part.split("=")[1] for part in headers["X-Hyops-Signature"].split(","))
    told = json.loads(body)

    assert mac == hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert int(at) == int(EPOCH.timestamp())
    assert headers["X-Hyops-Delivery"] == told["delivery_id"] == "delivery-1"
    assert [one["notice_id"] for one in told["notices"]] == ["notice-waiting-1"]
    assert NOTICE.command is not None
    assert NOTICE.command in told["text"]
    assert SECRET not in body.decode() + str(headers)


@pytest.mark.req("UX-4", "INV-10")
@pytest.mark.parametrize(
    ("mode", "limit_s", "says"),
    [
        ("hang", 0.5, "no answer"),
        ("cut", 20, "not reached"),
        ("redirect", 20, "302"),
        ("500", 20, "500"),
        ("404", 20, "404"),
    ],
)
@pytest.mark.parametrize("kind", ["webhook", "slack"])
def test_a_receiver_that_did_not_take_it_is_told_apart_and_names_no_secret(
    mode: str, limit_s: float, says: str, kind: str, tmp_path: Path
) -> None:
    """No redirect is followed, nothing waits for ever, and no error holds the URL or the secret."""
    receiver = Receiver(mode)
    with receiver.serve() as url:
        sink: Sink = webhook(url, tmp_path, limit_s) if kind == "webhook" else slack(url, tmp_path, limit_s)
        with pytest.raises(UndeliveredError) as failed:
            deliver(sink)

    assert says in failed.value.message
    assert "canary" not in repr(failed.value) + str(failed.value.as_json()) + str(failed.value.__cause__)
    assert [path for path, _, _ in receiver.seen] == ["/hook-canary-77aa"]


@pytest.mark.req("UX-4")
@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0),
        ("999999999999", 3600.0),
        ("soon", 0.0),
        ("-5", 0.0),
        (None, 0.0),
    ],
)
def test_a_receiver_that_is_asked_too_often_says_when(value: str | None, wait_s: float, tmp_path: Path) -> None:
    """429 with Retry-After in seconds or as a date; nonsense is nothing, and nobody waits for longer than an hour."""
    receiver = Receiver("429")
    receiver.retry_after = value
    with receiver.serve() as url, pytest.raises(UndeliveredError) as failed:
        deliver(webhook(url, tmp_path))

    assert (failed.value.wait_s, retry_after_s(value, EPOCH)) == (wait_s, wait_s)


@pytest.mark.req("UX-4", "INV-10")
def test_slack_gets_text_that_is_no_markup(tmp_path: Path) -> None:
    """What a record says calls no channel and makes no link."""
    receiver = Receiver()
    with receiver.serve() as url:
        deliver(slack(url, tmp_path))
    text = json.loads(receiver.seen[0][2])["text"]

    assert "<" not in text
    assert "&lt;!channel&gt; &amp; &lt;https://evil.example|approve&gt;" in text


@pytest.mark.req("INV-10", "UX-4")
@pytest.mark.parametrize("fault", ["missing", "open", "empty", "two lines", "link", "folder"])
def test_a_secret_that_is_not_private_is_not_used(fault: str, tmp_path: Path) -> None:
    """The error names the file and what is wrong; nothing is sent."""
    receiver = Receiver()
    with receiver.serve() as url:
        sink, path = webhook(url, tmp_path), tmp_path / "secret"
        if fault == "open":
            path.chmod(0o644)
        elif fault in ("empty", "two lines"):
            path.write_text("" if fault == "empty" else "a\nb\n")
        else:
            path.unlink()
            if fault == "link":
                path.symlink_to(private(tmp_path / "other", SECRET))
            elif fault == "folder":
                path.mkdir(mode=0o700)
        with pytest.raises(HyopsError, match=str(path)) as refused:
            deliver(sink)

    assert type(refused.value) in (PrerequisiteError, ConfigError)
    assert receiver.seen == []


@pytest.mark.req("INV-10")
@pytest.mark.parametrize("url", ["http://ops.example.org/canary", "ftp://127.0.0.1/canary", "canary"])
def test_a_webhook_url_that_is_not_private_is_not_used(url: str, tmp_path: Path) -> None:
    """It would leave this host in the clear; the error does not repeat it."""
    with pytest.raises(ConfigError) as refused:
        deliver(slack(url, tmp_path))

    assert "canary" not in refused.value.message


@pytest.mark.req("UX-4")
def test_a_receiver_with_a_certificate_that_nobody_vouches_for_is_not_told(tmp_path: Path) -> None:
    """TLS to whoever answers is no TLS; a receiver without TLS on an https URL is none either."""
    receiver = Receiver()
    with receiver.serve() as url, pytest.raises(UndeliveredError):
        deliver(webhook(url.replace("http://", "https://"), tmp_path))

    assert receiver.seen == []
