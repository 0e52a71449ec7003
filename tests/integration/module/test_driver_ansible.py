"""The driver of Ansible over a real sshd: every end of a play, what it leaves, and where its secrets are seen."""

from __future__ import annotations

import asyncio
import base64
import getpass
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fault_size import FULL
from hyops.adapters import driver_ansible
from hyops.adapters.driver_ansible import AnsibleDriver
from hyops.engine.redact import Redactor
from hyops.errors import DeadlineError, HostKeyError, PrerequisiteError
from hyops.model.module_spec import DriverProfile
from hyops.ports.plays import Play, PlayHost, PlayStatus
from loopback import free_ports
from ssh_peer import SSHD, SshPeer

pytestmark = [pytest.mark.req("MOD-2"), pytest.mark.skipif(SSHD is None, reason="needs OpenSSH's sshd")]

SECRET = "correct-horse-battery"
HEAD = "- hosts: all\n  gather_facts: false\n  tasks:\n"
MAKE = HEAD + "    - ansible.builtin.copy: { dest: '{{ place }}', content: '{{ word }}', mode: '0600' }\n"
FAIL = HEAD + "    - ansible.builtin.fail: { msg: 'it says {{ word }}' }\n"


def profile(**change: Any) -> DriverProfile:
    """The shipped one, but for what a test needs."""
    body = {"api_version": "hybridops/v1", "kind": "DriverProfile", "profile_ref": "p@v1", "driver": "config/ansible",
            "title": "t", "tool": "ansible-core", "tool_min": "2.14", "tool_below": "3",
            "connect_timeout_s": 120}  # fmt: skip
    return DriverProfile.of({**body, **change})


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshPeer]:
    """An sshd that gives its user a shell, as a person's login has it."""
    made = SshPeer(tmp_path_factory.mktemp("peer"))
    made.start()
    (made.folder / "authorized_keys").write_text(made.public("user") + "\n")
    made.pin(f"control {made.public('host')}")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def play(peer: SshPeer, tmp_path: Path) -> Callable[..., Play]:
    """A pack with one playbook."""

    def made(text: str, **variables: Any) -> Play:
        pack = tmp_path / "pack"
        pack.mkdir(exist_ok=True)
        (pack / "apply.yml").write_text(text)
        host = PlayHost("control", "127.0.0.1", peer.port, getpass.getuser(), peer.folder / "user", peer.known_hosts)
        return Play(pack, "apply.yml", host, variables, Redactor({"word": SECRET}).text)

    return made


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's plays have their folders, and nobody else's; short, for a socket is in it."""
    with tempfile.TemporaryDirectory(prefix="ha", dir="/dev/shm") as folder:
        monkeypatch.setattr(driver_ansible, "MEMORY", Path(folder))
        yield Path(folder)


def left() -> set[str]:
    """Folders of plays that are there."""
    return set(os.listdir(driver_ansible.MEMORY))


async def run(play: Play, tell: Callable[[str], None] = lambda line: None, **change: Any) -> Any:
    """One play; no folder of it is left, however it ended."""
    before = left()
    try:
        return await AnsibleDriver(profile(**change)).run(play, tell)
    finally:
        assert left() <= before


@pytest.mark.req("SEC-2", "INV-10")
def test_a_second_time_changes_nothing_and_no_process_shows_a_secret(play: Callable[..., Play], tmp_path: Path) -> None:
    """Changed, then ok; in between no command line of this machine held the secret, nor any file of the driver's."""
    target, seen = tmp_path / "made", []

    def look(line: str) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes())
            except OSError:
                continue
        for path in driver_ansible.MEMORY.glob("hyops-*/*"):
            if path.is_file():
                seen.append(path.read_bytes())

    asked = play(MAKE, place=str(target), word=SECRET)
    first = asyncio.run(run(asked, look))
    assert (first.status, target.read_text()) == (PlayStatus.CHANGED, SECRET)
    assert asyncio.run(run(asked)).status is PlayStatus.OK
    forms = (SECRET.encode(), base64.b64encode(SECRET.encode()))
    assert seen
    assert not any(form in data for data in seen for form in forms)


@pytest.mark.req("SEC-2")
def test_a_failing_task_is_told_without_the_secret(play: Callable[..., Play]) -> None:
    """Its message comes through, what we guard does not."""
    result = asyncio.run(run(play(FAIL, word=SECRET)))
    assert (result.status, result.reached, result.message) == (PlayStatus.FAILED, True, "it says ***")


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_a_changed_host_key_is_refused_before_anything_is_sent(
    play: Callable[..., Play], peer: SshPeer, tmp_path: Path
) -> None:
    """Another key than the pinned one: nothing ran."""
    target, pins = tmp_path / "made", tmp_path / "known_hosts"
    pins.write_text(f"control {peer.public('other')}\n")
    asked = play(MAKE, place=str(target), word=SECRET)
    with pytest.raises(HostKeyError, match="not the pinned one"):
        asyncio.run(run(replace(asked, host=replace(asked.host, known_hosts=pins))))
    assert not target.exists()


def test_a_host_that_does_not_answer_or_lets_nobody_in_is_told_apart(play: Callable[..., Play], peer: SshPeer) -> None:
    """Nobody listens: unreachable. The key opens nothing: a prerequisite, named with its login."""
    asked = play(HEAD + "    - ansible.builtin.command: 'true'\n")
    (closed,) = free_ports(1)
    result = asyncio.run(run(replace(asked, host=replace(asked.host, port=closed))))
    assert (result.status, result.reached) == (PlayStatus.UNREACHABLE, False)
    another_key = replace(asked, host=replace(asked.host, key_file=peer.folder / "other"))
    with pytest.raises(PrerequisiteError, match="does not let"):
        pytest.fail(f"no refusal but {asyncio.run(run(another_key))}")


def test_where_ansible_tells_of_a_broken_pipe_alone_ssh_is_asked_why(
    play: Callable[..., Play], peer: SshPeer, tmp_path: Path
) -> None:
    """ssh that is not let in ends while Ansible still writes: which of them is first is a race, and not told apart."""
    tool = tmp_path / "ansible-playbook"
    torn = {"event": "unreachable", "task": "t", "message": "Data could not be sent: [Errno 32] Broken pipe"}
    said = f"os.write(int(os.environ['HYOPS_EVENTS_FD']), json.dumps({torn}).encode() + b'\\n'); sys.exit(4)"
    version = "sys.exit(print('[core 2.19.0]')) if '--version' in sys.argv else None"
    tool.write_text(f"#!{sys.executable}\nimport json, os, sys\n{version}\n{said}\n")
    tool.chmod(0o755)
    asked = play(HEAD + "    - ansible.builtin.command: 'true'\n")
    driver = AnsibleDriver(profile(), [str(tool)])
    another_key = replace(asked, host=replace(asked.host, key_file=peer.folder / "other"))
    with pytest.raises(PrerequisiteError, match="does not let"):
        pytest.fail(f"no refusal but {asyncio.run(driver.run(another_key, lambda line: None))}")
    let_in = asyncio.run(driver.run(asked, lambda line: None))
    assert (let_in.status, let_in.reached) == (PlayStatus.UNREACHABLE, False)
    assert let_in.message.endswith("Broken pipe")


@pytest.mark.parametrize("end", ["deadline", "cancelled"] if FULL else ["cancelled"])
def test_whatever_was_started_is_ended(play: Callable[..., Play], tmp_path: Path, end: str) -> None:
    """Over its time limit, or cancelled: no process that it started is left, and the lock that it held is free."""
    begun = tmp_path / "begun"
    text = HEAD + f"    - ansible.builtin.shell: 'touch {begun}; exec sleep 600'\n"
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)

    async def cancelled() -> None:
        task = asyncio.create_task(run(replace(play(text), held=(held,))))
        from waiting import until

        await until(begun.exists, "the task", 60.0)
        task.cancel()
        await task

    try:
        if end == "deadline":
            with pytest.raises(DeadlineError, match="longer than"):
                asyncio.run(run(replace(play(text), held=(held,)), timeout_s=2.0))
        else:
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(cancelled())
        assert not [path for path in Path("/proc").glob("[0-9]*/fd/*") if _is(path, tmp_path / "lock")]
    finally:
        os.close(held)


def _is(link: Path, path: Path) -> bool:
    """Whether another process has this file open."""
    try:
        return int(link.parts[2]) != os.getpid() and os.readlink(link) == str(path)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("echo 'ansible-playbook [core 2.9.6]'", "2.9.6; ansible-core >=2.14,<3 is needed"),
        ("exit 1", "version unknown"),
    ],
)
def test_an_old_or_broken_tool_is_refused(play: Callable[..., Play], tmp_path: Path, says: str, why: str) -> None:
    """The profile's range counts, and what says no version is none."""
    tool = tmp_path / "ansible-playbook"
    tool.write_text(f"#!/bin/sh\n{says}\n")
    tool.chmod(0o755)
    with pytest.raises(PrerequisiteError, match=why):
        asyncio.run(AnsibleDriver(profile(), [str(tool)]).run(play(FAIL), print))


@pytest.mark.req("VOC-5")
def test_a_tool_that_dies_under_way_leaves_unknown(play: Callable[..., Play], tmp_path: Path) -> None:
    """A task had been told and no end was: nobody knows what came after it."""
    tool = tmp_path / "ansible-playbook"
    event = '{"event": "changed", "task": "one", "message": "", "hyops": null}'
    lines = ["#!/bin/bash", 'case "$1" in --version) echo "[core 2.16.1]"; exit;; esac']
    tool.write_text("\n".join([*lines, f"echo '{event}' >&$HYOPS_EVENTS_FD", "kill -9 $$"]) + "\n")
    tool.chmod(0o755)
    result = asyncio.run(AnsibleDriver(profile(), [str(tool)]).run(play(FAIL), lambda line: None))
    assert (result.status, result.reached) == (PlayStatus.UNKNOWN, True)
