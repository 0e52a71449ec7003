"""The contract of links to runners, kept by both SSH adapters against a real sshd, and in pull mode against a real
desk and agent (RUN-3, RUN-5, RUN-11). What only SSH has is asked of the two alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssh_peer
from fault_size import FULL
from hyops.adapters import ssh_openssh
from hyops.adapters.runner_link import RunnerTarget, SshTransport
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.adapters.transport_pull import PullRunnerTransport
from hyops.errors import (
    ConfigError,
    EvidenceError,
    HostKeyError,
    PrerequisiteError,
    RunnerAbsentError,
    RunnerUnreachableError,
)
from hyops.model import canonical, ssh_algorithms
from hyops.testing.evidence import VERIFIER, failover
from hyops.testing.runs import bundle_of, noop_plan, spec_of
from pull_peer import PullPeer
from ssh_peer import SSHD, SshPeer, Wire
from ssh_peer_serve import EVENTS
from waiting import wait_for

pytestmark = pytest.mark.skipif(SSHD is None, reason="not installed: sshd")
LIMIT_S = 240.0
SSH_ONLY = pytest.mark.parametrize("adapter", ["asyncssh", "openssh"], indirect=True)
PULLED: dict[Path, PullPeer] = {}
ADAPTERS: dict[str, Callable[..., SshTransport]] = {
    "asyncssh": AsyncsshRunnerTransport,
    "openssh": OpensshRunnerTransport,
}
OWNER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
from test_transport import reached
async def main():
    async with reached(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])).connect("cloud-runner") as session:
        await session.hello()
        following = session.attach("run-x")
        await anext(following)
        print("up", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit, so that a lost event fails a test instead of hanging it."""
    return asyncio.run(asyncio.wait_for(body, LIMIT_S))


def reached(
    adapter: str, folder: Path, port: int, *, keepalive_s: float = 5.0, **more: Any
) -> SshTransport | PullRunnerTransport:
    """A transport to one runner behind a port of loopback; in pull mode the runner's agent reaches us over it."""
    if adapter == "pull":
        if folder in PULLED:
            PULLED[folder].reach(port)
        return PullRunnerTransport(Path((folder / "socket").read_text()), ["cloud-runner"], VERIFIER)
    known = {"host": "127.0.0.1", "user": ssh_peer.user(), "key_file": folder / "user"}
    target = RunnerTarget(**{**known, "known_hosts": folder / "known_hosts", "port": port, **more})
    return ADAPTERS[adapter]({"cloud-runner": target}, VERIFIER, keepalive_s=keepalive_s)


@pytest.fixture(params=[*sorted(ADAPTERS), "pull"])
def adapter(request: pytest.FixtureRequest) -> str:
    """Each of the three."""
    return str(request.param)


@pytest.fixture
def peer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SshPeer | PullPeer]:
    """One that listens."""
    pulled = "adapter" in request.fixturenames and request.getfixturevalue("adapter") == "pull"
    made = PullPeer(tmp_path / "peer") if pulled else SshPeer(tmp_path / "peer")
    if isinstance(made, PullPeer):
        PULLED[made.folder] = made
    try:
        made.start()
        yield made
    finally:
        made.end()
        PULLED.clear()


def pin(peer: SshPeer | PullPeer) -> None:
    """The host key under the name `it`, for links that go over another port."""
    if isinstance(peer, SshPeer):
        peer.pin(f"it {peer.public('host')}")


def children() -> list[str]:
    """The programs that this process has running."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread or a program that just ended
            for pid in (task / "children").read_text().split():
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode())
    return [name for name in found if name.endswith("ssh")]


def nothing_is_left(peer: SshPeer | PullPeer) -> None:
    """No program and no file here, no connection or server there."""
    assert children() == []
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    wait_for(lambda: peer.sessions() == [], "the end of every connection")


@pytest.fixture(autouse=True)
def links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:  # after pytest has made its own
    """Where links of this test make their folders: short, for the sockets, and nobody else's."""
    folder = Path(tempfile.mkdtemp(prefix="hyops-t-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.req("RUN-5", "RUN-11")
def test_every_verb_goes_over_one_connection(adapter: str, peer: SshPeer) -> None:
    """Calls beside each other and beside an attach: one TCP connection, one login; afterwards nothing is left."""

    async def body() -> None:
        async with Wire(peer.port).serve() as wire:
            async with reached(adapter, peer.folder, wire.own_port, host_key_alias="it").connect(
                "cloud-runner"
            ) as link:
                assert (await link.hello()).site == "cloud"
                following = link.attach("run-x")
                assert (await anext(following)).stream == "log"
                states = await asyncio.gather(*(link.status(f"run-{n}") for n in range(12)))
                assert [s.run_id for s in states] == [f"run-{n}" for n in range(12)]
                await following.aclose()  # type: ignore[attr-defined]
                assert (await link.status("run-y")).run_id == "run-y"
            assert wire.connections == 1 or adapter == "pull"

    pin(peer)
    run(body())
    if isinstance(peer, SshPeer):
        assert (peer.connections, peer.log.count("Accepted publickey")) == (1, 1)
    nothing_is_left(peer)


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
@pytest.mark.parametrize("pinned", ["changed", "unknown", "no-file", "revoked", "other-kind"])
@SSH_ONLY
def test_a_key_that_is_not_pinned_is_refused(adapter: str, peer: SshPeer, pinned: str) -> None:
    """Refused before a byte of ours leaves: sshd never gets as far as the login."""
    place = f"[127.0.0.1]:{peer.port}"
    rsa = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    lines = {
        "changed": f"{place} {peer.public('other')}",
        "unknown": f"[127.0.0.1]:1 {peer.public('host')}",
        "revoked": f"@revoked {place} {peer.public('host')}\n{place} {peer.public('host')}",
        "other-kind": f"{place} {rsa}",
    }
    if pinned == "no-file":
        peer.known_hosts.unlink()
    else:
        peer.pin(lines[pinned])

    async def body() -> None:
        with pytest.raises(HostKeyError, match="cloud-runner"):
            async with reached(adapter, peer.folder, peer.port).connect("cloud-runner"):
                pytest.fail("connected")

    run(body())
    assert "Accepted" not in peer.log
    assert not (peer.folder / "pids").exists()
    nothing_is_left(peer)


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
@pytest.mark.parametrize(("principal", "trusted"), [("cloud-runner", True), ("another-host", False)])
@SSH_ONLY
def test_a_host_ca_vouches_for_the_names_it_signed(adapter: str, tmp_path: Path, principal: str, trusted: bool) -> None:
    """An `@cert-authority` pin takes a certificate of that CA for that name, and none for another name."""
    peer = SshPeer(tmp_path / "peer")
    peer.certify(principal)
    peer.start()
    peer.pin(f"@cert-authority cloud-runner {peer.public('ca')}")

    async def body() -> bool:
        try:
            transport = reached(adapter, peer.folder, peer.port, host_key_alias="cloud-runner")
            async with transport.connect("cloud-runner") as link:
                return (await link.hello()).runner_ref == "cloud-runner"
        except HostKeyError:
            return False

    try:
        assert run(body()) is trusted
    finally:
        peer.end()


@pytest.mark.req("RUN-3")
@SSH_ONLY
def test_a_key_that_the_runner_does_not_know_is_not_replaced(
    adapter: str, peer: SshPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that is refused stays refused, though an agent of ours holds the right key."""
    agent = peer.folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        wait_for(agent.exists, "the agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        subprocess.run(["ssh-add", "-q", str(peer.folder / "user")], check=True)

        async def body() -> None:
            with pytest.raises(RunnerUnreachableError, match="refused our key"):
                async with reached(adapter, peer.folder, peer.port, key_file=peer.folder / "other").connect(
                    "cloud-runner"
                ):
                    pytest.fail("connected")

        run(body())
    finally:
        process.kill()
        process.wait()
    assert peer.connections == 1
    assert "Accepted" not in peer.log


@pytest.mark.req("RUN-11")
def test_nobody_there_is_one_clear_error(adapter: str, peer: SshPeer) -> None:
    """Nobody listens."""
    peer.end()

    async def body() -> None:
        with pytest.raises(RunnerUnreachableError, match="cloud-runner"):
            async with reached(adapter, peer.folder, peer.port).connect("cloud-runner"):
                pytest.fail("connected")

    run(body())


@pytest.mark.req("RUN-11")
@SSH_ONLY
def test_a_peer_that_hangs_up_before_the_login_is_tried_three_times(adapter: str, peer: SshPeer) -> None:
    """An sshd with too many handshakes drops some; one that drops all is unreachable after three."""
    seen = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer)
        writer.close()

    async def body() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RunnerUnreachableError, match="cloud-runner"):
            async with reached(adapter, peer.folder, port).connect("cloud-runner"):
                pytest.fail("connected")
        server.close()

    run(body())
    assert len(seen) == 3
    nothing_is_left(peer)


@pytest.mark.req("RUN-11")
@SSH_ONLY
def test_a_peer_that_says_nothing_is_given_up(adapter: str, peer: SshPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and stays silent: the handshake has a limit."""
    monkeypatch.setitem(ssh_openssh.OPTIONS, "ConnectTimeout", "1")
    monkeypatch.setattr("hyops.adapters.ssh_asyncssh.CONNECT_LIMIT_S", 1.0)

    async def body() -> None:
        released = asyncio.Event()

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await released.wait()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RunnerUnreachableError, match="cloud-runner"):
            async with reached(adapter, peer.folder, port).connect("cloud-runner"):
                pytest.fail("connected")
        released.set()
        server.close()

    run(body())
    nothing_is_left(peer)


@pytest.mark.req("RUN-11", "INV-5")
@pytest.mark.parametrize("status", [0, 3, 127, 255])
def test_a_command_that_ends_instead_of_answering_says_its_status(adapter: str, peer: SshPeer, status: int) -> None:
    """No answer is no outcome, also with exit 0. 255 is what `ssh` says of itself: there it is a lost link."""
    peer.says(f"exit status {status}")

    async def body() -> None:
        said = "link is lost" if (adapter, status) == ("openssh", 255) else f"ended with status {status}$"
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            await link.hello()
            with pytest.raises(RunnerUnreachableError, match=said):
                await link.status("run-x")

    run(body())


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize("status", [0, 126, 127, 255])
def test_only_a_host_that_has_no_such_command_says_that_no_runner_stands_there(
    adapter: str, peer: SshPeer, status: int
) -> None:
    """What a shell ends with, in place of a greeting; every other end is a runner that cannot be reached."""
    peer.says(f"exit hello {status}")

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            with pytest.raises(RunnerUnreachableError) as failed:
                await link.hello()
            assert isinstance(failed.value, RunnerAbsentError) is (status == 127)

    run(body())


@pytest.mark.req("RUN-1", "RUN-6", "RUN-8")
def test_much_goes_both_ways_unharmed(adapter: str, peer: SshPeer) -> None:
    """12 MB of bundle, 20 MB of events, 8 MB of return, a secret over standard input: every byte as it was.

    Each is several times what any buffer or window on the way holds; a full run sends 40 and 30 MB.
    """
    home = failover().run_return
    bundle, log = os.urandom(40_000_000 if FULL else 12_000_000), os.urandom(30_000_000 if FULL else 8_000_000)
    for name, data in (("result", home.result.encoded()), ("journal", home.journal), ("big", log)):
        (peer.folder / name).write_bytes(data)

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            assert (await link.stage("run-x", bundle_of({"a": bundle, "b": b""}))).shipped_bytes == len(bundle)
            assert await link.start(spec_of(noop_plan()), {"PGPASSWORD": "canary-77ab"}) == "started"
            seen = [event async for event in link.attach("run-x")]
            assert (len(seen), seen[-1].stream) == (EVENTS + 1, "end")
            returned = await link.collect(home.result.run_id)
            assert (returned.result, returned.journal, returned.log) == (home.result, home.journal, log)
            with pytest.raises(EvidenceError):
                await link.collect("run-of-another")

    run(body())
    assert (peer.folder / "handed").read_bytes() == canonical.encode({"PGPASSWORD": "canary-77ab"})


@pytest.mark.req("RUN-5", "RUN-11")
@pytest.mark.fault(14)
def test_a_wire_cut_in_mid_transfer_is_a_lost_link(adapter: str, peer: SshPeer) -> None:
    """Reset after 3 MB of a 30 MB return: no outcome, no half return, nothing left; the next connection works."""
    home = failover().run_return
    for name, data in (("result", home.result.encoded()), ("journal", home.journal), ("big", bytes(30_000_000))):
        (peer.folder / name).write_bytes(data)

    async def body() -> None:
        async with Wire(peer.port, cut_after=3_000_000).serve() as wire:
            transport = reached(adapter, peer.folder, wire.own_port, host_key_alias="it")
            async with transport.connect("cloud-runner") as link:
                with pytest.raises(RunnerUnreachableError, match="link is lost"):
                    await link.collect(home.result.run_id)
                if adapter != "pull":  # there the agent may have come back already, and answers
                    with pytest.raises(RunnerUnreachableError):
                        await link.status("run-x")
            wire.cut_after = None
            async with transport.connect("cloud-runner") as link:
                assert (await link.collect(home.result.run_id)).result == home.result

    pin(peer)
    run(body())
    nothing_is_left(peer)


@pytest.mark.req("RUN-5", "RUN-11")
@pytest.mark.fault(14)
@pytest.mark.parametrize("verb", ["status", "attach"])
def test_a_half_open_wire_is_noticed(adapter: str, peer: SshPeer, verb: str) -> None:
    """TCP stays up and silent in both directions: keepalives tell, within four seconds and not after 15 minutes."""
    peer.says(f"hang {verb}")

    async def body() -> None:
        async with Wire(peer.port).serve() as wire:
            keepalive_s = 0.2 if adapter == "asyncssh" else 1.0  # OpenSSH counts in seconds
            transport = reached(adapter, peer.folder, wire.own_port, keepalive_s=keepalive_s, host_key_alias="it")
            async with transport.connect("cloud-runner") as link:
                await link.hello()
                wire.freeze()
                asked = link.status("run-x") if verb == "status" else anext(link.attach("run-x"))
                with pytest.raises(RunnerUnreachableError, match="link is lost"):
                    await asked

    pin(peer)
    run(body())
    nothing_is_left(peer)


@pytest.mark.req("RUN-11", "RUN-3")
def test_what_the_runner_writes_to_standard_error_neither_blocks_nor_deceives(adapter: str, peer: SshPeer) -> None:
    """4 MB a request, in the words of a refused host key: the answers come all the same."""
    peer.says("noise")

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            for number in range(3):
                assert (await link.status(f"run-{number}")).state == "running"
        peer.says("noise exit 1")

    run(body())


@pytest.mark.req("RUN-11", "INV-5")
def test_a_line_without_end_is_no_answer(adapter: str, peer: SshPeer) -> None:
    """2 MB before the newline, more than a header may have: refused, not kept in memory."""
    peer.says("line status")

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            await link.hello()
            with pytest.raises(RunnerUnreachableError):
                await link.status("run-x")

    run(body())


@pytest.mark.req("RUN-11", "RUN-5")
@pytest.mark.parametrize("when", ["calling", "following", "connecting"])
def test_cancelled_is_ended_here_and_there(adapter: str, peer: SshPeer, when: str) -> None:
    """Cancelled in a call, while following, in the handshake: no local program, no connection, no file is left."""
    hanging = peer.folder / "hanging"
    peer.says("hang status attach")

    async def held() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            if when == "calling":
                await link.status("run-x")
            else:
                await anext(link.attach("run-x"))

    async def body() -> None:
        if when == "connecting":
            async with Wire(peer.port).serve() as wire:
                wire.freeze()
                task = asyncio.create_task(_connect(wire.own_port))
                await wire.accepted.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert task.cancelled()
        else:
            task = asyncio.create_task(held())
            await asyncio.to_thread(wait_for, hanging.exists, "the peer's hanging call")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    async def _connect(port: int) -> None:
        async with reached(adapter, peer.folder, port).connect("cloud-runner"):
            pytest.fail("connected")

    run(body())
    nothing_is_left(peer)


@pytest.mark.req("RUN-11", "RUN-5")
@SSH_ONLY
def test_calls_given_up_do_not_use_up_the_connection(adapter: str, tmp_path: Path) -> None:
    """More calls cancelled in the middle than sshd allows sessions: the next one works, and hears its own answer."""
    peer = SshPeer(tmp_path / "peer", options="MaxSessions 3\n")
    peer.start()
    hanging = peer.folder / "hanging"

    async def body() -> None:
        async with reached(adapter, peer.folder, peer.port).connect("cloud-runner") as link:
            await link.hello()
            peer.says("hang status jobs")
            for _ in range(4):
                await _give_up(link, hanging)
            peer.says("")
            assert [(await link.status(f"run-{n}")).run_id for n in range(3)] == ["run-0", "run-1", "run-2"]
            assert (await link.hello()).site == "cloud"
        assert peer.connections == 1

    async def _give_up(link: Any, hanging: Path) -> None:
        task = asyncio.create_task(link.status("run-given-up"))
        await asyncio.to_thread(wait_for, hanging.exists, "the peer's hanging call")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        hanging.unlink()

    peer.says("hang status")
    try:
        run(body())
    finally:
        peer.end()


@pytest.mark.req("RUN-11")
def test_a_killed_owner_leaves_no_connection(adapter: str, peer: SshPeer, links: Path) -> None:
    """kill -9 of the process that dispatches, while it follows: its connections and sockets end by themselves."""
    words = [adapter, str(peer.folder), str(peer.port)]
    folders = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, folders, *words], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(links)}
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert len(peer.sessions()) == 1
        assert len(list(links.glob("*/s"))) == (adapter == "openssh")
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    wait_for(lambda: peer.sessions() == [], "the end of every connection")
    wait_for(lambda: not list(links.glob("*/s")), "the end of the socket")


@pytest.mark.req("RUN-11", "RUN-3")
@SSH_ONLY
def test_names_of_files_are_only_names(adapter: str, peer: SshPeer, tmp_path: Path) -> None:
    """Blanks, quotes, percents and variables in the paths of key and pins mean nothing to anybody."""
    odd = tmp_path / "a b%h 'x' \"y\" ${HOME} $(touch z)"
    odd.mkdir()
    for name in ("user", "known_hosts"):
        (peer.folder / name).rename(odd / name)

    async def body() -> None:
        more = {"key_file": odd / "user", "known_hosts": odd / "known_hosts"}
        async with reached(adapter, peer.folder, peer.port, **more).connect("cloud-runner") as link:
            assert (await link.hello()).site == "cloud"

    run(body())


@pytest.mark.req("RUN-3")
@pytest.mark.parametrize(
    "entry",
    [
        {"host": "-oProxyCommand=touch /tmp/hyops-never"},
        {"host": "127.0.0.1 -oProxyCommand=x"},
        {"host": "%h"},
        {"user": "root; touch x"},
        {"user": "-lroot"},
        {"host_key_alias": "a,b *"},
    ],
)
def test_openssh_gets_no_word_that_is_more_than_a_name(peer: SshPeer, entry: dict[str, str]) -> None:
    """Options, blanks, tokens and patterns in names are refused before anything is started."""

    async def body() -> None:
        with pytest.raises(ConfigError):
            async with reached("openssh", peer.folder, peer.port, **entry).connect("cloud-runner"):
                pytest.fail("connected")

    run(body())
    assert peer.connections == 0


@pytest.mark.req("RUN-3")
def test_openssh_says_when_it_is_not_there(peer: SshPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `ssh` on the path is a missing prerequisite, not a lost link."""
    monkeypatch.setenv("PATH", str(peer.folder))

    async def body() -> None:
        with pytest.raises(PrerequisiteError, match="no `ssh`"):
            async with reached("openssh", peer.folder, peer.port).connect("cloud-runner"):
                pytest.fail("connected")

    run(body())


@pytest.mark.req("RUN-3")
def test_openssh_is_told_everything_and_reads_no_file(tmp_path: Path) -> None:
    """What `ssh -G` makes of the words: strict, no agent, no forwarding, no proxy, the algorithms of both adapters."""
    target = RunnerTarget("192.0.2.1", "hyops", tmp_path / "key", tmp_path / "pins", 2222, "cloud-runner")
    folder = tmp_path / "link"
    folder.mkdir()
    if len(str(folder)) > ssh_openssh.SOCKET_PATH_MAX:
        pytest.skip("the temporary folder's path is too long for a socket")
    words = ssh_openssh._words(target, folder, 5.0)
    done = subprocess.run(["ssh", "-F", "none", *words, "-G", "runner"], capture_output=True, text=True, check=True)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    expected = {
        "stricthostkeychecking": "true",
        "batchmode": "yes",
        "forwardagent": "no",
        "identityagent": "none",
        "identitiesonly": "yes",
        "passwordauthentication": "no",
        "preferredauthentications": "publickey",
        "globalknownhostsfile": "/dev/null",
        "userknownhostsfile": str(folder / "known_hosts"),
        "kexalgorithms": ",".join(ssh_algorithms.KEX),
        "ciphers": ",".join(ssh_algorithms.CIPHERS),
        "hostkeyalgorithms": ",".join(ssh_algorithms.HOST_KEYS),
        "serveraliveinterval": "5",
        "serveralivecountmax": "3",
        "connecttimeout": "10",
        "updatehostkeys": "false",
        "clearallforwardings": "yes",
        "controlpersist": "no",
    }
    assert {key: told.get(key) for key in expected} == expected
    assert "proxycommand" not in told
