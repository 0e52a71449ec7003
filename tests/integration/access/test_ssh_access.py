"""A real target behind a real bastion, and hosts that are not ready yet (ACC-1, ACC-2, ACC-3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from access_hosts import Host, bastion, forwards_only, target
from access_kit import options, run_of
from hyops.access.bastion import BastionExplicit
from hyops.access.circumstances import Target
from hyops.access.mode import resolve
from hyops.adapters import access_ssh
from hyops.adapters.access_probes import HostProbes
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.hostagent_ssh import AgentPlace, SshHostAgent
from hyops.compose_restore import member_agents
from hyops.errors import HostKeyError, PrerequisiteError, TargetError
from hyops.model.access import ResolvedAccess
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import ExecutionPlane
from hyops.ports.access import SshPlace
from hyops.runner.config import RunnerConfig
from loopback import missing

pytestmark = pytest.mark.skipif(missing("sshd", "ip") is not None, reason=str(missing("sshd", "ip")))
WAIT_S = 10.0  # generous: only what never comes is waited for this long


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Bastion and target, both up."""
    db = target(tmp_path / "db")
    jump = bastion(tmp_path / "jump", db.port)
    try:
        db.start()
        jump.start()
        yield jump, db
    finally:
        jump.stop()
        db.stop()


def explicit(jump: Host, db: Host, *, wait_s: float = WAIT_S) -> ResolvedAccess:
    """Resolve bastion-explicit for the target."""
    here = {
        "address": "127.0.0.1", "port": jump.port, "user": "root", "site": "edge",
        "key_file": str(jump.folder / "client"), "known_hosts": str(jump.folder / "known_hosts"),
    }  # fmt: skip
    known = options(bastions={"jump": here}, bastion="jump", ready_wait_s=wait_s)
    mode = BastionExplicit(known, db.place, HostProbes())
    run = run_of(ExecutionPlane.BASTION_EXPLICIT, targets=(Target("cloud-db", "127.0.0.1", "cloud"),))
    return asyncio.run(resolve(mode, run, SystemClock()))


@pytest.mark.req("ACC-1", "EVD-1")
def test_a_target_is_entered_through_its_bastion(hosts: tuple[Host, Host]) -> None:
    """Every prerequisite holds on real servers, and the target saw nobody but the bastion's forwarding."""
    jump, db = hosts

    found = explicit(jump, db)

    assert [check.prerequisite for check in found.checks] == list(BastionExplicit.names)
    assert found.through == ["jump"]
    assert found.checks[-1].seen.startswith("SHA256:")
    assert jump.connections == 2
    assert db.connections == 1


@pytest.mark.req("ACC-2", "GATE-1")
@pytest.mark.fault(20)
def test_a_bastion_that_is_down_is_refused_and_the_target_is_let_be(hosts: tuple[Host, Host]) -> None:
    """It would answer straight; no connection is made."""
    jump, db = hosts
    jump.stop()

    with pytest.raises(PrerequisiteError, match="access mode bastion-explicit: bastion-answers"):
        explicit(jump, db, wait_s=0.2)

    assert db.connections == 0


@pytest.mark.req("ACC-1")
def test_a_bastion_with_another_key_is_refused(hosts: tuple[Host, Host]) -> None:
    """The pin decides, at once."""
    jump, db = hosts
    jump.pin("other")

    with pytest.raises(HostKeyError, match="bastion-explicit: bastion-answers"):
        explicit(jump, db)

    assert db.connections == 0


@pytest.mark.req("ACC-1")
def test_a_bastion_without_a_pin_is_not_dialled(hosts: tuple[Host, Host]) -> None:
    """No pin for its name: nobody connects, though its address is pinned."""
    jump, db = hosts
    (jump.folder / "known_hosts").write_text(f"other {(jump.folder / 'host.pub').read_text()}")

    with pytest.raises(PrerequisiteError, match="bastion-key-pinned"):
        explicit(jump, db)

    assert jump.connections == 0


@pytest.mark.req("ACC-1")
def test_a_key_that_may_run_commands_on_the_bastion_is_refused(hosts: tuple[Host, Host]) -> None:
    """A forward-only key is a prerequisite, and it is tried, not believed."""
    jump, db = hosts
    jump.may("restrict,port-forwarding")

    with pytest.raises(PrerequisiteError, match="bastion-only-forwards"):
        explicit(jump, db)


@pytest.mark.req("ACC-1", "ACC-2")
def test_a_bastion_that_does_not_forward_there_is_named(hosts: tuple[Host, Host]) -> None:
    """Entered, and of no use: the target is not ready, through the bastion or otherwise."""
    jump, db = hosts
    jump.may(forwards_only(1))

    with pytest.raises(PrerequisiteError, match=r"target-answers.*jump does not forward"):
        explicit(jump, db, wait_s=3.0)

    assert db.connections == 0


@pytest.mark.req("ACC-1")
def test_the_targets_own_key_is_pinned_through_the_bastion(hosts: tuple[Host, Host]) -> None:
    """A bastion that leads somewhere else is found out by the key at the end."""
    jump, db = hosts
    db.pin("other")

    with pytest.raises(HostKeyError, match="target-answers"):
        explicit(jump, db)


def status(db: Host, via: SshPlace | None) -> dict[str, Any]:
    """Ask the agent, as the fence driver does."""
    place = AgentPlace("cloud-db", "127.0.0.1", "root", db.folder / "client", db.folder / "known_hosts", db.port, via)

    async def ask() -> dict[str, Any]:
        agent = SshHostAgent(place)
        try:
            return await agent._call("status")
        finally:
            await agent.close()

    return asyncio.run(ask())


@pytest.mark.req("ACC-1", "ACC-2")
@pytest.mark.fault(20)
def test_the_fence_agent_is_dialled_through_the_bastion_and_never_around_it(hosts: tuple[Host, Host]) -> None:
    """Up: the verb arrives through it. Down: no connection, while the straight way is open."""
    jump, db = hosts

    assert status(db, jump.place) == {}
    assert jump.connections == 1
    jump.stop()
    with pytest.raises(TargetError, match="no connection: jump"):
        status(db, jump.place)

    assert db.connections == 1


def ready(place: SshPlace, wait_s: float = WAIT_S, via: SshPlace | None = None) -> Any:
    """Ask whether a host is ready."""
    return asyncio.run(access_ssh.ready(place, via=via, wait_s=wait_s, command=True))


@pytest.mark.req("ACC-3")
def test_a_fresh_host_is_ready_only_when_its_command_answers(tmp_path: Path) -> None:
    """A race: nothing listens, then sshd is up with no key for us, then the key may run nothing, then it answers."""
    db = target(tmp_path / "db")
    line, seen = db.line, []
    db.line = "#"  # sshd comes up before the key is there, as a cloud's image does

    def grow() -> None:
        seen.append("listening")
        db.start()
        _until(lambda: "Failed publickey" in db.log or "Connection closed by authenticating" in db.log)
        seen.append("locked")
        db.may('restrict,command="/bin/false"')
        _until(lambda: "Accepted publickey" in db.log)
        seen.append("mute")
        db.may(line)

    growing = threading.Thread(target=grow)
    try:
        growing.start()
        found = ready(db.place)
    finally:
        growing.join()
        db.stop()

    assert seen == ["listening", "locked", "mute"]
    assert found.ran
    assert found.tries >= 3


@pytest.mark.req("ACC-3")
def test_created_is_not_ready(tmp_path: Path) -> None:
    """A port that takes connections, and a login that answers nothing, are refused when the wait is over."""
    from access_hosts import silent_listener

    db = target(tmp_path / "db")
    with silent_listener() as listener:
        db.port = listener.getsockname()[1]
        db.pin("host")
        with pytest.raises(PrerequisiteError, match=r"not ready within 0.3 s and \d+ tries"):
            ready(db.place, wait_s=0.3)
    (tmp_path / "again").mkdir()
    mute = target(tmp_path / "again/db")
    mute.line = 'restrict,command="/bin/false"'
    try:
        mute.start()
        assert not ready(mute.place, wait_s=WAIT_S).ran
    finally:
        mute.stop()


@pytest.mark.req("ACC-3")
def test_a_fresh_host_with_another_key_is_not_waited_for(tmp_path: Path) -> None:
    """A wrong key does not become right: one connection, told at once."""
    db = target(tmp_path / "db")
    db.start()
    db.pin("other")
    try:
        with pytest.raises(HostKeyError):
            ready(db.place, wait_s=60.0)
        assert db.connections == 1
    finally:
        db.stop()


def _until(done: Any) -> None:
    from waiting import wait_for

    wait_for(done, "the next state")


def restoring(tmp_path: Path, jump: Host, db: Host, **access: Any) -> dict[str, Any]:
    """Ask the member as `hyops fence restore-generation` does, for a service on the plane bastion-explicit."""
    here = {
        "address": "127.0.0.1", "port": jump.port, "user": "root", "site": "edge",
        "key_file": str(jump.folder / "client"), "known_hosts": str(jump.folder / "known_hosts"),
    }  # fmt: skip
    login = {"user": "root", "key_file": str(db.folder / "client"), "known_hosts": str(db.folder / "known_hosts")}
    config = RunnerConfig(
        runner_ref="cloud-runner",
        site="cloud",
        root=tmp_path,
        signing_key=tmp_path / "key",
        trusted_keys=tmp_path / "trusted",
        allowed_signers=tmp_path / "allowed",
        options={
            "targets": {**login, "port": db.port},
            "database": {"dbname": "app", "user": "probe", "passfile": "/etc/hyops/pgpass"},
            "access": {"bastions": {"jump": here}, **access},
        },
    )
    members = [
        {"host": host, "site": host.partition("-")[0], "address": "127.0.0.1", "runner_ref": "cloud-runner"}
        for host in ("cloud-db", "onprem-db")
    ]
    policy = ServicePolicy.of(
        {
            "api_version": "hybridops/v1", "kind": "ServicePolicy", "service": "pg", "env": "prod", "members": members,
            "preferred": "cloud-db", "execution_plane": "bastion-explicit", "receipts": ["observed"], "quorum": 1,
            "endpoint": {"name": "db.", "zone": ".", "authorities": ["127.0.0.1:53"], "tsig_key_name": "k"},
            "lease": {"endpoints": ["http://127.0.0.1:1"]},
            "signals": [{"name": "primary", "source": "postgresql", "vantages": ["cloud-runner"]}],
        }
    )  # fmt: skip

    async def ask() -> dict[str, Any]:
        agents = member_agents(config, policy)
        try:
            return await agents["cloud-db"]._call("status")
        finally:
            for agent in agents.values():
                await agent.close()

    return asyncio.run(ask())


@pytest.mark.req("ACC-1", "ACC-2", "INV-6")
def test_a_restored_generation_is_asked_for_on_the_services_own_way(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Through the bastion, as the switch goes; with the bastion down or not named, nobody is asked straight."""
    jump, db = hosts

    assert restoring(tmp_path, jump, db, bastion="jump") == {}
    assert (jump.connections, db.connections) == (1, 1)
    with pytest.raises(PrerequisiteError, match="no bastion is named"):
        restoring(tmp_path, jump, db)
    with pytest.raises(PrerequisiteError, match="not inferred"):
        restoring(tmp_path, jump, db, infer_bastion=True)
    jump.stop()
    with pytest.raises(TargetError, match="no connection: jump"):
        restoring(tmp_path, jump, db, bastion="jump")

    assert db.connections == 1
