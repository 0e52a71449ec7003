"""Many runners at once, against sshds with the stock `MaxStartups`: no handshake is dropped, straight or through one
bastion (RUN-11); and what a bastion may and may not do to a dispatch (RUN-3, ACC-2).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from hyops.adapters import ssh_asyncssh, ssh_openssh
from hyops.adapters.doors import Doors
from hyops.adapters.runner_link import RunnerTarget, SshTransport
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.errors import ConfigError, HostKeyError, RunnerUnreachableError
from hyops.testing.evidence import VERIFIER
from hyops.testing.runs import bundle_of
from ssh_peer import SSHD, SshPeer
from waiting import wait_for

pytestmark = pytest.mark.skipif(SSHD is None, reason="not installed: sshd")
RUNNER = "cloud-runner"
AT_ONCE = 12  # from the tenth on a stock sshd drops at random
DROPPED = "past MaxStartups"
FORWARDS = 'restrict,port-forwarding,command="/bin/false"'
LIMIT_S = 120.0
OWNER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
import test_fleet as it
async def main():
    client = getattr(it, sys.argv[2])
    jump, peer = (it.known(Path(sys.argv[n]), int(sys.argv[n + 2])) for n in (3, 4))
    async with it.behind(client, jump, peer).connect(it.RUNNER) as session:
        await session.hello()
        print("up", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, LIMIT_S))


def started(folder: Path, options: str = "") -> SshPeer:
    """An sshd that listens and has pinned its key under `it`."""
    peer = SshPeer(folder, options=options)
    peer.start()
    peer.pin(f"it {peer.public('host')}")
    return peer


@dataclass
class Known:
    """A peer that another process runs."""

    folder: Path
    port: int

    @property
    def known_hosts(self) -> Path:
        """The pins."""
        return self.folder / "known_hosts"


def known(folder: Path, port: int) -> Any:
    """As much of a peer as it takes to be dialled."""
    return Known(folder, port)


def target(peer: SshPeer, **more: Any) -> RunnerTarget:
    """How it is reached."""
    return RunnerTarget(
        **{
            "host": "127.0.0.1", "user": ssh_peer.user(), "key_file": peer.folder / "user", "port": peer.port,
            "known_hosts": peer.known_hosts, "host_key_alias": "it", **more,
        }
    )  # fmt: skip


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[SshPeer]:
    """A host with runners."""
    made = started(tmp_path / "peer")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def jump(tmp_path: Path) -> Iterator[SshPeer]:
    """A bastion: our key there forwards and starts nothing."""
    made = started(tmp_path / "jump")
    (made.folder / "authorized_keys").write_text(f"{FORWARDS} {made.public('user')}\n")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(params=[AsyncsshRunnerTransport, OpensshRunnerTransport], ids=["asyncssh", "openssh"])
def client(request: pytest.FixtureRequest) -> type[SshTransport]:
    """Each of the two."""
    found: type[SshTransport] = request.param
    return found


def behind(client: Callable[..., SshTransport], jump: SshPeer, peer: SshPeer, **more: Any) -> SshTransport:
    """The peer as a runner that is reached through the bastion alone."""
    way = target(jump, only_forwards=True)
    return client({RUNNER: target(peer, bastion=way, **more)}, VERIFIER)


async def all_up(transport: SshTransport, count: int) -> int:
    """So many links at once, each held until all have answered; how many have."""
    answered, everybody = 0, asyncio.Event()

    async def one() -> None:
        nonlocal answered
        async with transport.connect(RUNNER) as link:
            assert (await link.hello()).runner_ref == RUNNER
            answered += 1
            if answered == count:
                everybody.set()
            await everybody.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    return answered


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("transport", [AsyncsshRunnerTransport, OpensshRunnerTransport])
def test_one_host_drops_no_handshake_of_a_burst(peer: SshPeer, transport: Any) -> None:
    """More links to one sshd than it lets log in at once: each comes up at its first try."""
    assert run(all_up(transport({RUNNER: target(peer)}, VERIFIER), AT_ONCE)) == AT_ONCE
    assert (peer.connections, peer.log.count(DROPPED)) == (AT_ONCE, 0)


@pytest.mark.req("RUN-11", "ACC-2")
def test_one_bastion_sees_one_handshake_of_a_burst(client: Any, peer: SshPeer, jump: SshPeer) -> None:
    """All links go through one connection to the bastion, and to the runners' host no faster than straight."""
    assert run(all_up(behind(client, jump, peer), AT_ONCE)) == AT_ONCE
    assert (jump.connections, peer.connections) == (1, AT_ONCE)
    assert DROPPED not in jump.log + peer.log
    wait_for(lambda: jump.sessions() == [] and peer.sessions() == [], "the end of every connection")


@pytest.mark.req("RUN-11")
def test_a_turn_lasts_until_sshd_counts_the_handshake_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An sshd that drops all above two, and turns for two: none is dropped. Without turns some are."""
    for guarded in (True, False):
        peer = started(tmp_path / str(guarded), "MaxStartups 2:100:2\n")
        try:
            transport = AsyncsshRunnerTransport({RUNNER: target(peer)}, VERIFIER)
            transport._doors = Doors(at_once=2 if guarded else 50)
            up = run(all_up(transport, 6)) if guarded else run(asyncio.wait_for(_try(transport), LIMIT_S))
        finally:
            peer.end()
        assert (DROPPED in peer.log) is not guarded
        assert up == 6 or not guarded


async def _try(transport: SshTransport) -> int:
    tasks = [asyncio.create_task(all_up(transport, 1)) for _ in range(6)]
    return sum(up for up in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(up, int))


@pytest.mark.req("RUN-3", "ACC-2")
@pytest.mark.fault(16)
def test_a_bastion_with_another_key_is_refused_and_nothing_goes_around_it(
    client: Any, peer: SshPeer, jump: SshPeer
) -> None:
    """The refusal names the bastion's pin; neither host saw a login, and the runner no connection at all."""
    jump.pin(f"it {jump.public('other')}")

    async def body() -> None:
        with pytest.raises(HostKeyError, match=r"^it \(127\.0\.0\.1\): "):
            async with behind(client, jump, peer).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert (jump.log.count("Accepted"), peer.connections) == (0, 0)


@pytest.mark.req("RUN-3", "ACC-2")
@pytest.mark.parametrize("why", ["down", "stranger", "forbids"])
def test_a_bastion_that_does_not_let_us_through_is_no_reason_to_go_straight(
    client: Any, peer: SshPeer, jump: SshPeer, why: str
) -> None:
    """Nobody there, our key unknown, or the place not permitted: unreachable; the runner saw no connection."""
    keys = jump.folder / "authorized_keys"
    if why == "down":
        jump.end()
    elif why == "stranger":
        keys.write_text(f"{FORWARDS} {jump.public('other')}\n")
    else:
        keys.write_text(f'permitopen="127.0.0.1:1",{FORWARDS} {jump.public("user")}\n')
    told = {
        "down": r"^it \(127\.0\.0\.1:",
        "stranger": "refused our key",
        "forbids": "the bastion does not forward to it",
    }

    async def body() -> None:
        with pytest.raises(RunnerUnreachableError, match=told[why]):
            async with behind(client, jump, peer).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert peer.connections == 0


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_a_bastion_cannot_pass_another_host_off_as_the_runner(client: Any, peer: SshPeer, jump: SshPeer) -> None:
    """The runner's own key is pinned end to end: a bastion that leads elsewhere gets no login."""
    peer.pin(f"it {peer.public('other')}")

    async def body() -> None:
        with pytest.raises(HostKeyError, match=RUNNER):
            async with behind(client, jump, peer).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert "Accepted" not in peer.log


@pytest.mark.req("RUN-5", "RUN-11")
def test_after_the_bastions_connection_broke_the_next_link_dials_a_new_one(
    client: Any, peer: SshPeer, jump: SshPeer
) -> None:
    """Links in it are lost links; whoever asks again comes up over a second connection."""

    async def body() -> None:
        transport = behind(client, jump, peer)
        async with transport.connect(RUNNER) as link:
            await link.hello()
            for pid in jump.sessions():
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(RunnerUnreachableError):
                await _for_ever(link.hello)  # until the loss has come through
            async with transport.connect(RUNNER) as again:
                assert (await again.hello()).site == "cloud"

    run(body())
    assert jump.connections == 2


async def _for_ever(call: Callable[[], Awaitable[object]]) -> None:
    while True:
        await call()


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where links of this test make their folders: short, for the sockets, and nobody else's."""
    folder = Path(tempfile.mkdtemp(prefix="hyops-t-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def nothing_is_left(links: Path, *peers: SshPeer) -> None:
    """No file here, no connection there."""
    assert list(links.iterdir()) == []
    for peer in peers:
        wait_for(lambda peer=peer: peer.sessions() == [], "the end of every connection")  # type: ignore[misc]


@pytest.mark.req("RUN-3", "RUN-5", "RUN-11")
def test_every_verb_goes_through_a_bastion(client: Any, peer: SshPeer, jump: SshPeer, links: Path) -> None:
    """Megabytes of bundle, calls beside each other and beside an attach: one login on each; then nothing is left."""
    bundle = bundle_of({"a": os.urandom(3_000_000)})

    async def body() -> None:
        async with behind(client, jump, peer).connect(RUNNER) as link:
            assert (await link.hello()).site == "cloud"
            assert (await link.stage("run-x", bundle)).shipped_bytes == 3_000_000
            following = link.attach("run-x")
            assert (await anext(following)).stream == "log"
            states = await asyncio.gather(*(link.status(f"run-{n}") for n in range(12)))
            assert [state.run_id for state in states] == [f"run-{n}" for n in range(12)]
            await following.aclose()  # type: ignore[attr-defined]

    run(body())
    assert [(one.connections, one.log.count("Accepted publickey")) for one in (jump, peer)] == [(1, 1)] * 2
    nothing_is_left(links, jump, peer)


@pytest.mark.req("RUN-3")
def test_the_bastion_is_asked_for_forwarding_and_nothing_else(client: Any, peer: SshPeer, jump: SshPeer) -> None:
    """No session of ours is begun there, so a key that may do more is not used for more."""
    (jump.folder / "authorized_keys").write_text(f"restrict,port-forwarding {jump.public('user')}\n")
    assert run(all_up(behind(client, jump, peer), 2)) == 2
    assert "Starting session" not in jump.log
    assert "Starting session" in peer.log


@pytest.mark.req("RUN-11")
def test_a_killed_owner_leaves_no_connection_to_a_bastion(
    client: Any, peer: SshPeer, jump: SshPeer, links: Path
) -> None:
    """kill -9 of the process that dispatches: both connections end by themselves, and so do the sockets."""
    here = Path(__file__)
    words = [f"{here.parent}:{here.parents[1]}", client.__name__, *(str(one.folder) for one in (jump, peer))]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *words, str(jump.port), str(peer.port)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(links)},
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert (len(jump.sessions()), len(peer.sessions())) == (1, 1)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    for one in (jump, peer):
        wait_for(lambda one=one: one.sessions() == [], "the end of every connection")  # type: ignore[misc]
    wait_for(lambda: not list(links.glob("*/s")), "the end of the sockets")


@pytest.mark.req("RUN-3")
@pytest.mark.parametrize("why", ["another key", "an agent"])
def test_a_bastion_is_entered_with_its_own_key_alone(
    client: Any, peer: SshPeer, jump: SshPeer, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """The runner's key would open it, and so would an agent's: neither is shown to it."""
    way = target(jump, only_forwards=True, key_file=jump.folder / "other")
    agent = jump.folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        wait_for(agent.exists, "the agent")
        if why == "an agent":
            subprocess.run(["ssh-add", "-q", str(jump.folder / "user")], check=True, env={"SSH_AUTH_SOCK": str(agent)})
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        mine = jump.folder / "user"
        keys = f"{FORWARDS} {jump.public('user')}\n"
        (jump.folder / "authorized_keys").write_text(keys)
        (peer.folder / "authorized_keys").write_text(
            (peer.folder / "authorized_keys").read_text().replace(peer.public("user"), jump.public("user"))
        )

        async def body() -> None:
            transport = client({RUNNER: target(peer, key_file=mine, bastion=way)}, VERIFIER)
            with pytest.raises(RunnerUnreachableError, match=r"^it .*refused our key"):
                async with transport.connect(RUNNER):
                    pytest.fail("connected")

        run(body())
    finally:
        process.kill()
        process.wait()
    assert (jump.log.count("Accepted publickey"), peer.connections) == (0, 0)


@pytest.mark.req("RUN-3")
@pytest.mark.parametrize("entry", [{"host": "x; touch y"}, {"host": "%h"}, {"host": "-oProxyCommand=x"}])
@pytest.mark.parametrize("which", ["bastion", "runner"])
def test_openssh_gets_no_word_about_a_bastion_that_is_more_than_a_name(
    peer: SshPeer, jump: SshPeer, entry: dict[str, str], which: str
) -> None:
    """A shell reads the way to the runner: what is no name is refused before anything of it is started."""
    way = target(jump, only_forwards=True, **(entry if which == "bastion" else {}))
    far = target(peer, bastion=way, **(entry if which == "runner" else {}))

    async def body() -> None:
        with pytest.raises(ConfigError):
            async with OpensshRunnerTransport({RUNNER: far}, VERIFIER).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert peer.connections == 0


@pytest.mark.req("ACC-2")
@pytest.mark.parametrize("client", [ssh_asyncssh, ssh_openssh], ids=["asyncssh", "openssh"])
def test_no_link_is_made_on_another_way_than_the_one_that_is_written_down(
    client: Any, peer: SshPeer, jump: SshPeer
) -> None:
    """A bastion that is named and not there, or there and not named: nobody is dialled."""
    far = target(peer, bastion=target(jump, only_forwards=True))

    async def body() -> None:
        with pytest.raises(ValueError, match="the way that is written down"):
            await client.dial(far, 5.0)
        over = await client.dial(target(jump, only_forwards=True), 5.0)
        try:
            with pytest.raises(ValueError, match="the way that is written down"):
                await client.dial(target(peer), 5.0, over)
        finally:
            await over.drop()

    run(body())
    assert peer.connections == 0
