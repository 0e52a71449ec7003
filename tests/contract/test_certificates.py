"""The contract of certificates, kept by both SSH adapters against a real sshd (RUN-3, fault 16)."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from hyops.adapters import ssh_openssh
from hyops.adapters.pki_files import PkiFolder
from hyops.adapters.pki_keys import FileAuthority
from hyops.adapters.runner_link import RunnerTarget, SshTransport
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.errors import ConfigError, Effect, HostKeyError, HyopsError, PrerequisiteError, RunnerUnreachableError
from hyops.model import ssh_algorithms
from hyops.services.pki import Pki
from hyops.testing.evidence import VERIFIER
from ssh_peer import SSHD, SshPeer
from ssh_site import DAY_S, GROUP, HOUR_S, RUNNER, CertifiedPeer, ShiftedClock, Site
from waiting import PATIENCE_S

pytestmark = [pytest.mark.skipif(SSHD is None, reason="not installed: sshd"), pytest.mark.req("RUN-3")]
ADAPTERS: dict[str, Callable[..., SshTransport]] = {
    "asyncssh": AsyncsshRunnerTransport,
    "openssh": OpensshRunnerTransport,
}
KINDS = {
    "KexAlgorithms": "ecdh-sha2-nistp256",
    "Ciphers": "aes256-ctr",
    "HostKeyAlgorithms": "ecdsa-sha2-nistp384",
}


@pytest.fixture(params=sorted(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return str(request.param)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site with CAs of its own."""
    return Site(tmp_path)


@pytest.fixture
def peer(site: Site) -> Iterator[CertifiedPeer]:
    """A runner of it; a test starts it when it is as it should be."""
    made = CertifiedPeer(site.folder / "peer", site)
    try:
        yield made
    finally:
        made.end()


def says(adapter: str, peer: SshPeer, **more: Any) -> str:
    """Connect, ask, and return the answer: the site of the runner."""
    known = {"host": "127.0.0.1", "user": ssh_peer.user(), "key_file": peer.folder / "user", "port": peer.port}
    known |= {"known_hosts": peer.known_hosts, "host_key_alias": RUNNER}
    transport = ADAPTERS[adapter]({RUNNER: RunnerTarget(**{**known, **more})}, VERIFIER)

    async def body() -> str:
        async with transport.connect(RUNNER) as link:
            return (await link.hello()).site

    answer: Coroutine[Any, Any, str] = asyncio.wait_for(body(), 240.0)
    return asyncio.run(answer)


def refused(adapter: str, peer: SshPeer, kind: type[HyopsError], **more: Any) -> HyopsError:
    """Connect, be refused with nothing started there, and return the error."""
    with pytest.raises(kind) as caught:
        says(adapter, peer, **more)
    assert not (peer.folder / "pids").exists()
    assert caught.value.effect is Effect.NONE
    return caught.value


def test_a_fresh_certificate_for_each_connection(adapter: str, site: Site, peer: CertifiedPeer) -> None:
    """Two connections, two serials, both in the register before sshd saw them; each valid for minutes."""
    peer.start()
    identity = site.identity(peer.folder / "user", peer.command)

    assert [says(adapter, peer, identity=identity, revoked=peer.etc / "revoked.krl") for _ in range(2)] == ["cloud"] * 2

    of_users = [one for one, _ in site.ca().issued() if one.kind == "user"]
    assert [one.serial for one in of_users] == [2, 3]
    assert all(f"serial {one.serial})" in peer.log for one in of_users)
    assert all((one.valid_before - one.issued_at).total_seconds() == 300 for one in of_users if one.valid_before)


def test_a_certificate_beside_the_key_is_shown(adapter: str, site: Site, peer: CertifiedPeer) -> None:
    """Somebody else may sign: both clients show `KEY-cert.pub`."""
    peer.start()
    certificate, _ = site.ca().sign_user(peer.public("user"), GROUP, command=peer.command)
    (peer.folder / "user-cert.pub").write_bytes(certificate)

    assert says(adapter, peer) == "cloud"


def test_a_plain_pin_goes_on_while_the_runner_shows_a_certificate(
    adapter: str, site: Site, peer: CertifiedPeer
) -> None:
    """The runner moves to certificates before the dispatcher does: nothing breaks on the way."""
    peer.start()
    peer.pin(f"{RUNNER} {peer.public('host')}")

    assert says(adapter, peer, identity=site.identity(peer.folder / "user", peer.command)) == "cloud"


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("shown", "mend"),
    [
        ("expired", "pki sign host"),
        ("not yet valid", "clock"),
        ("another name", "--name cloud-runner"),
        ("another CA", "pki known-hosts cloud-runner"),
        ("a user certificate", "pki sign host"),
        ("revoked by serial", "revoked"),
        ("revoked by key", "revoked"),
        ("list missing", "revoked"),
    ],
)
def test_a_host_certificate_that_does_not_count_is_refused(
    adapter: str, site: Site, peer: CertifiedPeer, shown: str, mend: str
) -> None:
    """Refused before the login begins, and the error says what to do."""
    key, ca, krl = peer.public("host"), site.ca(), site.pki / "revoked.krl"
    certificate, issued = ca.sign_host(key, [RUNNER])
    if shown == "expired":
        certificate, _ = site.ca(-100 * DAY_S).sign_host(key, [RUNNER])
    elif shown == "not yet valid":
        certificate, _ = site.ca(HOUR_S).sign_host(key, [RUNNER])
    elif shown == "another name":
        certificate, _ = ca.sign_host(key, ["onprem-runner"])
    elif shown == "another CA":
        (site.folder / "theirs").mkdir()
        certificate, _ = Site(site.folder / "theirs").ca().sign_host(key, [RUNNER])
    elif shown == "a user certificate":
        mixed = site.folder / "mixed"
        shutil.copytree(site.pki, mixed)
        shutil.copy(site.pki / "host_ca", mixed / "user_ca")  # else the CA alone would decide
        certificate, _ = Pki(FileAuthority(mixed), PkiFolder(mixed), ShiftedClock(), by="test").sign_user(key, RUNNER)
    elif shown == "revoked by serial":
        ca.revoke_serial(issued.serial, "a disk was sold")
    elif shown == "revoked by key":
        ca.revoke_key(key, "a disk was sold")
    elif shown == "list missing":
        krl = site.folder / "nobody-copied-it"
    peer.show(certificate)
    peer.start()

    error = refused(
        adapter, peer, HostKeyError, identity=site.identity(peer.folder / "user", peer.command), revoked=krl
    )

    assert mend in error.hint
    assert "Accepted" not in peer.log
    assert "userauth" not in peer.log


@pytest.mark.fault(16)
def test_the_list_is_read_anew_for_each_connection(adapter: str, site: Site, peer: CertifiedPeer) -> None:
    """A host that was good a moment ago is refused as soon as the list says so."""
    peer.start()
    more = {"identity": site.identity(peer.folder / "user", peer.command), "revoked": site.pki / "revoked.krl"}
    assert says(adapter, peer, **more) == "cloud"
    (peer.folder / "pids").unlink()

    site.ca().revoke_serial(1, "stolen")

    assert "revoked" in refused(adapter, peer, HostKeyError, **more).message


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("beside", "kind", "said"),
    [
        ("expired", PrerequisiteError, "expired at"),
        ("not yet valid", PrerequisiteError, "valid from"),
        ("a host certificate", ConfigError, "cannot log in"),
        ("no certificate", ConfigError, "user-cert.pub|our certificate"),
    ],
)
def test_a_certificate_that_no_sshd_takes_is_refused_here(
    adapter: str, site: Site, peer: CertifiedPeer, beside: str, kind: type[HyopsError], said: str
) -> None:
    """Nothing is dialled; the error says so and names the command."""
    key = peer.public("user")
    made = {
        "expired": lambda: site.ca(-HOUR_S).sign_user(key, GROUP, command=peer.command)[0],
        "not yet valid": lambda: site.ca(HOUR_S).sign_user(key, GROUP, command=peer.command)[0],
        "a host certificate": lambda: site.ca().sign_host(key, [RUNNER])[0],
        "no certificate": lambda: b"ssh-ed25519-cert-v01@openssh.com AAAA\n",
    }[beside]()
    (peer.folder / "user-cert.pub").write_bytes(made)
    peer.start()

    error = refused(adapter, peer, kind)

    with pytest.raises(AssertionError, match=said):
        raise AssertionError(error.message)
    assert "hyops pki sign user" in error.hint
    assert peer.connections == 0


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "why", ["another group", "another CA", "revoked serial", "revoked key", "another command", "no certificate"]
)
def test_a_login_that_the_runner_does_not_take_is_refused(
    adapter: str, site: Site, peer: CertifiedPeer, why: str
) -> None:
    """sshd tells nobody why; the error says where to look, and that the clocks agree."""
    ca, identity = site.ca(), site.identity(peer.folder / "user", peer.command)
    if why == "another group":
        identity = site.identity(peer.folder / "user", peer.command, group="onprem-runners")
    elif why == "another CA":
        (site.folder / "theirs").mkdir()
        identity = Site(site.folder / "theirs").identity(peer.folder / "user", peer.command)
    elif why == "another command":
        identity = site.identity(peer.folder / "user", "/bin/sh")
    more: dict[str, Any] = {"identity": identity}
    if why in {"revoked serial", "revoked key", "no certificate"}:
        more = {}
    if why.startswith("revoked"):
        certificate, issued = ca.sign_user(peer.public("user"), GROUP, command=peer.command)
        (peer.folder / "user-cert.pub").write_bytes(certificate)
        if why == "revoked serial":
            ca.revoke_serial(issued.serial, "stolen")
        else:
            ca.revoke_key(peer.public("user"), "stolen")
        peer.refresh()
    peer.start()

    error = refused(adapter, peer, RunnerUnreachableError, **more)

    assert "refused our key" in error.message
    assert ("its clock is right" in error.message) is (bool(more) and why != "another CA")
    assert ("AuthorizedPrincipalsFile" in error.hint) is (why != "no certificate")
    assert "nothing was sent" in error.hint


@pytest.mark.fault(16)
@pytest.mark.parametrize(("ours_by_s", "way"), [(-HOUR_S, "ahead of"), (HOUR_S, "behind")])
def test_a_clock_that_is_an_hour_off_is_named(
    adapter: str, site: Site, peer: CertifiedPeer, ours_by_s: float, way: str
) -> None:
    """The runner would not take a good certificate; it is asked for its time, and the error says the difference."""
    peer.start()

    error = refused(
        adapter,
        peer,
        RunnerUnreachableError,
        identity=site.identity(peer.folder / "user", peer.command, clock_by_s=ours_by_s),
    )

    found = re.search(r"its clock says \S+ \S+Z and is (\d+) s (ahead of|behind) ours", error.message)
    assert found is not None
    assert (abs(int(found[1]) - HOUR_S) < 60, found[2]) == (True, way)
    assert "chronyc" in error.hint


def test_what_may_read_a_clock_can_do_nothing_else(site: Site, peer: CertifiedPeer) -> None:
    """Its certificate is good for ever, so all that it may start is `date`, whatever it asks for."""
    peer.start()
    private, certificate = site.ca().clock_key()
    key = peer.folder / "clock"
    key.touch(mode=0o600)
    key.write_bytes(private)
    (peer.folder / "clock-cert.pub").write_bytes(certificate)

    done = ssh(peer, key, "id; touch " + str(peer.folder / "pids"))

    assert done.stdout.strip().isdigit()
    assert not (peer.folder / "pids").exists()
    forwarded = ssh(peer, key, forward=f"127.0.0.1:{peer.port}")
    assert b"administratively prohibited" in forwarded.stderr


def test_a_bastions_certificate_forwards_and_does_nothing_else(site: Site, peer: CertifiedPeer) -> None:
    """Through the bastion to the one place that it may reach; no command, no other place, no other runner."""
    target = CertifiedPeer(site.folder / "target", site)
    target.start()
    peer.bastion([f"127.0.0.1:{target.port}"])
    peer.start()
    key = peer.folder / "user"
    (peer.folder / "user-cert.pub").write_bytes(site.ca().sign_bastion(peer.public("user"), "jump")[0])
    try:
        assert ssh(peer, key, forward=f"127.0.0.1:{target.port}").stdout.startswith(b"SSH-2.0-")
        assert b"prohibited" in ssh(peer, key, forward=f"127.0.0.1:{peer.port}").stderr
        assert ssh(peer, key, "id").returncode == 1
        assert b"uid=" not in ssh(peer, key, "id").stdout
        assert b"Permission denied" in ssh(target, key, "id").stderr
    finally:
        target.end()


@pytest.mark.parametrize("word", sorted(KINDS))
def test_both_clients_refuse_what_is_not_in_the_list(adapter: str, tmp_path: Path, word: str) -> None:
    """A peer that offers only something else gets no login."""
    peer = SshPeer(tmp_path / "peer", options=f"{word} {KINDS[word]}\n")
    if word == "HostKeyAlgorithms":
        key = peer.folder / "p384"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(key)], check=True)
        peer.options += f"HostKey {key}\n"
    peer.start()
    try:
        peer.pin(f"{RUNNER} {peer.public('host')}")
        with pytest.raises((HostKeyError, RunnerUnreachableError)):
            says(adapter, peer)
        assert "Accepted" not in peer.log
    finally:
        peer.end()


@pytest.mark.parametrize(("mac", "taken"), [("hmac-sha2-256-etm@openssh.com", True), ("hmac-sha1", False)])
def test_both_clients_state_the_same_macs(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mac: str, taken: bool
) -> None:
    """Our ciphers carry their own; with one that does not, the list decides."""
    monkeypatch.setattr(ssh_algorithms, "CIPHERS", ("aes256-ctr",))
    monkeypatch.setitem(ssh_openssh.OPTIONS, "Ciphers", "aes256-ctr")
    peer = SshPeer(tmp_path / "peer", options=f"Ciphers aes256-ctr\nMACs {mac}\n")
    peer.start()
    try:
        peer.pin(f"{RUNNER} {peer.public('host')}")
        if taken:
            assert says(adapter, peer) == "cloud"
        else:
            with pytest.raises((HostKeyError, RunnerUnreachableError)):
                says(adapter, peer)
    finally:
        peer.end()


def ssh(
    peer: SshPeer, key: Path, command: str | None = None, *, forward: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The plain program, as a thief of a key would use it."""
    words = ["ssh", "-F", "none", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oIdentitiesOnly=yes"]
    words += [f"-oUserKnownHostsFile={peer.known_hosts}", f"-oHostKeyAlias={RUNNER}", "-oIdentityAgent=none"]
    words += ["-i", str(key), "-p", str(peer.port)] + (["-W", forward] if forward else [])
    words += [f"{ssh_peer.user()}@127.0.0.1"] + ([command] if command else [])
    return subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)
