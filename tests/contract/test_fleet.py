"""Many runners at once, against sshds with the stock `MaxStartups`: no handshake is dropped, straight or through one
bastion (RUN-11); and what a bastion may and may not do to a dispatch (RUN-3, ACC-2).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from hyops.adapters.doors import Doors
from hyops.adapters.runner_link import RunnerTarget, SshTransport
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.errors import HostKeyError, PrerequisiteError, RunnerUnreachableError
from hyops.testing.evidence import VERIFIER
from ssh_peer import SSHD, SshPeer
from waiting import wait_for

pytestmark = pytest.mark.skipif(SSHD is None, reason="not installed: sshd")
RUNNER = "cloud-runner"
AT_ONCE = 12  # from the tenth on a stock sshd drops at random
DROPPED = "past MaxStartups"
FORWARDS = 'restrict,port-forwarding,command="/bin/false"'
LIMIT_S = 120.0


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, LIMIT_S))


def started(folder: Path, options: str = "") -> SshPeer:
    """An sshd that listens and has pinned its key under `it`."""
    peer = SshPeer(folder, options=options)
    peer.start()
    peer.pin(f"it {peer.public('host')}")
    return peer


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


def behind(jump: SshPeer, peer: SshPeer, **more: Any) -> AsyncsshRunnerTransport:
    """The peer as a runner that is reached through the bastion alone."""
    way = target(jump, only_forwards=True, **more)
    return AsyncsshRunnerTransport({RUNNER: target(peer, bastion=way)}, VERIFIER)


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
def test_one_bastion_sees_one_handshake_of_a_burst(peer: SshPeer, jump: SshPeer) -> None:
    """All links go through one connection to the bastion, and to the runners' host no faster than straight."""
    assert run(all_up(behind(jump, peer), AT_ONCE)) == AT_ONCE
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
def test_a_bastion_with_another_key_is_refused_and_nothing_goes_around_it(peer: SshPeer, jump: SshPeer) -> None:
    """The refusal names the bastion's pin; neither host saw a login, and the runner no connection at all."""
    jump.pin(f"it {jump.public('other')}")

    async def body() -> None:
        with pytest.raises(HostKeyError, match=r"^it \(127\.0\.0\.1\): "):
            async with behind(jump, peer).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert (jump.log.count("Accepted"), peer.connections) == (0, 0)


@pytest.mark.req("RUN-3", "ACC-2")
@pytest.mark.parametrize("why", ["down", "stranger", "forbids"])
def test_a_bastion_that_does_not_let_us_through_is_no_reason_to_go_straight(
    peer: SshPeer, jump: SshPeer, why: str
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
            async with behind(jump, peer).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert peer.connections == 0


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_a_bastion_cannot_pass_another_host_off_as_the_runner(peer: SshPeer, jump: SshPeer) -> None:
    """The runner's own key is pinned end to end: a bastion that leads elsewhere gets no login."""
    peer.pin(f"it {peer.public('other')}")

    async def body() -> None:
        with pytest.raises(HostKeyError, match=RUNNER):
            async with behind(jump, peer).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert "Accepted" not in peer.log


@pytest.mark.req("RUN-5", "RUN-11")
def test_after_the_bastions_connection_broke_the_next_link_dials_a_new_one(peer: SshPeer, jump: SshPeer) -> None:
    """Links in it are lost links; whoever asks again comes up over a second connection."""

    async def body() -> None:
        transport = behind(jump, peer)
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


@pytest.mark.req("ACC-2")
def test_the_hosts_own_ssh_says_that_it_goes_through_no_bastion(peer: SshPeer, jump: SshPeer) -> None:
    """It is refused; neither host saw a connection."""

    async def body() -> None:
        targets = {RUNNER: target(peer, bastion=target(jump, only_forwards=True))}
        with pytest.raises(PrerequisiteError, match="through no bastion"):
            async with OpensshRunnerTransport(targets, VERIFIER).connect(RUNNER):
                pytest.fail("connected")

    run(body())
    assert (jump.connections, peer.connections) == (0, 0)
