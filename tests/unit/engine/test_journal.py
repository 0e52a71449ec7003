"""The journal keeps what it promised and refuses what it never wrote."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.engine.journal import FIRST, Journal, JournalFullError, JournalLockedError, digest_line, read
from hyops.errors import RecordError

AT = "2026-03-14T03:00:07.000000Z"


def _filled(path: Path, count: int = 4) -> bytes:
    with Journal(path) as journal:
        for number in range(count):
            journal.append("note", {"n": number}, at=AT, t=float(number))
    return path.read_bytes()


@pytest.mark.req("BP-4")
def test_entries_come_back_in_order_and_chained(tmp_path: Path) -> None:
    """Reopened, a journal has the same entries and head, and goes on from there."""
    data = _filled(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        assert [entry.body["n"] for entry in journal.entries] == [0, 1, 2, 3]
        assert journal.head == digest_line(data.splitlines()[-1])
        journal.append("note", {"n": 4}, at=AT, t=4.0)
    lines = (tmp_path / "j").read_bytes().splitlines()
    prevs = [json.loads(line)["prev"] for line in lines]
    assert prevs == [FIRST, *(digest_line(line) for line in lines[:-1])]


@pytest.mark.req("BP-4")
@pytest.mark.fault(13)
def test_a_torn_last_line_is_cut_wherever_it_tore(tmp_path: Path) -> None:
    """Cut at every byte of the last line, the journal opens with all lines before it and takes new ones."""
    data = _filled(tmp_path / "whole")
    whole_lines = data.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(whole_lines, len(data)):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(data[:cut])
        with Journal(path) as journal:
            assert len(journal.entries) == 3
            journal.append("note", {"n": "new"}, at=AT, t=9.0)
        assert read(path.read_bytes())[0][-1].body == {"n": "new"}


@pytest.mark.req("BP-4")
@pytest.mark.fault(31)
@given(where=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_is_refused_and_its_line_named(
    tmp_path_factory: pytest.TempPathFactory, where: int, bit: int
) -> None:
    """Any flipped bit outside the last line makes the journal unreadable, naming a line."""
    data = bytearray(_filled(tmp_path_factory.mktemp("journal") / "j"))
    end_of_third = [i for i, byte in enumerate(data) if byte == 10][2]
    data[where % end_of_third] ^= 1 << bit
    with pytest.raises(RecordError, match=r"line \d+"):
        read(bytes(data))


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("forge", "line"),
    [
        (lambda lines: lines[:1] + lines[2:], 2),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [lines[0], *lines], 2),
        (lambda lines: [b"{}", *lines], 1),
        (lambda lines: [b"[" * 5000, *lines], 1),
    ],
)
def test_dropped_reordered_or_repeated_lines_are_named(
    tmp_path: Path, forge: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    """The error names the first line that does not follow."""
    lines = _filled(tmp_path / "j").splitlines()
    (tmp_path / "j").write_bytes(b"\n".join(forge(lines)) + b"\n")
    with pytest.raises(RecordError, match=f"line {line}:"):
        Journal(tmp_path / "j")


@pytest.mark.req("BP-4")
def test_there_is_one_writer(tmp_path: Path) -> None:
    """A second writer is refused while the first lives, and let in after it."""
    with Journal(tmp_path / "j"), pytest.raises(JournalLockedError):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


class _Disk:
    """Lets `room` bytes through, then is full; a half-written piece stays, as on a real disk."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, fd: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(fd, data[: self.room])
        self.room -= written
        return written


@pytest.mark.req("EVD-4")
@pytest.mark.fault(32)
def test_a_full_disk_leaves_no_piece_of_a_line(tmp_path: Path) -> None:
    """An append that does not fit is refused, and the journal reads as before it."""
    journal = Journal(tmp_path / "j", write=_Disk(250))
    journal.append("note", {"n": 0}, at=AT, t=0.0)
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(JournalFullError, match="No space left"):
        journal.append("note", {"n": 1}, at=AT, t=1.0)
    assert (tmp_path / "j").read_bytes() == before
    journal.close()


@pytest.mark.req("EVD-4")
@pytest.mark.fault(32)
def test_the_room_of_the_reserve_is_no_room_for_another_effect(tmp_path: Path) -> None:
    """An outcome has used the reserve up: the next intent is refused until the disk can hold a whole one again."""
    full = True

    def write(fd: int, data: bytes) -> int:
        if full and (tmp_path / "j.reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    journal = Journal(tmp_path / "j", write=write)
    journal.append("outcome", {"step": "a"}, at=AT, t=0.0, essential=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))  # a reserve does not fit, a line would
    try:
        with pytest.raises(JournalFullError, match="reserve is used up"):
            journal.append("intent", {"step": "b"}, at=AT, t=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    full = False
    assert journal.append("intent", {"step": "b"}, at=AT, t=2.0).seq == 1
    journal.close()


@pytest.mark.req("EVD-4", "INV-7")
@pytest.mark.fault(32)
def test_the_reserve_lets_an_outcome_through(tmp_path: Path) -> None:
    """An essential record gives the reserve's room back to the disk and is written into it."""
    disk = _Disk(0)

    def write(fd: int, data: bytes) -> int:
        if not (tmp_path / "j.reserve").exists():
            disk.room = 10_000
        return disk(fd, data)

    journal = Journal(tmp_path / "j", write=write)
    assert (tmp_path / "j.reserve").stat().st_size > 0
    journal.append("outcome", {"step": "a"}, at=AT, t=0.0, essential=True)
    journal.close()
    assert read((tmp_path / "j").read_bytes())[0][0].body == {"step": "a"}


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """A journal that is a symbolic link is refused, and its target stays untouched."""
    (tmp_path / "victim").write_text("")
    (tmp_path / "j").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        Journal(tmp_path / "j")
    assert (tmp_path / "victim").read_text() == ""
