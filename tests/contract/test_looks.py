"""What a person asks of a runner, over each real link: versions are told or refused by rule, and silence has an end
(RUN-11). A listener that accepts and says nothing, a server process that is stopped, an agent that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from contract.test_transport import adapter, links, nothing_is_left, peer, reached  # noqa: F401  # the fixtures too
from hyops.adapters.signer_ed25519 import TrustedKeys
from hyops.cli.main import main
from hyops.errors import PrerequisiteError, ProtocolError, RunnerUnreachableError
from hyops.ports.look import MENDS, Awaited
from hyops.ports.transport import OperatorSession
from hyops.services import looking as asking
from hyops.services.looking import looking
from hyops.testing.evidence import failover
from hyops.testing.runs import bundle_of, noop_plan, spec_of
from pull_peer import PullPeer
from simulation.world import policy
from ssh_peer import SSHD, SshPeer

pytestmark = pytest.mark.skipif(SSHD is None, reason="not installed: sshd")
SSH_ONLY = pytest.mark.parametrize("adapter", ["asyncssh", "openssh"], indirect=True)
HOME = failover().run_return
RUN_ID = HOME.result.run_id
OLDER, NEWER = ("speaks 1 1", "upgrade hyops on cloud-runner to "), ("speaks 7 9", "upgrade hyops on this host to 0")
SHORT_S = 3.0  # a look's limit here: OpenSSH counts in whole seconds

Ask = Callable[[OperatorSession], Awaitable[Any]]


async def _attach(session: OperatorSession) -> Any:
    following = session.attach("run-x")
    try:
        return await anext(following)
    finally:
        await following.aclose()  # type: ignore[attr-defined]


LOOKS: dict[str, Ask] = {
    "status": lambda session: session.status("run-x"),
    "jobs": lambda session: session.jobs(),
    "attach": _attach,
    "cancel": lambda session: session.cancel("run-x", 1, "why"),
    "collect": lambda session: session.collect(RUN_ID, confirm=False),
}
MAKES: dict[str, Ask] = {
    "hello": lambda session: session.hello(),
    "stage": lambda session: session.stage("run-x", bundle_of({"a": b"x"})),
    "start": lambda session: session.start(spec_of(noop_plan()), {}),
    "resume": lambda session: session.resume("run-x", 1),
    "gc": lambda session: session.gc(dry_run=True),
}


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit, so that a lost event fails a test instead of hanging it."""
    return asyncio.run(asyncio.wait_for(body, 120.0))


def asked(peer: SshPeer | PullPeer) -> list[str]:  # noqa: F811
    """Every verb that the peer was asked for, in order."""
    path = peer.folder / "asked"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def bring_home(peer: SshPeer | PullPeer) -> None:  # noqa: F811
    """Give the peer a run that can be collected."""
    for name, data in (("result", HOME.result.encoded()), ("journal", HOME.journal), ("big", b"log")):
        (peer.folder / name).write_bytes(data)


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.fault(33)
@pytest.mark.parametrize(("speaks", "mend"), [OLDER, NEWER], ids=["older-runner", "newer-runner"])
def test_versions_apart_are_served_or_refused_by_rule(
    adapter: str,  # noqa: F811
    peer: SshPeer | PullPeer,  # noqa: F811
    speaks: str,
    mend: str,
) -> None:
    """Every verb greets first. What looks is served, and says which side to upgrade; what makes something is not."""
    peer.says(speaks)
    bring_home(peer)

    async def body() -> None:
        transport = reached(adapter, peer.folder, peer.port)
        for verb, ask in LOOKS.items():
            before = len(asked(peer))
            async with transport.connect("cloud-runner") as link:
                await ask(link)
                assert asked(peer)[before : before + 2] == ["hello", verb]
                apart = await link.differs()
                assert apart is not None
                assert (mend in apart.hint, "no protocol in common" in apart.message) == (True, True)
                assert asked(peer)[before:].count("hello") == 1
        async with transport.connect("cloud-runner") as link:
            before = len(asked(peer))
            for ask in MAKES.values():
                with pytest.raises(ProtocolError, match="no protocol in common") as refused:
                    await ask(link)
                assert (mend in refused.value.hint, refused.value.exit_code) == (True, 12)
            assert set(asked(peer)[before:]) == {"hello"}

    run(body())


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.fault(33)
@pytest.mark.parametrize("how", ["odd", "forgets"])
def test_an_answer_that_cannot_be_read_over_versions_apart_says_so(
    adapter: str,  # noqa: F811
    peer: SshPeer | PullPeer,  # noqa: F811
    how: str,
) -> None:
    """Another shape, or a verb that the other side does not know: the side to upgrade, and no riddle."""
    peer.says(f"speaks 7 9 {how}")

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            for verb in ("status", "jobs", "cancel", "collect"):
                with pytest.raises(ProtocolError, match="do not understand each other") as refused:
                    await LOOKS[verb](link)
                assert "upgrade hyops on this host" in refused.value.hint

    run(body())


@pytest.mark.req("RUN-11", "RUN-3")
def test_another_runner_is_asked_nothing(adapter: str, peer: SshPeer | PullPeer) -> None:  # noqa: F811
    """It says another name: what it would tell is about other runs, and it would cancel those."""
    (peer.folder / "ref").write_text("onprem-runner")

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            for ask in LOOKS.values():
                with pytest.raises(PrerequisiteError, match="asked for cloud-runner, but there answers onprem-runner"):
                    await ask(link)
        assert set(asked(peer)) == {"hello"}

    run(body())


@pytest.mark.req("RUN-11")
def test_versions_that_fit_are_not_talked_about(adapter: str, peer: SshPeer | PullPeer) -> None:  # noqa: F811
    """One greeting for the whole session; nonsense then is nonsense, and no matter of versions."""

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            assert await link.differs() is None
            await asyncio.gather(*(link.status(f"run-{n}") for n in range(4)))
        assert asked(peer).count("hello") == 1
        peer.says(f"speaks {' '.join(ssh_peer.SERVE[-2:])} odd")
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            with pytest.raises(RunnerUnreachableError, match="unknown shape"):
                await link.status("run-x")

    run(body())


@contextlib.contextmanager
def listener(*, full: bool) -> Iterator[int]:
    """A port that the kernel accepts at and nobody serves; `full`: there is no room for one more connection."""
    waiting: list[socket.socket] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        try:
            while full and len(waiting) < 4:  # one is taken in, the others' SYNs are dropped
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(address)
                waiting.append(one)
            yield address[1]
        finally:
            for one in waiting:
                one.close()


async def look(adapter: str, folder: Path, port: int) -> RunnerUnreachableError:  # noqa: F811
    """What a look ends with that gets no answer."""
    with pytest.raises(RunnerUnreachableError) as silent:
        async with looking(reached(adapter, folder, port), "cloud-runner", limit_s=SHORT_S) as session:  # type: ignore[arg-type]
            await session.hello()
    return silent.value


def assert_silent(error: RunnerUnreachableError, awaited: Awaited) -> None:
    """The line says what was silent, and what to do about that."""
    assert f"cloud-runner: silent, given up within {SHORT_S:g} s: {awaited}" in error.message
    assert (error.hint, error.exit_code, error.effect) == (MENDS[awaited], 22, "none")


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.fault(14)
@pytest.mark.parametrize(("full", "awaited"), [(True, Awaited.TCP), (False, Awaited.HANDSHAKE)], ids=["tcp", "banner"])
@SSH_ONLY
def test_a_silent_port_is_given_up_and_named(
    adapter: str,  # noqa: F811
    peer: SshPeer,  # noqa: F811
    full: bool,
    awaited: Awaited,
) -> None:
    """Nobody takes the connection, or it is taken and nothing is ever said."""
    with listener(full=full) as port:
        assert_silent(run(look(adapter, peer.folder, port)), awaited)
    nothing_is_left(peer)


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.fault(14)
def test_a_stopped_server_is_given_up_and_named(adapter: str, peer: SshPeer | PullPeer) -> None:  # noqa: F811
    """SIGSTOP: the link is up, its keepalives are answered, and `runner-serve` says nothing."""
    peer.says("stop hello")
    try:
        assert_silent(run(look(adapter, peer.folder, peer.port)), Awaited.ANSWER)
    finally:
        for pid in (peer.folder / "pids").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    nothing_is_left(peer)


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.parametrize("adapter", ["pull"], indirect=True)
def test_an_agent_that_is_not_there_is_given_up_and_named(adapter: str, peer: PullPeer) -> None:  # noqa: F811
    """The desk waits for it longer than a person would."""
    peer.end_agent()
    error = run(look(adapter, peer.folder, peer.port))
    assert error.exit_code == 22
    assert "pull desk" in error.message
    assert "agent" in error.hint


def configured(peer: SshPeer, **ports: int) -> Path:  # noqa: F811
    """An executor's configuration with these runners, all of them with the peer's keys."""
    login = {"address": "127.0.0.1", "user": ssh_peer.user(), "key_file": str(peer.folder / "user")}
    pins = peer.folder / "pins"
    pins.write_text("".join(f"[127.0.0.1]:{port} {peer.public('host')}\n" for port in ports.values()))
    (peer.folder / "trusted.json").write_text(json.dumps(TrustedKeys(keys=[]).body()))
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionExecutor",
        "signing_key": "/nonexistent",
        "trusted_keys": str(peer.folder / "trusted.json"),
        "protected": [{"policy": policy().body(), "initial_generation": 7}],
        "runners": {
            name.replace("_", "-"): {**login, "port": port, "known_hosts": str(pins)} for name, port in ports.items()
        },
    }
    path = peer.folder / "executor.json"
    path.write_text(json.dumps(body))
    return path


@pytest.mark.req("RUN-11", "UX-1", "UX-2")
@pytest.mark.fault(14)
@pytest.mark.parametrize("verb", ["status", "jobs"])
def test_a_silent_runner_keeps_nobody_elses_line(
    peer: SshPeer,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    """Asked beside each other: who answers is shown, the silent one with what was silent and the mend; exit 22."""
    monkeypatch.setattr(asking, "LOOK_LIMIT_S", 2 * SHORT_S)  # who answers has time for it on a busy machine
    with listener(full=False) as port:
        config = configured(peer, a_silent=port, cloud_runner=peer.port)
        assert main(["runner", verb, "--config", str(config)]) == 22
    told = capsys.readouterr().out
    assert f"{Awaited.HANDSHAKE}\n" in told
    assert f"next: {MENDS[Awaited.HANDSHAKE]}" in told
    shown = "run-x" if verb == "jobs" else "cloud-runner"
    assert shown in told
    assert told.index(shown) < told.index("a-silent"), "it came later, and was not waited for"


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.fault(33)
def test_commands_say_which_side_to_upgrade(
    peer: SshPeer,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """What looks goes on with a note beside it; `status` and `gc` make it their answer, with exit 12."""
    peer.says("speaks 7 9")
    bring_home(peer)
    there = ["--config", str(configured(peer, cloud_runner=peer.port))]
    for words, code, mine in (
        (["runner", "jobs"], 0, "run-x"),
        (["runner", "logs", "run-x"], 0, "yyy"),
        (["runner", "cancel", "run-x", "--reason", "why"], 0, "run-x"),
        (["run", "show", "run-x"], 0, ""),
        (["runner", "status"], 12, "ProtocolError"),
        (["runner", "gc", "--dry-run"], 12, "ProtocolError"),
        (["run", "resume", "run-x"], 12, ""),
    ):
        assert (main([*words, *there]), words) == (code, words)
        said = capsys.readouterr()
        assert "upgrade hyops on this host to 0" in said.out + said.err, words
        assert mine in said.out, words
        assert said.err.count("note: ") == (code == 0 or words[1] == "resume"), words
