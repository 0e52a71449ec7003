"""Mail over real sockets and real TLS: what arrives, and servers that mean harm (UX-4, INV-10)."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
from pathlib import Path

import pytest

from hyops.adapters.notify_mail import MailNotifier
from hyops.model.notify import MailSink
from hyops.ports.sink import UndeliveredError
from hyops.testing.clock import FakeClock
from notify_servers import MESSAGE, PASSWORD, MailServer, private
from pull_peer import SERVER, Authority


class Office:
    """An authority, a certificate for 127.0.0.1 and a password file."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.authority.issue("server", "mail", SERVER)
        self.stranger = Authority(folder / "stranger")
        self.password = private(folder / "password", PASSWORD)

    def context(self) -> ssl.SSLContext:
        """What the server speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.folder / "server.crt", self.authority.folder / "server.key")
        return context

    def send(self, port: int, **more: object) -> None:
        """One mail to two people."""
        words = {"type": "mail", "host": "127.0.0.1", "port": port, "sender": "hyops@example.org", "limit_s": 20.0}
        words |= {"to": ["ada@example.org", "bob@example.org"], "ca_file": str(self.authority.file)}
        words |= {"user": "hyops", "password_file": str(self.password), **more}
        asyncio.run(MailNotifier(MailSink.model_validate(words), FakeClock()).deliver(MESSAGE))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Made once."""
    return Office(tmp_path_factory.mktemp("office"))


@pytest.mark.req("UX-4", "INV-10")
@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_mail_arrives_by_a_private_connection(tls: str, office: Office) -> None:
    """To everybody, with an id that a repetition has too; nothing but greetings goes before TLS."""
    server = MailServer(office.context(), tls=tls)
    with server.serve() as port:
        office.send(port, tls=tls)
    mail = email.message_from_string(server.mails[0], policy=email.policy.default)

    assert server.let_in
    assert [line.split(":")[1].split(">")[0] for line in server.to] == ["<ada@example.org", "<bob@example.org"]
    assert mail["Subject"].startswith("[hyops] waits")
    assert mail["Message-ID"] == "<delivery-1@example.org>"
    assert "hyops approval grant dispatch-1" in mail.get_content()
    assert {line.split()[0].upper() for line in server.clear} <= {"EHLO", "STARTTLS"}


@pytest.mark.req("UX-4")
def test_a_relay_on_this_host_needs_no_tls_and_gets_no_password(office: Office) -> None:
    """Plain to loopback, without a user."""
    server = MailServer(None)
    with server.serve() as port:
        office.send(port, tls="none", user=None, password_file=None)

    assert len(server.mails) == 1
    assert not any(line.startswith("AUTH") for line in server.clear)


@pytest.mark.req("UX-4", "INV-10")
@pytest.mark.parametrize(
    ("fault", "limit_s", "says"),
    [
        ("hang", 0.5, "no answer"),
        ("reject", 20, "554"),
        ("greylist", 20, "not sent"),
        ("no-tls", 20, "not sent"),
        ("cut", 20, "not sent"),
    ],
)
@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_server_that_did_not_take_it_is_told_apart(
    fault: str, limit_s: float, says: str, tls: str, office: Office
) -> None:
    """A server that hides STARTTLS gets neither mail nor password; one that hangs holds nobody up."""
    if (fault, tls) == ("no-tls", "tls"):
        pytest.skip("nothing to hide: that connection begins with TLS")
    server = MailServer(office.context(), tls=tls, fault=fault)
    with server.serve() as port, pytest.raises(UndeliveredError) as failed:
        office.send(port, tls=tls, limit_s=limit_s)

    assert says in failed.value.message
    assert PASSWORD not in "".join(server.clear)


@pytest.mark.req("INV-10")
@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_server_that_another_authority_vouches_for_gets_nothing(tls: str, office: Office) -> None:
    """No password, no mail."""
    server = MailServer(office.context(), tls=tls)
    with server.serve() as port, pytest.raises(UndeliveredError):
        office.send(port, tls=tls, ca_file=str(office.stranger.file))

    assert (server.mails, server.let_in) == ([], False)


@pytest.mark.req("INV-10")
def test_a_wrong_password_is_refused_and_not_repeated(office: Office, tmp_path: Path) -> None:
    """The server's answer repeats what was sent, and the error does not."""
    server = MailServer(office.context())
    wrong = private(tmp_path / "wrong", "canary-wrong")
    with server.serve() as port, pytest.raises(UndeliveredError) as failed:
        office.send(port, password_file=str(wrong))

    assert failed.value.message == "SMTP 535"
    assert server.mails == []
