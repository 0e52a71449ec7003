"""What root makes in a stage's folder is the stage's: an operator's command must not keep the stage itself out."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.evidence.assemble import Story, assemble
from hyops.ownership import make_folder, open_lock
from hyops.testing import evidence as seeds

STAGE, GROUP = 7114, 7100
ATTEMPT = "attempt-20260314T030000Z-failover-0123abcd"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A stage's folder."""
    made = tmp_path / "home"
    made.mkdir(mode=0o750)
    os.chown(made, STAGE, GROUP)
    return made


def records(home: Path) -> None:
    """A record with a slot."""
    FileRecordStore(home / "state" / "attempts").create("one", b'{"a": 1}\n', slot="first")


def starts(home: Path) -> None:
    """A dial, an epoch, and the mark of a start."""
    made = FileStarts(home / "state" / "starts")
    with made.dialling(ATTEMPT) as mine:
        assert mine
    made.next_epoch()
    made.note(ATTEMPT)


def evidence(home: Path) -> None:
    """A bundle, with a file beside its chain."""
    switch = seeds.failover()
    story = Story(**{name: getattr(switch, name) for name in Story.__dataclass_fields__ if hasattr(switch, name)})
    assemble(story, directory=home / "evidence", signer=seeds.STAGES["execution"], now=seeds.START + timedelta(hours=1))


@pytest.mark.req("LOOP-1", "LOOP-2", "EXE-1")
@pytest.mark.parametrize("writes", [records, starts, evidence], ids=lambda writes: writes.__name__)
def test_what_root_writes_for_a_stage_is_the_stages(home: Path, writes: Callable[[Path], None]) -> None:
    """Folders, locks, records, counters and bundles: everything that the stage must open for writing later."""
    writes(home)

    made = [path for path in home.rglob("*") if not path.is_symlink()]
    strange = [path for path in made if (path.stat().st_uid, path.stat().st_gid) != (STAGE, GROUP)]
    assert len(made) >= 3
    assert strange == []


@pytest.mark.req("LOOP-1")
def test_what_was_there_before_keeps_its_owner(home: Path) -> None:
    """A lock or a folder that somebody else made is opened, and not given away."""
    (home / ".lock").touch(mode=0o600)
    (home / "there").mkdir()

    os.close(open_lock(home / ".lock", 0o600))
    make_folder(home / "there", 0o700)

    assert [(home / name).stat().st_uid for name in (".lock", "there")] == [0, 0]


@pytest.mark.req("LOOP-1")
def test_a_link_in_the_place_of_a_lock_is_refused(home: Path, tmp_path: Path) -> None:
    """What it points to is neither opened nor given to the stage."""
    kept = tmp_path / "kept"
    kept.touch()
    (home / ".lock").symlink_to(kept)

    with pytest.raises(OSError, match="symbolic links"):
        open_lock(home / ".lock", 0o600)
    assert kept.stat().st_uid == 0
