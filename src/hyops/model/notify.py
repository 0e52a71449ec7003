"""What people are told of the loop, whom it is told to, and the mark that it was (UX-4, INV-10)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from hyops.model import canonical
from hyops.model.base import Name, Part, Record, Text, UtcTime

Event = Literal[
    "waiting",
    "expires-soon",
    "denied",
    "rejected",
    "expired",
    "held-up",
    "executed",
    "hold",
    "open-run",
    "ended",
    "test",
]
FilePath = Annotated[str, Field(pattern=r"^/", max_length=512)]
Url = Annotated[str, Field(pattern=r"^https?://[\x21-\x7e]+$", max_length=2048)]
Address = Annotated[str, Field(pattern=r"^[^\s<>@,;:\"\x00-\x1f]+@[A-Za-z0-9.-]+$", max_length=254)]
URGENCY: dict[Event, int] = {
    "waiting": 0,
    "expires-soon": 0,
    "open-run": 1,
    "ended": 1,
    "held-up": 1,
    "hold": 2,
    "rejected": 3,
    "denied": 3,
    "expired": 3,
    "executed": 4,
    "test": 5,
}
"""What stands first where several things are told at once; lower is more urgent."""


STILL_OPEN: tuple[Event, ...] = ("waiting", "expires-soon", "open-run", "test")
"""What is news however long ago it began."""


class Notice(Part):
    """One thing to tell. `notice_id` derives from what it is about, so that a restart finds the same one."""

    notice_id: Name
    event: Event
    about: Name
    at: UtcTime
    title: Annotated[str, Field(max_length=300)]
    lines: list[Text] = Field(default_factory=list)
    command: Text | None = None
    request_digest: str | None = None

    def text(self) -> str:
        """For people, in plain text."""
        asked = ["", "to answer:", f"    {self.command}"] if self.command else []
        return "\n".join([self.title, "", *self.lines, *asked])


class Told(Record):
    """The durable mark that a sink is done with a notice. One that was given up is not tried again."""

    kind: ClassVar[str] = "told"
    id_field: ClassVar[str] = "told_id"

    schema_: Literal["hyops/told/v1"] = Field(default="hyops/told/v1", alias="schema")
    told_id: Name
    sink: Name
    notice_id: Name
    event: Event
    about: Name
    at: UtcTime
    how: Literal["delivered", "summarised", "overtaken", "gave-up"]
    tries: Annotated[int, Field(ge=0)]
    reason: Text | None = None


class Since(Part):
    """When a sink was first served."""

    since: UtcTime

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return canonical.encode(self.body()) + b"\n"


class Pace(Part):
    """How often a sink is spoken to, and for how long a message is tried."""

    per_minute: Annotated[int, Field(ge=1, le=600, description="more than this is told in one summary")] = 10
    tries_max: Annotated[int, Field(ge=1, le=10000, description="then it is given up, and that is recorded")] = 200
    retry_first_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    retry_last_s: Annotated[float, Field(gt=0, le=3600, description="the longest pause between two tries")] = 60.0
    limit_s: Annotated[float, Field(gt=0, le=60, description="for one try, from connection to last byte")] = 10.0


class WebhookSink(Pace):
    """JSON by POST. With `secret_file` each is signed (HMAC-SHA256)."""

    type: Literal["webhook"]
    url: Url
    secret_file: FilePath
    ca_file: FilePath | None = None

    @model_validator(mode="after")
    def _safe(self) -> WebhookSink:
        _no_secret_in(self.url)
        return self


class SlackSink(Pace):
    """A Slack-compatible incoming webhook. Its URL is a secret, so it stands in a file of its own."""

    type: Literal["slack"]
    url_file: FilePath
    ca_file: FilePath | None = None


class MailSink(Pace):
    """E-mail by SMTP. `tls: none` is for a relay on this host, and sends no password."""

    type: Literal["mail"]
    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    sender: Address
    to: Annotated[list[Address], Field(min_length=1, max_length=50)]
    user: Annotated[str, Field(max_length=256)] | None = None
    password_file: FilePath | None = None
    ca_file: FilePath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> MailSink:
        if (self.user is None) is not (self.password_file is None):
            raise ValueError("user and password_file go together: give both, or neither")
        if self.tls == "none" and self.user is not None:
            raise ValueError("tls: none would send the password in the clear; set tls: starttls or tls: tls")
        if self.tls == "none" and not _loopback(self.host):
            raise ValueError(f"tls: none to {self.host} leaves this host in the clear; set tls: starttls or tls: tls")
        return self


Sink = Annotated[WebhookSink | SlackSink | MailSink, Field(discriminator="type")]


class NotifyFile(Part):
    """`notify.yml`: whose records are read, and who is told (`hyops service run notify`)."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["Notify"]
    homes: dict[Literal["decision", "dispatch", "approval", "execution"], FilePath] = Field(
        default_factory=dict, description="where the four stages live, if not in /opt/hybridops"
    )
    trusted_keys: FilePath
    state: Annotated[FilePath, Field(description="where the marks lie; of this service's user alone")] = (
        "/opt/hybridops/notify/state"
    )
    expires_soon_s: Annotated[float, Field(ge=0, le=86400)] = 300.0
    open_run_s: Annotated[float, Field(gt=0, le=7 * 86400, description="for a run whose policy names no rto_s")] = 900.0
    sinks: Annotated[dict[Name, Sink], Field(min_length=1, max_length=20)]


def _no_secret_in(url: str) -> None:
    parts = urlsplit(url)
    if parts.username is not None or parts.query:
        raise ValueError("url holds a user, a password or a query, where secrets would stand: take them out of it")
    check_way(url)


def check_way(url: str) -> None:
    """ValueError when a URL would carry messages off this host in the clear; it does not name the URL."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname or "")):
        raise ValueError("it is not https: only this host itself may be told in the clear")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
