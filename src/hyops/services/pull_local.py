"""The desk's end of one dispatcher: a line that says which runner, a line that says yes, then bytes both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math

ASK_LIMIT_S = 10.0
WAIT_MAX_S = 60.0
REF_MAX = 64


class LocalEnd:
    """One connection on the desk's socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._in, self._out = reader, writer

    async def asked(self) -> tuple[str, float] | None:
        """The runner that is wanted and how long to wait for it; None when it did not say so in time."""
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                line = await self._in.readuntil(b"\n")
            value = json.loads(line)
            ref, limit_s = value["runner_ref"], value["limit_s"]
            good = isinstance(ref, str) and len(ref) <= REF_MAX and type(limit_s) in (int, float)
            if good and math.isfinite(limit_s) and 0 <= limit_s <= WAIT_MAX_S:
                return ref, float(limit_s)
        except (ValueError, KeyError, TypeError, RecursionError, asyncio.LimitOverrunError):
            pass
        except (OSError, EOFError, TimeoutError):
            self.close()
            return None
        await self.refuse("a line with runner_ref and limit_s is needed")
        return None

    async def accept(self) -> None:
        """Say yes."""
        self.send(b'{"ok":true}\n')

    async def refuse(self, message: str) -> None:
        """Say why not, and end."""
        self.send(json.dumps({"ok": False, "message": message}).encode() + b"\n")
        self.close()

    async def read(self, most: int) -> bytes:
        """What the dispatcher sent; empty once it is gone."""
        try:
            return await self._in.read(most)
        except OSError:
            return b""

    async def has_room(self, limit_s: float) -> bool:
        """Whether the dispatcher takes more, now or within the time."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._out.drain()
            return True
        return False

    def send(self, data: bytes) -> None:
        """At once; only after `has_room`, or little."""
        if not self._out.is_closing():
            self._out.write(data)

    def close(self) -> None:
        """After what was sent."""
        self._out.close()
