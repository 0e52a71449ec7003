"""`native/second-copy` on a real folder: what is whole opens the gate, and nothing else does (DEC-1a)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import driver_second_copy
from hyops.adapters.driver_second_copy import SecondCopy
from hyops.errors import PrerequisiteError, RecordError
from hyops.ports.driver import Reconciled, StepContext
from hyops.testing.clock import FakeClock
from hyops.testing.runs import plan_of, spec_of, step

DAY_S = 86400.0


class Copy:
    """A copy of a backup of two files, made an hour ago."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.said = folder, FakeClock(), [""]
        (folder / "wal").mkdir()
        (folder / "base.tar").write_bytes(b"base" * 1000)
        (folder / "wal" / "0001 a").write_bytes(b"")
        self.manifest = folder / "MANIFEST.sha256"
        self.listed = {name: self.digest(name) for name in ("base.tar", "wal/0001 a")}
        self.write()

    def digest(self, name: str) -> str:
        """Of a file as it is now."""
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def write(self, text: str | None = None) -> None:
        """The manifest, written an hour ago."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.listed.items())
        self.manifest.write_text(lines if text is None else text)
        self.aged(3600)

    def aged(self, age_s: float) -> None:
        """How old it looks."""
        at = (self.clock.now() - timedelta(seconds=age_s)).timestamp()
        os.utime(self.manifest, (at, at))

    def context(self, **changes: Any) -> StepContext:
        """What the driver is given."""
        inputs = {"copy_name": "second", "folder": str(self.folder), "max_age_s": DAY_S, **changes}
        plan = plan_of([step("copy", module="native/second-copy")])
        deadline = self.clock.monotonic() + 60
        return StepContext(spec_of(plan), "copy", inputs, {}, {}, deadline, self.said.append)

    def applied(self, **changes: Any) -> dict[str, Any]:
        """What the step puts out."""
        result = asyncio.run(SecondCopy(self.clock).apply(self.context(**changes)))
        assert result.changed is False
        return dict(result.outputs["second_copy"])

    def preflight(self) -> list[str]:
        """What it says beforehand."""
        return asyncio.run(SecondCopy(self.clock).preflight(self.context()))


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A good one."""
    return Copy(tmp_path)


@pytest.mark.req("DEC-1a", "GATE-1")
def test_a_whole_copy_opens_the_gate(copy: Copy) -> None:
    """Every file is read; the outputs say how much it was; done again after a crash it says the same."""
    first = copy.applied()
    probed = asyncio.run(SecondCopy(copy.clock).probe(copy.context()))

    assert first == {"name": "second", "files": 2, "bytes": 4000, "manifest_age_s": 3600.0}
    assert copy.preflight() == []
    assert probed == (Reconciled.NOT_DONE, None)


def _link(copy: Copy) -> None:
    (copy.folder / "base.tar").rename(copy.folder / "elsewhere")
    (copy.folder / "base.tar").symlink_to(copy.folder / "elsewhere")


def _fifo(copy: Copy) -> None:
    (copy.folder / "base.tar").unlink()
    os.mkfifo(copy.folder / "base.tar")


def _flipped(copy: Copy) -> None:
    data = bytearray((copy.folder / "base.tar").read_bytes())
    data[1234] ^= 1
    (copy.folder / "base.tar").write_bytes(data)


@pytest.mark.req("DEC-1a", "GATE-1", "INV-5")
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flipped, "base.tar is not what the manifest says"),
        (lambda c: (c.folder / "base.tar").write_bytes(b"base" * 999), "base.tar is not what the manifest says"),
        (lambda c: (c.folder / "wal" / "0001 a").unlink(), "0001 a: No such file"),
        (_link, "base.tar: Too many levels of symbolic links"),
        (_fifo, "base.tar is no file"),
    ],
)
def test_a_damaged_copy_keeps_the_gate_shut(copy: Copy, damage: Callable[[Copy], object], says: str) -> None:
    """One bit, one byte less, a file less, a link or a pipe in a file's place: named."""
    damage(copy)

    with pytest.raises(PrerequisiteError, match=says):
        copy.applied()


@pytest.mark.req("DEC-1a", "GATE-1", "INV-5")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: c.manifest.unlink(), "No such file"),
        (lambda c: c.write(""), "names no file"),
        (lambda c: c.aged(DAY_S + 1), "86400 s is the most"),
        (lambda c: c.aged(-60), "-60 s old"),
        (lambda c: c.write("hello\n"), ":1: no line of sha256sum"),
        (lambda c: c.write(f"{'0' * 64}  ../x\n"), ":1: no line of sha256sum"),
        (lambda c: c.write(f"{'0' * 64}  /etc/passwd\n"), ":1: no line of sha256sum"),
        (lambda c: c.write(f"{'0' * 64}  a\n{'1' * 64}  a\n"), ":2: no line of sha256sum"),
    ],
)
def test_a_manifest_that_proves_nothing_is_told_before_the_run(
    copy: Copy, spoil: Callable[[Copy], object], says: str
) -> None:
    """Missing, empty, too old, from the future, of another format, leading outside: in preflight and in the step."""
    spoil(copy)

    (fault,) = copy.preflight()
    assert says in fault
    with pytest.raises(PrerequisiteError, match="second copy second is not verified"):
        copy.applied()


@pytest.mark.req("DEC-1a")
def test_a_manifest_has_a_largest_size(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it is read than that."""
    monkeypatch.setattr(driver_second_copy, "MANIFEST_BYTES_MAX", 64)

    with pytest.raises(PrerequisiteError, match="more than 64 bytes"):
        copy.applied()


@pytest.mark.req("DEC-1a", "RUN-11")
def test_reading_ends_at_the_deadline(copy: Copy) -> None:
    """A copy that is too large for the step's time is not verified."""
    context = copy.context()
    copy.clock.advance(61)

    with pytest.raises(PrerequisiteError, match="no time to read more than 0 bytes"):
        asyncio.run(SecondCopy(copy.clock).apply(context))


@pytest.mark.req("DEC-1a", "UX-2")
@pytest.mark.parametrize("changes", [{"folder": "rel"}, {"manifest": "../m"}, {"max_age_s": 0.0}, {"copy_name": "a b"}])
def test_inputs_are_strict(copy: Copy, changes: dict[str, Any]) -> None:
    """Refused with the key."""
    with pytest.raises(RecordError, match=next(iter(changes))):
        copy.applied(**changes)
