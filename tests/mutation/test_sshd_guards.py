"""Each line of a runner's sshd drop-in keeps somebody out by itself: with it refused, without it let in (RUN-3).

The runner's own sshd is as lax as one can be, its `principals` restrict nothing, and the certificate has no options: so
whatever is refused, the line refuses it.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

import ssh_peer
from hyops.services import pki_sshd
from ssh_peer import SSHD
from ssh_site import GROUP, RUNNER, CertifiedPeer, Site
from waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.skipif(SSHD is None, reason="not installed: sshd"), pytest.mark.req("RUN-3")]

LAX = """\
Match all
    PermitRootLogin yes
    PasswordAuthentication yes
    KbdInteractiveAuthentication yes
    PubkeyAcceptedAlgorithms +ssh-rsa-cert-v01@openssh.com
    CASignatureAlgorithms +ssh-rsa
    X11Forwarding yes
    PermitTunnel yes
"""
ELSEWHERE = {"HostCertificate", "Match", "TrustedUserCAKeys", "AuthorizedPrincipalsFile", "RevokedKeys"}
"""Held by tests/contract/test_certificates.py and test_identity_guards.py: without these nobody gets in, or all do."""


class LaxPeer(CertifiedPeer):
    """A runner with the drop-in, or with lines of it taken out, on a host that forbids nothing itself."""

    def __init__(self, folder: Path, site: Site, without: Sequence[str]) -> None:
        super().__init__(folder, site)
        (self.etc / "principals").write_text(f"{GROUP}\n")
        kept = [line for line in self.options.splitlines() if line.split()[0] not in without]
        assert len(kept) == len(self.options.splitlines()) - len(without)
        self.options = "XAuthLocation /bin/true\n" + "\n".join(kept) + "\n" + LAX

    def start(self) -> None:
        """Its `authorized_keys` lets in whomever a CA of somebody else says."""
        super().start()
        with (self.folder / "authorized_keys").open("a") as keys:
            keys.write(f'cert-authority,principals="{GROUP}" {self.public("ca")}\n')

    def key(self, name: str, *kind: str) -> Path:
        """The key of this name, the same for each runner of the site: an RSA key takes long to make."""
        key = self.site.folder / name
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", str(key), *kind], check=True)
        return key

    def signed(self, name: str, *kind: str, ca: Path | None = None, how: tuple[str, ...] = ()) -> Path:
        """A key of this kind with a certificate that restricts nothing, and is for ever."""
        key = self.key(name, *kind)
        words = ["ssh-keygen", "-q", "-s", str(ca or self.site.pki / "user_ca"), "-I", name, "-n", GROUP, *how]
        subprocess.run([*words, f"{key}.pub"], check=True, capture_output=True)
        return key

    def ssh(self, key: Path, *options: str, command: str = "echo in", env: dict[str, str] | None = None) -> str:
        """What the plain program says, as somebody with this key uses it."""
        words = [
            "ssh",
            "-F",
            "none",
            *options,
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=yes",
            "-oIdentitiesOnly=yes",
        ]
        words += [f"-oUserKnownHostsFile={self.known_hosts}", f"-oHostKeyAlias={RUNNER}", "-oIdentityAgent=none"]
        words += ["-i", str(key), "-p", str(self.port), f"{ssh_peer.user()}@127.0.0.1", command]
        done = subprocess.run(
            words, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False, env=env and {**env}
        )
        return (done.stdout + done.stderr).decode()


def password(peer: LaxPeer) -> bool:
    """Whether anything but a key is asked for; sshd names what it takes."""
    said = peer.ssh(peer.folder / "nobody", "-oPubkeyAuthentication=no")
    methods = re.search(r"Permission denied \(([a-z,-]*)\)", said)
    assert methods is not None, said
    return methods[1] != "publickey"


def own_line(peer: LaxPeer) -> bool:
    """A line in the user's own `authorized_keys`: here that of a CA, which all certificates of another hand in."""
    return "in" in peer.ssh(peer.signed("foreign", "-t", "ed25519", ca=peer.folder / "ca")).split()


def old_key(peer: LaxPeer) -> bool:
    """Kinds of keys and signatures that are not in the list: SHA-1, SHA-256 of RSA, and another curve."""
    rsa, p384 = peer.signed("rsa", "-t", "rsa", "-b", "2048"), peer.signed("p384", "-t", "ecdsa", "-b", "384")
    kinds = ("ssh-rsa-cert-v01@openssh.com", "rsa-sha2-256-cert-v01@openssh.com")
    attempts = [(rsa, f"-oPubkeyAcceptedAlgorithms={kind}") for kind in kinds] + [(p384, "-oCompression=no")]
    return any("in" in peer.ssh(key, option).split() for key, option in attempts)


def old_ca(peer: LaxPeer) -> bool:
    """A CA that is trusted, and signs with SHA-1 or another RSA."""
    ca = peer.key("rsa_ca", "-t", "rsa", "-b", "2048")
    with (peer.etc / "user_ca.pub").open("a") as trusted:
        trusted.write(ca.with_suffix(".pub").read_text())
    keys = [peer.signed(f"by-{how}", "-t", "ed25519", ca=ca, how=("-t", how)) for how in ("ssh-rsa", "rsa-sha2-512")]
    return any("in" in peer.ssh(key).split() for key in keys)


def good_key(peer: LaxPeer) -> Path:
    """Of the group, by the right CA."""
    return peer.signed("member", "-t", "ed25519")


def tcp(peer: LaxPeer) -> bool:
    """On to another port, from here or from there."""
    key = good_key(peer)
    there = peer.ssh(key, "-W", f"127.0.0.1:{peer.port}", command="")
    back = peer.ssh(key, "-oExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:9")
    return "SSH-2.0-" in there or "in" in back.split()


def stream(peer: LaxPeer) -> bool:
    """The same with a socket of the file system."""
    forward = f"{peer.folder}/s:127.0.0.1:9"
    said = peer.ssh(good_key(peer), "-oExitOnForwardFailure=yes", "-R", forward)
    return "in" in said.split()


def agent(peer: LaxPeer) -> bool:
    """Whoever is root there could log in with our other keys."""
    place = peer.folder / "a"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(place.is_socket, "ssh-agent")
            said = peer.ssh(good_key(peer), "-A", f"-oIdentityAgent={place}", command="echo to=$SSH_AUTH_SOCK")
        finally:
            process.terminate()
    assert "to=" in said
    return "to=/" in said


def display(peer: LaxPeer) -> bool:
    """A way back to a screen."""
    env = {"DISPLAY": "127.0.0.1:0", "PATH": "/usr/bin:/bin"}
    said = peer.ssh(good_key(peer), "-Y", command="echo to=$DISPLAY", env=env)
    assert "to=" in said
    return re.search(r"to=\S", said) is not None


def tunnel(peer: LaxPeer) -> bool:
    """A network interface; sshd says so when it may not even try."""
    key, said = good_key(peer), []

    class Client(asyncssh.SSHClient):
        def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
            said.append(msg)

    async def body() -> None:
        config = {"known_hosts": None, "agent_path": None, "config": None, "username": ssh_peer.user()}
        async with asyncssh.connect(
            "127.0.0.1", peer.port, client_factory=Client, client_keys=[str(key)], **config
        ) as link:
            try:
                link_there, _ = await link.create_tun(asyncssh.SSHTunTapSession)
            except asyncssh.ChannelOpenError:
                return
            link_there.close()

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))
    return not any("rejected tunnel" in one for one in said)


def terminal(peer: LaxPeer) -> bool:
    """A terminal."""
    said = peer.ssh(good_key(peer), "-tt", command="test -t 0 && echo in; echo out")
    assert "out" in said or "PTY allocation request failed" in said
    return "in" in said.split()


@dataclass(frozen=True)
class Guard:
    """A line of the drop-in, and who comes in without it. `beside`: a line that would keep him out as well."""

    line: str
    comes_in: Callable[[LaxPeer], bool]
    beside: tuple[str, ...] = ()


GUARDS = [
    Guard("AuthenticationMethods", password),
    Guard("AuthorizedKeysFile", own_line),
    Guard("PubkeyAcceptedAlgorithms", old_key),
    Guard("CASignatureAlgorithms", old_ca),
    Guard("AllowTcpForwarding", tcp),
    Guard("AllowStreamLocalForwarding", stream, beside=("AllowTcpForwarding",)),
    Guard("AllowAgentForwarding", agent),
    Guard("X11Forwarding", display),
    Guard("PermitTunnel", tunnel),
    Guard("PermitTTY", terminal),
]


Start = Callable[..., LaxPeer]


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Start]:
    """Runners that listen, each without these lines."""
    site, made = Site(tmp_path), []

    def start(*without: str) -> LaxPeer:
        peer = LaxPeer(tmp_path / f"peer{len(made)}", site, without)
        made.append(peer)
        peer.start()
        return peer

    yield start
    for peer in made:
        peer.end()


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.line for guard in GUARDS])
def test_a_line_alone_keeps_somebody_out(guard: Guard, peers: Start) -> None:
    """With the line he is refused; take it out, and he is in."""
    assert not guard.comes_in(peers(*guard.beside))
    assert guard.comes_in(peers(*guard.beside, guard.line))


def test_every_line_has_its_test() -> None:
    """A line that is written anew asks for somebody whom it keeps out."""
    text = pki_sshd.drop_in(RUNNER, "hyops")
    words = {line.split()[0] for line in text.splitlines() if not line.startswith("#")}
    assert words == {guard.line for guard in GUARDS} | ELSEWHERE


def test_a_plain_key_in_the_users_own_file_opens_nothing(peers: Start) -> None:
    """Two lines keep it out: neither is the file read, nor is a key without a certificate of a kind that is taken."""
    peer = peers()
    assert "Permission denied (publickey)" in peer.ssh(peer.folder / "user")
