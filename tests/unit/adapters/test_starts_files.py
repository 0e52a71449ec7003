"""The executor's epochs on disk only rise: a lost, empty or torn file stops it and says what to write there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyops.adapters.starts_files import FileStarts
from hyops.errors import PrerequisiteError, RecordError
from hyops.ports.starts import Hindrance

ATTEMPT = "attempt-20260314T030000Z-failover-0123abcd"


@pytest.mark.req("INV-3")
def test_epochs_rise_over_restarts(tmp_path: Path) -> None:
    """Each is one more than the last, whoever asks."""
    assert [FileStarts(tmp_path / "starts").next_epoch() for _ in range(3)] == [1, 2, 3]


@pytest.mark.req("INV-3", "LOOP-1")
def test_a_lost_epoch_is_not_begun_anew(tmp_path: Path) -> None:
    """Once something was sent the file must be there: its absence is an error with the way out, not a one."""
    starts = FileStarts(tmp_path)
    assert starts.next_epoch() == 1
    (tmp_path / "epoch").unlink()
    assert starts.next_epoch() == 1  # nothing was ever sent, so nobody has seen an epoch
    starts.note(ATTEMPT)
    (tmp_path / "epoch").unlink()

    with pytest.raises(RecordError, match=f"{tmp_path}/epoch: is gone, but {ATTEMPT} was sent") as refused:
        starts.next_epoch()
    assert "`epoch_seen` of `hyops runner jobs`" in refused.value.hint
    assert not (tmp_path / "epoch").exists()

    (tmp_path / "epoch").write_text("41\n")
    assert starts.next_epoch() == 42


@pytest.mark.req("EXE-1", "RUN-11")
def test_a_start_that_did_not_happen_is_forgotten(tmp_path: Path) -> None:
    """Its mark is gone, others stay; forgetting what was never noted is nothing."""
    starts = FileStarts(tmp_path)
    for attempt in (ATTEMPT, f"{ATTEMPT}-2"):
        starts.note(attempt)
    for _ in range(2):
        starts.forget(ATTEMPT)

    assert [FileStarts(tmp_path).maybe_sent(a) for a in (ATTEMPT, f"{ATTEMPT}-2")] == [False, True]


@pytest.mark.req("INV-3", "LOOP-1")
@pytest.mark.parametrize("text", ["", "\n", "x", "-3", "4 5", "1_0", "\x00\x00", "4.0"])
def test_a_torn_epoch_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """What is no number is not guessed at, and stays as it is."""
    (tmp_path / "epoch").write_text(text)
    with pytest.raises(RecordError, match="epoch: not a number"):
        FileStarts(tmp_path).next_epoch()
    assert (tmp_path / "epoch").read_text() == text


@pytest.mark.req("UX-1", "EXE-1")
def test_why_an_attempt_does_not_go_on_is_kept_for_people(tmp_path: Path) -> None:
    """The last reason, over restarts, until nothing is in its way; what cannot be read is no reason to fail."""
    told = Hindrance("2026-03-14T03:00:00Z", "DiskFullError", "cloud-runner: /srv: disk full", "hyops runner gc")
    FileStarts(tmp_path / "starts").hinder(ATTEMPT, Hindrance("", "RunnerUnreachableError", "no route", ""))
    FileStarts(tmp_path / "starts").hinder(ATTEMPT, told)
    assert FileStarts(tmp_path / "starts").hindrance(ATTEMPT) == told

    path = tmp_path / "starts" / f"{ATTEMPT}.hindered"
    for damage in (b"", b"[]", b"{}", b'{"at":', b"[" * 5000, b"\xff"):
        path.write_bytes(damage)
        assert FileStarts(tmp_path / "starts").hindrance(ATTEMPT) is None

    FileStarts(tmp_path / "starts").hinder(ATTEMPT, None)
    assert [entry.name for entry in (tmp_path / "starts").iterdir()] == []
    FileStarts(tmp_path / "starts").hinder(ATTEMPT, None)
    with pytest.raises(RecordError, match="is not an attempt's id"):
        FileStarts(tmp_path / "starts").hinder("../x", told)


@pytest.mark.req("LOOP-3", "UX-1")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_neither_hangs_nor_dials(tmp_path: Path, kind: str) -> None:
    """In the place of a lock nobody holds it; in the place of the epoch it is refused by name."""
    starts = FileStarts(tmp_path)
    for name in (f"{ATTEMPT}.lock", "epoch"):
        path = tmp_path / name
        {"link": lambda at: at.symlink_to(at.name), "pipe": os.mkfifo, "folder": Path.mkdir}[kind](path)

    assert starts.dials() == []
    with pytest.raises((RecordError, PrerequisiteError), match=r"epoch: not a number|symbolic links|Is a directory"):
        starts.last_epoch()
    assert starts.hindrance(ATTEMPT) is None
