"""A runner's real server as a child process, over pipes and without any link in between: its version can be chosen."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hyops.adapters.runner_link import EndedError
from hyops.adapters.runner_session import FramedSession
from hyops.model import protocol, wire
from hyops.testing.evidence import VERIFIER

SPOKEN = protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX
SERVE = """
import sys
import hyops._version
hyops._version.__version__ = sys.argv[1]
from hyops.model import protocol
protocol.PROTOCOL_MIN, protocol.PROTOCOL_MAX = int(sys.argv[2]), int(sys.argv[3])
from hyops.runner import serve
sys.exit(serve.main(["--config", sys.argv[4]]))
"""


class LocalLink:
    """`Link`: every pipe is one more `runner-serve` of that version. `words` may change between two pipes."""

    def __init__(self, config: Path, version: str = "0.1.0", protocols: tuple[int, int] = SPOKEN) -> None:
        self.config, self.version, self.protocols = config, version, protocols
        self._pipes: list[LocalPipe] = []

    async def open(self) -> LocalPipe:
        """Start one."""
        low, high = map(str, self.protocols)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVE, self.version, low, high, str(self.config)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=wire.HEADER_MAX + 1,
        )
        self._pipes.append(LocalPipe(process))
        return self._pipes[-1]

    async def drop(self) -> None:
        """End them all."""
        for pipe in self._pipes:
            pipe.close()
            await pipe.process.wait()


class LocalPipe:
    """`Pipe`."""

    carries_link = False

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._in, self._out = process, process.stdin, process.stdout

    async def write(self, data: bytes) -> None:
        """See the port."""
        self._in.write(data)
        await self._in.drain()

    async def read_line(self) -> bytes:
        """See the port."""
        if not (line := await self._out.readline()):
            raise EndedError(await self.process.wait())
        return line

    async def read_exactly(self, count: int) -> bytes:
        """See the port."""
        return await self._out.readexactly(count)

    def close(self) -> None:
        """See the port."""
        self._in.close()


def session(link: LocalLink) -> FramedSession:
    """A session over it."""
    return FramedSession(link, "cloud-runner", VERIFIER)
