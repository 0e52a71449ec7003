"""The way to an agent as it is on a real host: sshd, a forced command, the relay, the socket, the verbs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyops.adapters.hostagent_ssh import AgentPlace, SshHostAgent
from hyops.errors import AgentLostError, DeadlineError, HostKeyError, NotFencedError, StaleGenerationError, TargetError
from hyops.fence.wire import LINE_BYTES_MAX, listen
from hyops.model.dsse import sign_record
from hyops.model.fence import FenceReceipt, Observation
from hyops.model.vocabulary import ReceiptClass
from hyops.testing.clock import EPOCH
from loopback import free_ports, listens, missing, own_home
from switch_pair import Pair
from waiting import wait_for

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))


@dataclass
class Sshd:
    """A server on loopback whose one key may only relay."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def place(self, **changes: object) -> AgentPlace:
        """How to reach it."""
        words = {"host": "onprem-db", "address": "127.0.0.1", "user": "root", "port": self.port}
        words |= {"key_file": self.folder / "client", "known_hosts": self.folder / "known_hosts"}
        return AgentPlace(**(words | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd."""
    folder, (port,) = tmp_path_factory.mktemp("sshd"), free_ports(1)
    for name in ("host", "client", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    relay = f"{sys.executable} -m hyops.fence.call --socket {folder / 'agent.sock'}"
    keys = f'restrict,command="{relay}" {(folder / "client.pub").read_text()}'
    (folder / "authorized_keys").write_text(keys)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "wrong_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'other.pub').read_text()}")
    config = (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
    )
    config += f"PidFile {folder}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    config += own_home(folder)
    (folder / "config").write_text(config)
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        wait_for(lambda: listens(port), f"sshd, see {folder / 'log'}")
        yield Sshd(folder, port, process)
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def reached(sshd: Sshd, pair: Pair, host: str) -> AsyncIterator[SshHostAgent]:
    """An agent of the pair, behind the server."""
    path = sshd.folder / "agent.sock"
    server = await listen(path, pair.hosts[host].verbs, pair.logs.append, group=None)
    agent = SshHostAgent(sshd.place())
    try:
        yield agent
    finally:
        await agent.close()
        server.close()
        await server.wait_closed()
        path.unlink()


@pytest.mark.req("FEN-2", "INV-3")
def test_every_verb_and_every_refusal_comes_through(sshd: Sshd) -> None:
    """Status, fence and a demotion arrive as records; errors arrive as their own class, with what was touched."""

    async def scenario(pair: Pair) -> None:
        async with reached(sshd, pair, "onprem-db") as agent:
            status = await agent.status()
            assert (status.host, status.edge, status.role, status.generation) == ("onprem-db", "open", "primary", 1)
            with pytest.raises(StaleGenerationError):
                await agent.fence(generation=0, run_id="run-1")
            demotion = await agent.demote(generation=1, run_id="run-1")
            assert (demotion.host, demotion.timeline) == ("onprem-db", 1)
            assert demotion == await agent.demote(generation=1, run_id="run-1")
            assert (await agent.undo_demote(generation=1, run_id="run-1")).edge == "open"
            assert (await agent.fence(generation=1, run_id="run-2")).edge == "closed"
            with pytest.raises(NotFencedError, match="not by run-1") as caught:
                await agent.readmit(generation=1, run_id="run-1")
            assert "--run run-2 --generation 1" in caught.value.hint
            again = await agent.readmit(generation=1, run_id="run-2")
            assert (again.edge, again.generation) == ("open", 2)
            with pytest.raises(StaleGenerationError):
                await agent.follow(primary="cloud-db", generation=1, run_id="run-2")
            edge = pair.hosts["onprem-db"].edge
            edge.state = lambda: edge.no_such_call()  # type: ignore[attr-defined,method-assign]
            assert (await agent.status()).edge == "unknown"

    asyncio.run(scenario(Pair()))


@pytest.mark.req("INV-2", "FEN-1")
def test_a_promotion_needs_its_receipt_over_the_wire_too(sshd: Sshd) -> None:
    """An unsigned receipt is refused by the target; a signed one promotes."""
    receipt = FenceReceipt(
        receipt_id="fence-1",
        receipt_class=ReceiptClass.OBSERVED,
        service="pg",
        host="onprem-db",
        generation=1,
        next_generation=2,
        target="cloud-db",
        run_id="run-1",
        issued_at=EPOCH,
        observations=[Observation(by="x", how="probe", saw="refused", at=EPOCH)],
    )

    async def scenario(pair: Pair) -> None:
        await pair.hosts["onprem-db"].verbs.fence(generation=1, run_id="run-1")
        await pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1")
        async with reached(sshd, pair, "cloud-db") as agent:
            with pytest.raises(NotFencedError):
                await agent.promote(receipt=receipt, generation=2, run_id="run-1", demotion=None)
            signed = sign_record(receipt, pair.keys)
            status = await agent.promote(receipt=signed, generation=2, run_id="run-1", demotion=None)
            assert (status.role, status.edge, status.generation) == ("primary", "open", 2)

    asyncio.run(scenario(Pair()))


@pytest.mark.req("FEN-2")
@pytest.mark.fault(16)
def test_a_wrong_host_key_or_a_dead_agent_is_an_error_of_its_own(sshd: Sshd, tmp_path: Path) -> None:
    """Nothing is sent to an unknown host; no socket, no server and no link are told apart from an answer."""
    (dead,) = free_ports(1)

    async def scenario() -> None:
        wrong = SshHostAgent(sshd.place(known_hosts=sshd.folder / "wrong_hosts"))
        with pytest.raises(HostKeyError):
            await wrong.fence(generation=1, run_id="run-1")
        gone = SshHostAgent(sshd.place(port=dead))
        with pytest.raises(AgentLostError, match="no connection") as away:
            await gone.status()
        assert (away.value.reached, away.value.effect) == (False, "none")
        stranger = SshHostAgent(sshd.place(key_file=sshd.folder / "other"))
        with pytest.raises(TargetError, match=r"no connection: .*PermissionDenied") as denied:
            await stranger.status()
        assert not isinstance(denied.value, AgentLostError)  # to knock again would change nothing
        no_agent = SshHostAgent(sshd.place())
        with pytest.raises(AgentLostError, match="no fence agent") as caught:
            await no_agent.status()
        assert (caught.value.reached, caught.value.effect) == (True, "none")
        await no_agent.close()

    asyncio.run(scenario())


@pytest.mark.req("FEN-2")
def test_an_agent_that_hangs_up_or_says_nonsense_leaves_the_effect_unknown(sshd: Sshd) -> None:
    """Hung up without an answer, or an answer that is no JSON: DeadlineError or TargetError, never success."""

    async def scenario(answer: bytes) -> None:
        async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        path = sshd.folder / "agent.sock"
        server = await asyncio.start_unix_server(rude, path)
        agent = SshHostAgent(sshd.place())
        with pytest.raises((DeadlineError, TargetError)) as caught:
            await agent.fence(generation=1, run_id="run-1")
        assert caught.value.effect != "none"
        assert isinstance(caught.value, AgentLostError) == (not answer.endswith(b"\n"))
        await agent.close()
        server.close()
        await server.wait_closed()
        path.unlink()

    for answer in (b"", b'{"ok":tr', b"yes\n", b'{"ok":true}\n', b'{"ok":"yes","result":{}}\n', b"[]\n"):
        asyncio.run(scenario(answer))


@pytest.mark.req("FEN-2", "INV-5")
def test_hostile_requests_change_nothing(tmp_path: Path) -> None:
    """Unknown verbs and keys, wrong types, endless lines: each is refused and the agent goes on."""

    async def scenario(pair: Pair) -> None:
        server = await listen(tmp_path / "s", pair.hosts["onprem-db"].verbs, pair.logs.append, group=None)
        for line in (
            b"\n",
            b'{"verb":"open"}\n',
            b'{"verb":"fence","generation":"1","run_id":"x"}\n',
            b'{"verb":"fence","generation":1,"run_id":"../x"}\n',
            b'{"verb":"status","shell":"true"}\n',
            b'{"verb":"promote","generation":2,"run_id":"x"}\n',
            b"x" * (LINE_BYTES_MAX + 10) + b"\n",
        ):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            try:
                writer.write(line)
                reply = await reader.readline()
            except ConnectionError:
                reply = b""
            assert b'"ok":true' not in reply
            writer.close()
        assert pair.writers() == ["onprem-db"]
        server.close()
        await server.wait_closed()

    asyncio.run(scenario(Pair()))
