"""Each guard of the links to runners is taken out; what it keeps must then break, or its tests prove nothing."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from hyops.adapters import runner_session, ssh_asyncssh, ssh_openssh
from hyops.adapters.runner_link import RunnerTarget
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.errors import HyopsError
from hyops.testing.evidence import VERIFIER
from ssh_peer import SSHD, SshPeer
from waiting import wait_for

pytestmark = pytest.mark.skipif(SSHD is None, reason="not installed: sshd")


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[SshPeer]:
    """One that listens."""
    made = SshPeer(tmp_path / "peer")
    try:
        made.start()
        yield made
    finally:
        made.end()


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, 240.0))


def target(peer: SshPeer, **more: Any) -> dict[str, RunnerTarget]:
    """The peer as a runner."""
    known = {"host": "127.0.0.1", "user": ssh_peer.user(), "key_file": peer.folder / "user", "port": peer.port}
    return {"cloud-runner": RunnerTarget(**{**known, "known_hosts": peer.known_hosts, **more})}


def openssh_connects(peer: SshPeer, **more: Any) -> bool:
    """Whether a link comes up and answers."""

    async def body() -> bool:
        try:
            async with OpensshRunnerTransport(target(peer, **more), VERIFIER).connect("cloud-runner") as link:
                return (await link.hello()).site == "cloud"
        except HyopsError:
            return False

    return bool(run(body()))


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_without_strict_checking_an_unknown_key_is_taken(peer: SshPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the option out of the words: a stranger gets our login."""
    peer.pin(f"[127.0.0.1]:1 {peer.public('host')}")

    for guarded in (True, False):
        if not guarded:
            monkeypatch.setitem(ssh_openssh.OPTIONS, "StrictHostKeyChecking", "accept-new")
        assert openssh_connects(peer) is not guarded


@pytest.mark.req("RUN-3")
def test_without_its_own_key_alone_an_agent_logs_in(peer: SshPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ssh` ask an agent: a key that nobody configured opens the runner."""
    agent = peer.folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        wait_for(agent.exists, "the agent")
        subprocess.run(["ssh-add", "-q", str(peer.folder / "user")], check=True, env={"SSH_AUTH_SOCK": str(agent)})
        for guarded in (True, False):
            if not guarded:
                monkeypatch.setitem(ssh_openssh.OPTIONS, "IdentitiesOnly", "no")
                monkeypatch.setitem(ssh_openssh.OPTIONS, "IdentityAgent", str(agent))
            assert openssh_connects(peer, key_file=peer.folder / "other") is not guarded
    finally:
        process.kill()
        process.wait()


@pytest.mark.req("RUN-3")
def test_without_the_check_of_names_a_token_is_filled_in(peer: SshPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pattern away: `%h` becomes what `ssh` makes of it, and something is dialled that nobody wrote."""
    dialled: list[str] = []
    real = ssh_openssh.OpensshLink.connect

    async def noted(link: Any, words: list[str]) -> None:
        dialled.extend(word for word in words if word.startswith("-oHostName="))
        await real(link, words)

    monkeypatch.setattr(ssh_openssh.OpensshLink, "connect", noted)
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(ssh_openssh, "HOST", ssh_openssh.re.compile(".*"))  # type: ignore[attr-defined]
        assert openssh_connects(peer, host="%h") is False
        assert bool(dialled) is not guarded


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("transport", [AsyncsshRunnerTransport, OpensshRunnerTransport])
def test_without_closing_what_was_given_up_sessions_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: Any
) -> None:
    """Let calls that were given up keep their sessions: sshd, which allows three a connection, refuses the next."""
    peer = SshPeer(tmp_path / "peer", options="MaxSessions 3\n")
    peer.start()
    hanging, ended = peer.folder / "hanging", threading.Event()

    async def body() -> bool:
        peer.says("hang status")  # the first session opens with the link
        async with transport(target(peer), VERIFIER).connect("cloud-runner") as link:
            for _ in range(4):
                task = asyncio.create_task(link.status("run-x"))
                await asyncio.wait({task, asyncio.create_task(asyncio.to_thread(seen))}, return_when="FIRST_COMPLETED")
                if task.done():
                    ended.set()
                    return task.exception() is None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                hanging.unlink()
            peer.says("")
            return (await link.status("run-y")).run_id == "run-y"

    def seen() -> None:
        wait_for(lambda: hanging.exists() or ended.is_set(), "the peer's hanging call", limit_s=20.0)

    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(ssh_asyncssh.AsyncsshPipe, "close", lambda _: None)
            monkeypatch.setattr(runner_session.FramedSession, "_given_up", lambda *_: None)
        try:
            works = run(body())
        except (HyopsError, TimeoutError):
            works = False
        assert works is guarded
    peer.end()
