"""The edge in a real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from hyops.adapters.nft_edge import NftEdge
from hyops.errors import PrerequisiteError, TargetError
from loopback import missing, own_network, without_net_admin
from waiting import PATIENCE_S, stand_still

pytestmark = pytest.mark.skipif(missing("nft", "ip") is not None, reason=str(missing("nft", "ip")))
PORT = 5432


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    """Nothing of the machine's own network is touched."""
    with own_network():
        yield


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Somebody who would answer on the database's port."""
    with socket.create_server(("127.0.0.1", PORT)) as listener:
        yield listener


def connects() -> bool:
    """Whether a new client gets through; a closed edge refuses at once instead of hanging."""
    with socket.socket() as client:
        client.settimeout(2.0)
        try:
            client.connect(("127.0.0.1", PORT))
        except ConnectionRefusedError:
            return False
        return True


@pytest.mark.req("FEN-2", "INV-1")
def test_the_edge_is_closed_until_it_is_granted(server: socket.socket) -> None:
    """Installed or armed it refuses; granted it lets through; closed it refuses again."""
    edge = NftEdge(port=PORT)
    assert edge.state().installed is False
    edge.install()
    assert not connects()
    slot = edge.arm(5.0)
    assert not connects()
    assert edge.state().open is False
    edge.grant(slot)
    assert connects()
    assert edge.state().open is True
    edge.close()
    assert not connects()


@pytest.mark.req("FEN-2", "INV-1")
def test_the_kernel_closes_by_itself(server: socket.socket) -> None:
    """Nobody refreshes: at the end of the countdown new clients are refused and no answer leaves any more."""
    edge = NftEdge(port=PORT)
    edge.install()
    edge.grant(edge.arm(PATIENCE_S))
    client = socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE_S)
    session, _ = server.accept()
    session.sendall(b"acknowledged")
    assert client.recv(100) == b"acknowledged"
    edge.grant(edge.arm(0.4))  # the last one: what was granted before it counts no more
    client.settimeout(0.9)

    with pytest.raises((TimeoutError, ConnectionResetError)):  # waits for an answer until after the countdown
        client.recv(100)
    session.sendall(b"too late")
    with pytest.raises((TimeoutError, ConnectionResetError)):
        client.recv(100)

    assert not connects()
    client.close()
    session.close()


@pytest.mark.req("FEN-2", "INV-1")
@pytest.mark.fault(28)
def test_what_is_granted_late_is_already_over(server: socket.socket) -> None:
    """A process that stood still between its renewal and the grant opens nothing: the slot has run down."""
    edge = NftEdge(port=PORT)
    edge.install()
    slot = edge.arm(0.3)
    stand_still(0.4, "the kernel counts the slot down while the process stands still")
    edge.grant(slot)
    assert not connects()
    assert edge.state().open is False


@pytest.mark.req("FEN-2")
def test_renewals_keep_the_edge_open_without_a_gap(server: socket.socket) -> None:
    """Ten renewals on alternating slots: a session survives them all, longer than any one countdown."""
    edge = NftEdge(port=PORT)
    edge.install()
    edge.grant(edge.arm(1.5))
    client = socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE_S)
    session, _ = server.accept()
    for number in range(10):
        stand_still(0.2, "the kernel's countdowns run between renewals")
        edge.grant(edge.arm(1.5))
        session.sendall(bytes([number]))
        assert client.recv(1) == bytes([number])
    client.close()
    session.close()


@pytest.mark.req("FEN-2")
def test_only_peers_pass_while_draining_and_only_monitors_while_reading(server: socket.socket) -> None:
    """Each way in is for its own addresses and ends with `close`."""
    for peers, monitors, drains, reads in (
        (["127.0.0.1"], [], True, False),
        ([], ["127.0.0.1"], False, True),
        (["10.0.0.1"], ["10.0.0.2"], False, False),
    ):
        edge = NftEdge(port=PORT, peers=peers, monitors=monitors)
        edge.install()
        edge.drain(5.0)
        assert connects() is drains
        edge.close()
        edge.read(5.0)
        assert connects() is reads
        edge.close()
        assert not connects()


@pytest.mark.req("FEN-2")
@pytest.mark.fault(24, 28)
def test_a_frozen_agent_and_its_kill_leave_the_edge_closed(server: socket.socket) -> None:
    """SIGSTOP the process that refreshes: closed at the end of its ttl; closed after kill -9 and after its thaw."""
    script = (
        "import sys, time\nfrom hyops.adapters.nft_edge import NftEdge\n"
        f"edge = NftEdge(port={PORT}); edge.install(); print('up', flush=True)\n"
        "while True:\n slot = edge.arm(0.4); time.sleep(0.02); edge.grant(slot); time.sleep(0.05)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + PATIENCE_S
        while not connects():
            assert time.monotonic() < end
        os.kill(process.pid, signal.SIGSTOP)
        stand_still(0.45, "the kernel counts the last grant down")
        assert not connects()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not connects()
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.mark.req("FEN-2")
def test_a_rule_set_that_somebody_removed_is_an_error_and_not_open(server: socket.socket) -> None:
    """Without its table the edge cannot be granted; `state` says that it is not installed."""
    edge = NftEdge(port=PORT)
    edge.install()
    subprocess.run(["nft", "delete", "table", "inet", "hyops_edge"], check=True)
    with pytest.raises(TargetError):
        edge.grant(edge.arm(1.0))
    assert edge.state().installed is False


@pytest.mark.req("FEN-2", "INV-5")
@pytest.mark.parametrize("chain", ["guard", "input", "output"])
def test_a_table_whose_chains_were_emptied_is_not_installed(server: socket.socket, chain: str) -> None:
    """The table stands and lets everything pass, in one direction at least: that is no closed edge."""
    edge = NftEdge(port=PORT)
    edge.install()
    assert edge.state().installed is True
    subprocess.run(["nft", "flush", "chain", "inet", "hyops_edge", chain], check=True)
    assert edge.state().installed is False
    edge.install()
    assert edge.state().installed is True
    assert not connects()


@pytest.mark.req("FEN-2", "INV-5")
def test_an_edge_that_cannot_be_read_is_an_error_and_neither_open_nor_closed() -> None:
    """Without the capability the kernel says EPERM, and without the library nobody asks it: no state is made up."""
    edge = NftEdge(port=PORT)
    edge.install()
    with without_net_admin():
        for call in (edge.state, edge.install, edge.close, lambda: edge.arm(1.0)):
            with pytest.raises(TargetError, match="not permitted"):
                call()
    assert edge.state().installed is True
    absent = NftEdge(port=PORT, library="libabsent.so.1")  # making it raises nothing: its agent must live
    for call in (absent.state, absent.install, absent.close):
        with pytest.raises(PrerequisiteError, match=r"libabsent\.so\.1"):
            call()
