"""A command of an administrator's login: all of what it says, and never more than anything of ours says (RUN-2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hyops.adapters import admin_ssh
from hyops.adapters.admin_ssh import SshAdminSession
from hyops.adapters.runner_link import RunnerTarget
from hyops.adapters.ssh_asyncssh import AsyncsshLink
from hyops.adapters.ssh_library import asyncssh
from hyops.errors import Effect, RunnerUnreachableError, TargetError
from hyops.ports.admin import Said

pytestmark = pytest.mark.req("RUN-2")

LIMIT = 100_000


class Open(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        """See asyncssh."""
        return False


async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """`echo`: what it is given; `out N` and `errors N`: so many bytes; `cut`: the connection ends."""
    word, _, count = (process.command or "").partition(" ")
    if word == "echo":
        process.stdout.write(await process.stdin.read())
        process.stderr.write(b"said")
    elif word == "cut":
        process.channel.get_connection().abort()
    else:
        stream = process.stdout if word == "out" else process.stderr
        stream.write(b"x" * int(count))
    process.exit(3)


@asynccontextmanager
async def session(folder: Path) -> AsyncIterator[SshAdminSession]:
    """A login on loopback."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Open, server_host_keys=[key], process_factory=answer, encoding=None
    )
    async with server:
        connection = await asyncssh.connect(
            "127.0.0.1", server.get_port(), known_hosts=([key.convert_to_public()], [], []), username="ada",
            client_keys=None, agent_path=None, config=None,
        )  # fmt: skip
        link = AsyncsshLink(connection)
        try:
            yield SshAdminSession(link, RunnerTarget("edge", "ada", folder / "key", folder / "pins"))
        finally:
            await link.drop()


def said(folder: Path, command: str, data: bytes = b"") -> Said:
    """One command."""

    async def scenario() -> Said:
        async with session(folder) as entered:
            return await entered.run(command, data)

    return asyncio.run(scenario())


def test_all_of_it_comes_with_its_status(tmp_path: Path) -> None:
    """What was given, what it complained of and how it ended; more than one window of it, too."""
    data = bytes(range(256)) * 2000

    assert said(tmp_path, "echo", data) == Said(3, data, b"said")


@pytest.mark.parametrize("stream", ["out", "errors"])
def test_a_flood_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """As much as may be comes; one byte more is an error of that host, and memory here is not its to fill."""
    monkeypatch.setattr(admin_ssh, "OUTPUT_BYTES_MAX", LIMIT)
    whole = said(tmp_path, f"{stream} {LIMIT}")
    assert len(whole.out + whole.errors) == LIMIT

    with pytest.raises(TargetError, match=f"edge: it wrote more than {LIMIT} bytes") as caught:
        said(tmp_path, f"{stream} {LIMIT + 1}")

    assert caught.value.effect is Effect.UNKNOWN


def test_a_link_that_goes_is_said(tmp_path: Path) -> None:
    """Nobody knows how it ended there."""
    with pytest.raises(RunnerUnreachableError, match="edge"):
        said(tmp_path, "cut")
