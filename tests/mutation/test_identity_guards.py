"""Each guard of SSH identities is taken out; what it keeps must then break, or its tests prove nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from hyops.adapters import runner_link, ssh_asyncssh, ssh_openssh
from hyops.adapters.runner_link import RunnerTarget, SshTransport
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.errors import HyopsError
from hyops.services.pki import Pki
from hyops.testing.evidence import VERIFIER
from ssh_peer import SSHD
from ssh_site import GROUP, HOUR_S, RUNNER, CertifiedPeer, Site

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="not installed: sshd"),
    pytest.mark.req("RUN-3"),
    pytest.mark.fault(16),
]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[CertifiedPeer]:
    """A runner with certificates, which listens."""
    made = CertifiedPeer(tmp_path / "peer", Site(tmp_path))
    made.start()
    try:
        yield made
    finally:
        made.end()


def told(transport: Callable[..., SshTransport], peer: CertifiedPeer, **more: Any) -> str:
    """`""` when the link comes up and answers, else the refusal."""
    known = {"host": "127.0.0.1", "user": ssh_peer.user(), "key_file": peer.folder / "user", "port": peer.port}
    known |= {"known_hosts": peer.known_hosts, "host_key_alias": RUNNER, "revoked": peer.site.pki / "revoked.krl"}
    target = RunnerTarget(**{**known, **more})

    async def body() -> str:
        try:
            async with transport({RUNNER: target}, VERIFIER).connect(RUNNER) as link:
                await link.hello()
        except HyopsError as exc:
            return exc.message
        return ""

    return asyncio.run(asyncio.wait_for(body(), 240.0))


@pytest.mark.parametrize("client", ["asyncssh", "openssh"])
def test_without_the_list_a_revoked_host_is_taken(
    peer: CertifiedPeer, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    """Let either client pass the list by: a runner whose certificate was taken back gets our login."""
    peer.site.ca().revoke_serial(1, "stolen")
    more = {"identity": peer.site.identity(peer.folder / "user", peer.command)}
    transport = AsyncsshRunnerTransport if client == "asyncssh" else OpensshRunnerTransport
    assert "revoked" in told(transport, peer, **more)

    monkeypatch.setattr(ssh_asyncssh, "is_revoked", lambda *_: False)
    real = ssh_openssh._words
    monkeypatch.setattr(ssh_openssh, "_words", lambda *given: [w for w in real(*given) if "RevokedHostKeys" not in w])

    assert told(transport, peer, **more) == ""


def test_without_the_look_at_our_own_an_expired_one_is_dialled(
    peer: CertifiedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take the look away: the runner sees a connection that cannot succeed, and the operator a riddle."""
    made, _ = peer.site.ca(-HOUR_S).sign_user(peer.public("user"), GROUP, command=peer.command)
    (peer.folder / "user-cert.pub").write_bytes(made)
    assert "expired at" in told(AsyncsshRunnerTransport, peer)
    assert peer.connections == 0

    monkeypatch.setattr(runner_link, "refuse_unfit", lambda *_: None)

    assert "expired" not in told(AsyncsshRunnerTransport, peer)
    assert peer.connections == 1


def test_without_the_question_a_clock_is_not_named(peer: CertifiedPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not ask the runner's clock: sshd says only that it does not like the key."""
    more = {"identity": peer.site.identity(peer.folder / "user", peer.command, clock_by_s=-HOUR_S)}
    assert "ahead of ours" in told(AsyncsshRunnerTransport, peer, **more)

    monkeypatch.setattr(runner_link, "clock_fault", lambda *_: None)

    assert "ahead of ours" not in told(AsyncsshRunnerTransport, peer, **more)


def test_without_the_look_at_revocations_a_stolen_key_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take it away: whoever asks for a certificate of a stolen key gets one."""
    site = Site(tmp_path)
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    site.ca().revoke_key(public, "stolen")
    with pytest.raises(HyopsError, match="stolen"):
        site.ca().sign_user(public, GROUP)

    monkeypatch.setattr(Pki, "_refuse_revoked", lambda *_: None)

    assert site.ca().sign_user(public, GROUP)[0]


def test_without_the_runners_own_words_a_certificate_alone_gets_a_shell(peer: CertifiedPeer) -> None:
    """A certificate that names no command (another CA tool made it) starts what the runner says; without that, all."""
    from cryptography.hazmat.primitives import serialization as forms

    ca = forms.load_ssh_private_key((peer.site.pki / "user_ca").read_bytes(), None)
    key = forms.load_ssh_public_key(peer.public("user").encode())
    builder = forms.SSHCertificateBuilder().public_key(key).serial(9).type(forms.SSHCertificateType.USER)  # type: ignore[arg-type]
    builder = builder.key_id(b"x").valid_principals([GROUP.encode()]).valid_after(0).valid_before(2**63)
    (peer.folder / "user-cert.pub").write_bytes(builder.sign(ca).public_bytes())  # type: ignore[arg-type]
    assert told(AsyncsshRunnerTransport, peer) == ""

    (peer.etc / "principals").write_text(f"{GROUP}\n")

    assert told(AsyncsshRunnerTransport, peer) != ""  # what it asked for by name was started, and is no runner here
