"""Ships the files that a runner has not: one plain tar in pieces, hashed again while it leaves (RUN-1, INV-4).

At most a piece of a file is held at a time. When the runner says no in the middle, or a file is not what was approved
any more, the stream is given up and the channel stays sound.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from hyops.errors import PrerequisiteError, RefusedError, UnsafePlanError
from hyops.model import wire
from hyops.ports.bundle import BundleFile

PROGRESS_LIMIT_S = 60.0  # between two pieces
DURABLE_LIMIT_S = 300.0  # from the last one to the answer: a slow disk makes a whole bundle durable

T = TypeVar("T")
Write = Callable[[bytes], Awaitable[None]]


async def ship(
    files: Mapping[str, BundleFile], write: Write, answer: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Send the archive of `files`, one a digest, by their names; returns the runner's answer.

    Raises:
        UnsafePlanError: a file is not what it was when the bundle was computed. PrerequisiteError: it cannot be read.
        Whatever `answer` raises: what the runner said, at whatever point it said it.
    """
    answered = asyncio.ensure_future(answer())
    try:
        try:
            async with contextlib.aclosing(_archive(files)) as archive:
                async for piece in archive:
                    await _limited(write(wire.chunk(piece)))
                    if answered.done():  # the runner says no already
                        break
        except RefusedError:
            await _limited(write(wire.abort()))
            await _limited(asyncio.wait([answered]))  # that it has given up: behind it the channel is sound
            raise
        await _limited(write(wire.abort() if answered.done() else wire.chunk(b"")))
        return await _limited(asyncio.shield(answered), DURABLE_LIMIT_S)
    finally:
        answered.cancel()
        await asyncio.gather(answered, return_exceptions=True)


async def _limited(wait: Awaitable[T], limit_s: float = PROGRESS_LIMIT_S) -> T:
    async with asyncio.timeout(limit_s):
        return await wait


async def _archive(files: Mapping[str, BundleFile]) -> AsyncGenerator[bytes, None]:
    for name, file in files.items():
        header = tarfile.TarInfo(file.digest.removeprefix("sha256:"))
        header.size, header.mode = file.size_bytes, 0o600
        yield header.tobuf(tarfile.USTAR_FORMAT)
        async with contextlib.aclosing(_pieces(name, file)) as pieces:
            async for piece in pieces:
                yield piece
        if pad := -file.size_bytes % tarfile.BLOCKSIZE:
            yield bytes(pad)
    yield bytes(2 * tarfile.BLOCKSIZE)


async def _pieces(name: str, file: BundleFile) -> AsyncGenerator[bytes, None]:
    """The file's bytes, exactly so many, of exactly its digest, or an error at the latest behind the last one."""
    told, left = hashlib.sha256(), file.size_bytes
    try:
        with await asyncio.to_thread(file.open) as source:
            while piece := await asyncio.to_thread(source.read, wire.CHUNK_MAX):
                left -= len(piece)
                if left < 0:
                    break
                told.update(piece)
                yield piece
    except OSError as exc:
        raise PrerequisiteError(
            f"bundle file {name!r}: {exc.strerror}", hint="it was there when it was planned"
        ) from exc
    if left or f"sha256:{told.hexdigest()}" != file.digest:
        raise UnsafePlanError(
            f"bundle file {name!r} is not what was approved any more: it changed after the bundle was computed",
            hint="put it back as it was, or ask for a new decision and have its plan approved",
        )
