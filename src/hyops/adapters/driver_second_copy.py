"""`native/second-copy`: a gate that opens only when a second copy of the backup is there, whole and young (DEC-1a).

The copy is a folder that the runner sees (a mount, a synced folder of another site) with a manifest in the format of
`sha256sum` beside it, which whoever copies writes last. Every file of it is read and its digest compared: a listing, or
the word of whoever made the copy, proves nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hyops.errors import PrerequisiteError
from hyops.model.base import Name, Part
from hyops.ports.clock import Clock
from hyops.ports.driver import Reconciled, StepContext, StepResult

LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$")
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
BLOCK = 1024 * 1024


class SecondCopyInputs(Part):
    """Where the copy is, and how old its manifest may be."""

    copy_name: Name
    folder: Annotated[str, Field(pattern=r"^/", max_length=512)]
    manifest: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = "MANIFEST.sha256"
    max_age_s: Annotated[float, Field(gt=0, le=366 * 86400)]


class SecondCopy:
    """Changes nothing, so after a crash it is simply done again."""

    inputs: type[Part] = SecondCopyInputs

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def preflight(self, context: StepContext) -> list[str]:
        """The manifest is there and young; reading all the copy is left to the step."""
        try:
            self._listed(_inputs(context))
        except PrerequisiteError as exc:
            return [exc.message]
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Read every file of the copy; the outputs stand under `second_copy`."""
        inputs = _inputs(context)
        listed, age_s = self._listed(inputs)

        def late() -> bool:
            return self._clock.monotonic() >= context.deadline

        size = await asyncio.to_thread(_verified, Path(inputs.folder), listed, inputs.copy_name, late)
        context.log(f"copy {inputs.copy_name}: {len(listed)} files, {size} bytes, all as the manifest says")
        told = {"name": inputs.copy_name, "files": len(listed), "bytes": size, "manifest_age_s": round(age_s, 3)}
        return StepResult(outputs={"second_copy": told}, changed=False)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Reading again is harmless."""
        return Reconciled.NOT_DONE, None

    def _listed(self, inputs: SecondCopyInputs) -> tuple[dict[str, str], float]:
        """File -> digest, and the manifest's age in seconds."""
        path = Path(inputs.folder) / inputs.manifest
        try:
            with path.open("rb") as source:
                data, seen = source.read(MANIFEST_BYTES_MAX + 1), os.fstat(source.fileno())
        except OSError as exc:
            raise _not(inputs.copy_name, f"{path}: {exc.strerror}") from exc
        age_s = self._clock.now().timestamp() - seen.st_mtime
        if not 0 <= age_s <= inputs.max_age_s:
            raise _not(inputs.copy_name, f"{path} is {age_s:.0f} s old, and {inputs.max_age_s:.0f} s is the most")
        if len(data) > MANIFEST_BYTES_MAX:
            raise _not(inputs.copy_name, f"{path} has more than {MANIFEST_BYTES_MAX} bytes")
        listed: dict[str, str] = {}
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            found = LINE.match(line)
            if found is None or found.group(2) in listed or _outside(found.group(2)):
                raise _not(inputs.copy_name, f"{path}:{number}: no line of sha256sum, repeated, or outside")
            listed[found.group(2)] = found.group(1)
        if not listed:
            raise _not(inputs.copy_name, f"{path} names no file")
        return listed, age_s


def _verified(folder: Path, listed: dict[str, str], name: str, late: Callable[[], bool]) -> int:
    """How many bytes the files have, once each has the digest that is listed."""
    total = 0
    for file, wanted in sorted(listed.items()):
        path, digest = folder / file, hashlib.sha256()
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
                if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                    raise _not(name, f"{path} is no file")
                while block := source.read(BLOCK):
                    if late():
                        raise _not(name, f"there was no time to read more than {total} bytes")
                    digest.update(block)
                    total += len(block)
        except OSError as exc:
            raise _not(name, f"{path}: {exc.strerror}") from exc
        if digest.hexdigest() != wanted:
            raise _not(name, f"{path} is not what the manifest says")
    return total


def _outside(file: str) -> bool:
    parts = Path(file).parts
    return not parts or Path(file).is_absolute() or ".." in parts


def _inputs(context: StepContext) -> SecondCopyInputs:
    return SecondCopyInputs.of(dict(context.inputs), source=f"step {context.step_id}")


def _not(name: str, why: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"second copy {name} is not verified: {why}",
        hint="copy the backup again and write its manifest last; the switch goes on when the copy verifies",
    )
