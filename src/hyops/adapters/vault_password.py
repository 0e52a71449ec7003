"""The password of the vault cache: from a file, a command or the kernel's keyring; never from argv or environment.

The keyring of a desktop is read by its own command (`secret-tool lookup ...`, `keyring get ...`).
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hyops.errors import ConfigError, PrerequisiteError

BYTES_MAX = 4096
COMMAND_LIMIT_S = 30.0  # a person may have to touch a token
SYSCALLS = {"x86_64": (249, 250), "aarch64": (218, 219)}  # request_key, keyctl
KEYCTL_READ = 11


def from_file(path: Path) -> bytes:
    """The file's content without white space around it, as ansible-vault takes it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(BYTES_MAX + 1)
    except OSError as exc:
        raise PrerequisiteError(f"vault password: {path}: {exc.strerror}") from exc
    if stat.S_ISREG(mode) and mode & 0o077:
        raise PrerequisiteError(f"vault password: {path}: others can read it", hint=f"chmod 600 {path}")
    return _checked(data.strip(), str(path))


def from_command(command: Sequence[str]) -> bytes:
    """What a command prints, without the line end."""
    name = command[0]
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise PrerequisiteError(f"vault password: {name}: no answer within {COMMAND_LIMIT_S:g} s") from None
    except OSError as exc:
        raise PrerequisiteError(f"vault password: {name}: {exc.strerror}") from exc
    if done.returncode != 0:
        raise PrerequisiteError(f"vault password: {name} ended with {done.returncode}")
    return _checked(done.stdout.strip(b"\r\n"), name)


def from_keyring(description: str) -> bytes:
    """A `user` key of the Linux kernel, put there with `keyctl padd user DESCRIPTION @u`."""
    where = f"kernel keyring: {description}"
    if platform.machine() not in SYSCALLS:
        raise PrerequisiteError(f"vault password: {where}: not on {platform.machine()}; use a file or a command")
    request_key, keyctl = SYSCALLS[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    key = libc.syscall(request_key, b"user", description.encode(), None, 0)
    if key < 0:
        raise PrerequisiteError(
            f"vault password: {where}: {os.strerror(ctypes.get_errno())}", hint=f"keyctl padd user {description} @u"
        )
    room = ctypes.create_string_buffer(BYTES_MAX + 1)
    size = libc.syscall(keyctl, KEYCTL_READ, key, room, ctypes.c_size_t(len(room)))
    if size < 0:
        raise PrerequisiteError(f"vault password: {where}: {os.strerror(ctypes.get_errno())}")
    return _checked(room.raw[: min(size, len(room))].strip(b"\r\n"), where)


def _checked(password: bytes, source: str) -> bytes:
    if not password:
        raise ConfigError(f"vault password: {source}: empty")
    if len(password) > BYTES_MAX:
        raise ConfigError(f"vault password: {source}: more than {BYTES_MAX} bytes")
    return password
