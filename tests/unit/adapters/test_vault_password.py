"""The vault password comes from a file, a command or the kernel's keyring, and is never quoted."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from hyops.adapters import vault_password
from hyops.errors import ConfigError, HyopsError, PrerequisiteError

CANARY = "c4nary password"


@pytest.mark.req("SEC-1")
def test_a_file_gives_its_text(tmp_path: Path) -> None:
    """White space around it does not count, as with ansible-vault."""
    path = tmp_path / "pw"
    path.write_text(f"\n {CANARY}\r\n")
    path.chmod(0o600)

    assert vault_password.from_file(path) == CANARY.encode()


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """As ssh does with keys."""
    path = tmp_path / "pw"
    path.write_text(CANARY)
    path.chmod(mode)
    with pytest.raises(PrerequisiteError, match="others can read"):
        vault_password.from_file(path)


@pytest.mark.req("SEC-1")
def test_a_command_gives_its_output() -> None:
    """Only the line end is cut; its standard input is empty."""
    program = f"import sys; assert sys.stdin.read() == ''; print({CANARY!r} + ' ')"

    assert vault_password.from_command([sys.executable, "-c", program]) == f"{CANARY} ".encode()


@pytest.mark.req("SEC-1")
def test_the_kernels_keyring_gives_a_user_key() -> None:
    """A key of this very process's user, read and taken away again."""
    name, libc = f"hyops:test-{uuid.uuid4().hex}", ctypes.CDLL(None, use_errno=True)
    request_key, keyctl = vault_password.SYSCALLS[os.uname().machine]
    process_keyring, unlink = ctypes.c_long(-2), 9
    key = libc.syscall(request_key - 1, b"user", name.encode(), CANARY.encode(), len(CANARY), process_keyring)
    if key < 0:
        pytest.skip(f"this kernel gives no keyring here: {os.strerror(ctypes.get_errno())}")
    try:
        assert vault_password.from_keyring(name) == CANARY.encode()
    finally:
        libc.syscall(keyctl, unlink, key, process_keyring)
    with pytest.raises(PrerequisiteError, match="kernel keyring"):
        vault_password.from_keyring(f"{name}-absent")


@pytest.mark.parametrize(
    "ask",
    [
        lambda tmp: vault_password.from_file(tmp / "absent"),
        lambda tmp: vault_password.from_file(tmp),
        lambda tmp: vault_password.from_command([str(tmp / "absent")]),
        lambda tmp: vault_password.from_command([sys.executable, "-c", f"print({CANARY!r}); raise SystemExit(3)"]),
        lambda tmp: vault_password.from_command([sys.executable, "-c", ""]),
        lambda tmp: vault_password.from_command([sys.executable, "-c", "print('x' * 5000)"]),
        lambda tmp: vault_password.from_file(_written(tmp, b"\n")),
        lambda tmp: vault_password.from_file(_written(tmp, b"x" * 5000)),
    ],
)
def test_no_password_is_an_error_that_quotes_nothing(tmp_path: Path, ask: Callable[[Path], bytes]) -> None:
    """Absent, empty, endless, or a command that failed."""
    with pytest.raises((PrerequisiteError, ConfigError)) as caught:
        ask(tmp_path)

    assert isinstance(caught.value, HyopsError)
    assert CANARY not in caught.value.message


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is said in the error."""
    monkeypatch.setattr(vault_password, "COMMAND_LIMIT_S", 0.2)
    with pytest.raises(PrerequisiteError, match="no answer within"):
        vault_password.from_command([sys.executable, "-c", "import signal; signal.pause()"])


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "pw"
    path.write_bytes(data)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return path
