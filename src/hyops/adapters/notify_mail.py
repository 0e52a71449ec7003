"""A sink over SMTP: STARTTLS or TLS, and no password before the connection is private (UX-4, INV-10).

smtplib blocks, so a message has a thread; when its limit has passed the connection is shut, which ends the thread too.
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from hyops.adapters.private_file import read_private
from hyops.errors import ConfigError
from hyops.model.notify import MailSink
from hyops.ports.clock import Clock
from hyops.ports.sink import Message, UndeliveredError

SUBJECT_MAX = 150


class MailNotifier:
    """`Sink`: one e-mail to all of `to`, in plain text."""

    def __init__(self, config: MailSink, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def deliver(self, message: Message) -> None:
        """See the port."""
        config = self._config
        password = read_private(Path(config.password_file), "SMTP password") if config.password_file else None
        session = _Session(config, _context(config))
        mail = mail_of(config, message, format_datetime(self._clock.now()))
        work = asyncio.ensure_future(asyncio.to_thread(session.send, mail, password))
        try:
            done, _ = await asyncio.wait({work}, timeout=config.limit_s)
        finally:
            session.shut()  # also when the service ends: it would wait for the thread
        if not done:
            with contextlib.suppress(UndeliveredError):
                await work
            raise UndeliveredError(f"no answer within {config.limit_s:g} s")
        work.result()


def mail_of(config: MailSink, message: Message, date: str) -> EmailMessage:
    """The mail; its Message-ID derives from what it tells, so that a mailbox can know one that came twice."""
    mail = EmailMessage()
    mail["From"], mail["To"] = config.sender, ", ".join(config.to)
    mail["Subject"] = f"[hyops] {message.title}"[:SUBJECT_MAX]
    mail["Date"] = date
    mail["Message-ID"] = f"<{message.delivery_id}@{config.sender.split('@')[1]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text() + "\n")
    return mail


class _Session:
    """One connection, which another thread may shut."""

    def __init__(self, config: MailSink, context: ssl.SSLContext) -> None:
        self._config, self._context = config, context
        self._client: smtplib.SMTP | None = None

    def send(self, mail: EmailMessage, password: str | None) -> None:
        """Connect, make it private, say who we are, send; every way to fail is `UndeliveredError`."""
        config, us = self._config, socket.gethostname()  # not its full name, which would ask DNS
        try:
            client: smtplib.SMTP
            if config.tls == "tls":
                client = smtplib.SMTP_SSL(local_hostname=us, timeout=config.limit_s, context=self._context)
            else:
                client = smtplib.SMTP(local_hostname=us, timeout=config.limit_s)
            self._client = client  # made without a host, so that `shut` reaches it while it connects
            client._host = config.host  # type: ignore[attr-defined]  # the name that TLS checks, as its constructor does
            code, _ = client.connect(config.host, config.port)
            if code != 220:
                raise UndeliveredError(f"SMTP {code}")
            with client:
                if config.tls == "starttls":
                    client.starttls(context=self._context)
                if config.user is not None and password is not None:
                    client.login(config.user, password)
                refused = client.send_message(mail, config.sender, config.to)
        except smtplib.SMTPResponseException as exc:
            raise UndeliveredError(f"SMTP {exc.smtp_code}") from None  # its words may repeat what was sent
        except (smtplib.SMTPException, OSError, ValueError, EOFError) as exc:
            if TimeoutError in (type(exc), type(exc.__context__)):  # smtplib tells a silent server as a closed one
                raise UndeliveredError(f"no answer within {config.limit_s:g} s") from None
            raise UndeliveredError(f"not sent: {type(exc).__name__}") from None
        finally:
            if self._client is not None:
                self._client.close()
        if refused:
            raise UndeliveredError(f"{len(refused)} of {len(config.to)} recipients were refused")

    def shut(self) -> None:
        """End it from outside."""
        sock = getattr(self._client, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _context(config: MailSink) -> ssl.SSLContext:
    if config.tls == "none":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except OSError as exc:
        raise ConfigError(f"ca_file {config.ca_file}: {exc.strerror or 'not a certificate'}") from exc
