"""What a login that fails on this host means for an attempt: not reached for now, or refused for good."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyops.adapters.pki_files import is_revoked
from hyops.adapters.runner_link import HostKeyRefusedError, Link, RunnerTarget, SshTransport
from hyops.adapters.signer_ed25519 import TrustedKeys, TrustedVerifier
from hyops.adapters.ssh_asyncssh import dial as asyncssh_dial
from hyops.errors import Effect, HostKeyError, HyopsError, PrerequisiteError, RefusedError, RunnerUnreachableError
from hyops.ports.identity import Login

NOBODY = TrustedKeys(keys=[])
SHORT = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC]
LASTING = [errno.ENOENT, errno.EACCES, errno.ELOOP]


class Source:
    """A `LoginSource`; with a fault it cannot sign."""

    def __init__(self, fault: Exception | None) -> None:
        self._fault = fault

    def login(self) -> Login:
        """Not now, or a key without a certificate."""
        if self._fault is not None:
            raise self._fault
        return Login(b"no key")

    clock_login = login

    def now(self) -> datetime:
        """Any time."""
        return datetime(2026, 1, 1, tzinfo=UTC)


def translated(number: int) -> PrerequisiteError:
    """As our adapters say it."""
    fault = PrerequisiteError(f"register.jsonl: {os.strerror(number)}")
    fault.__cause__ = OSError(number, os.strerror(number))
    return fault


def unanswered() -> PrerequisiteError:
    """As `pki_files` says it."""
    fault = PrerequisiteError("ssh-keygen gave no answer within 10 s")
    fault.__cause__ = subprocess.TimeoutExpired(["ssh-keygen"], 10)
    return fault


def unpinned(number: int) -> HostKeyRefusedError:
    """As a client says it whose pins cannot be read."""
    fault = HostKeyRefusedError(f"known_hosts: {os.strerror(number)}")
    fault.__cause__ = OSError(number, os.strerror(number))
    return fault


def connecting(
    place: Path, *, source: Source | None = None, dial_fault: Callable[[], Exception] | None = None
) -> HyopsError:
    """What a connection ends with; `dial_fault` makes what the dialling raises."""
    dialled = []

    async def dial(target: RunnerTarget, keepalive_s: float, over: object) -> Link:
        dialled.append(target)
        assert dial_fault is not None, "dialled without a login"
        raise dial_fault()

    async def scenario() -> None:
        target = RunnerTarget("10.0.0.1", "hyops", place / "key", place / "known_hosts", identity=source)
        async with SshTransport({"r": target}, TrustedVerifier(NOBODY), dial).connect("r"):
            raise AssertionError("connected")

    with pytest.raises(HyopsError) as failed:
        asyncio.run(scenario())
    assert len(dialled) == (dial_fault is not None)
    return failed.value


def assert_not_reached(error: HyopsError) -> None:
    """It is tried again, and says that nothing was touched and what to look at."""
    assert isinstance(error, RunnerUnreachableError)
    assert not isinstance(error, RefusedError)
    assert (error.effect, "this host cannot log in now" in error.message) == (Effect.NONE, True)
    assert "open files" in error.hint


@pytest.mark.req("EXE-1", "RUN-5", "RUN-11")
@pytest.mark.parametrize("number", SHORT, ids=errno.errorcode.__getitem__)
def test_a_host_that_is_short_of_something_refuses_nobody(tmp_path: Path, number: int) -> None:
    """Neither while it makes its certificate nor while it reads its pins: the runner was not reached."""
    assert_not_reached(connecting(tmp_path, source=Source(translated(number))))
    assert_not_reached(connecting(tmp_path, source=Source(OSError(number, os.strerror(number)))))
    assert_not_reached(connecting(tmp_path, dial_fault=lambda: unpinned(number)))
    assert_not_reached(connecting(tmp_path, dial_fault=lambda: translated(number)))


@pytest.mark.req("EXE-1", "RUN-11")
def test_a_command_without_an_answer_refuses_nobody(tmp_path: Path) -> None:
    """`ssh-keygen` that hangs says nothing about the login or the host key."""
    assert_not_reached(connecting(tmp_path, source=Source(unanswered())))
    assert_not_reached(connecting(tmp_path, dial_fault=unanswered))


@pytest.mark.req("RUN-3", "EXE-1")
@pytest.mark.parametrize("number", LASTING, ids=errno.errorcode.__getitem__)
def test_what_does_not_pass_by_itself_stays_a_refusal(tmp_path: Path, number: int) -> None:
    """A missing or closed CA or pin file ends the attempt, with nothing touched."""
    assert isinstance(connecting(tmp_path, source=Source(translated(number))), PrerequisiteError)
    assert isinstance(connecting(tmp_path, dial_fault=lambda: unpinned(number)), HostKeyError)
    assert isinstance(connecting(tmp_path, dial_fault=lambda: translated(number)), PrerequisiteError)


@pytest.mark.req("RUN-3", "INV-5")
def test_a_changed_host_key_stays_a_refusal(tmp_path: Path) -> None:
    """Whatever else this host is short of: a key that was judged is judged."""
    error = connecting(tmp_path, dial_fault=lambda: HostKeyRefusedError("Host key is not trusted"))

    assert isinstance(error, HostKeyError)


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.req("EXE-1", "RUN-3")
@pytest.mark.parametrize("source", [None, Source(None)], ids=["certificate", "pins"])
def test_a_process_that_can_open_nothing_was_not_there(tmp_path: Path, source: Source | None) -> None:
    """The real client, for want of files before its certificate or its pins: where a missing pin file is a refusal."""
    importlib.import_module("hyops.adapters.runner_session")  # loaded at the first connection
    target = RunnerTarget("127.0.0.1", "hyops", tmp_path / "key", tmp_path / "known_hosts", port=1, identity=source)

    async def scenario(*, full: bool) -> None:
        with no_more_files() if full else nullcontext():
            async with SshTransport({"r": target}, TrustedVerifier(NOBODY), asyncssh_dial).connect("r"):
                raise AssertionError("connected")

    with pytest.raises(HostKeyError):
        asyncio.run(scenario(full=False))
    with pytest.raises(RunnerUnreachableError) as failed:
        asyncio.run(scenario(full=True))
    assert_not_reached(failed.value)


@pytest.mark.req("RUN-3", "INV-5")
def test_a_killed_ssh_keygen_revokes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends it for want of memory: no word about the key. One that ends by itself with a fault revokes."""
    program = tmp_path / "ssh-keygen"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with pytest.raises(PrerequisiteError, match="ended by signal 9") as failed:
        is_revoked(tmp_path / "krl", b"ssh-ed25519 AAAA\n")
    assert_not_reached(connecting(tmp_path, dial_fault=lambda: failed.value))

    program.write_text("#!/bin/sh\nexit 1\n")
    assert is_revoked(tmp_path / "krl", b"ssh-ed25519 AAAA\n")
