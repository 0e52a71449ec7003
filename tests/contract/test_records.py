"""The record store contract on memory and on files, and what only files can suffer."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import listing, store_files
from hyops.adapters.store_files import FileRecordStore
from hyops.errors import PrerequisiteError, RecordError
from hyops.ports.records import RecordStore
from hyops.testing.contract_records import ONE, TWO, RecordStoreContract
from hyops.testing.records import MemoryRecordStore
from waiting import PATIENCE_S


class TestMemory(RecordStoreContract):
    """The fake."""

    @pytest.fixture
    def store(self) -> RecordStore:
        """In memory."""
        return MemoryRecordStore()


class TestFiles(RecordStoreContract):
    """The adapter."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> RecordStore:
        """In a folder that does not exist yet."""
        return FileRecordStore(tmp_path / "records")


@pytest.mark.req("UX-1", "LOOP-2")
@pytest.mark.parametrize("slot", [None, "one"])
def test_a_record_that_stands_is_never_said_to_be_removed(tmp_path: Path, slot: str | None) -> None:
    """Other bytes, or a slot that it does not hold: the refusal says to leave it."""
    store = FileRecordStore(tmp_path)
    store.create("a-1", ONE)
    with pytest.raises(RecordError) as refused:
        store.create("a-1", ONE if slot else TWO, slot=slot)

    assert "leave it" in refused.value.hint
    assert store.read("a-1") == ONE


CALLS = ("open", "link", "symlink", "unlink", "fsync", "mkdir", "close", "pwrite", "ftruncate")


def killed_after(calls: int, work: Callable[[], Any]) -> bool:
    """Do `work` in a child that dies, as by kill -9, after so many calls to the kernel; True when it got to the end."""
    child = os.fork()
    if child == 0:
        done = 0

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **more: Any) -> Any:
                nonlocal done
                result = call(*args, **more)
                done += 1
                if done > calls:
                    os._exit(9)
                return result

            return counted

        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.fault(13)
@pytest.mark.req("LOOP-1", "LOOP-2")
def test_a_writer_killed_at_any_call_leaves_all_or_nothing(tmp_path: Path) -> None:
    """Killed after each call in turn: slot and record agree for the next writer, who then gets his own or the first."""
    calls, finished = 0, False
    while not finished:
        folder = tmp_path / str(calls)
        finished = killed_after(calls, lambda f=folder: FileRecordStore(f).create("a-1", ONE, slot="s"))  # type: ignore[misc]
        store = FileRecordStore(folder)
        before = store.ids()

        second = store.create("a-2", TWO, slot="s")

        assert before in ([], ["a-1"])
        assert second.made == (before == [] and store.ids() == ["a-2"])
        assert store.ids() == [second.record_id]
        assert store.slot("s") == second.record_id
        assert store.read(second.record_id) == (TWO if second.made else ONE)
        assert [p.name for p in (folder / ".slots").iterdir()] == ["s"]
        calls += 1

    assert calls > 10


@pytest.mark.req("LOOP-1")
def test_a_reader_completes_what_a_dead_writer_began(tmp_path: Path) -> None:
    """Killed between slot and record: the next scan, without any new record, shows the record."""
    seen: set[tuple[str, ...]] = set()
    for calls in range(40):
        folder = tmp_path / str(calls)
        killed_after(calls, lambda f=folder: FileRecordStore(f).create("a-1", ONE, slot="s"))  # type: ignore[misc]
        slots = (
            sorted(p.name for p in (folder / ".slots").iterdir() if p.name[0] != "~")
            if (folder / ".slots").exists()
            else []
        )
        store = FileRecordStore(folder)
        seen.add((*slots, *store.ids()))

        assert (slots == ["s"]) == (store.ids() == ["a-1"])

    assert seen == {(), ("s", "a-1")}


@pytest.mark.req("INV-5", "LOOP-1")
def test_what_is_no_record_is_named_and_left(tmp_path: Path) -> None:
    """Empty, torn, a link, a folder, a foreign name: none is a record; each is named with its reason."""
    store = FileRecordStore(tmp_path)
    store.create("a-1", ONE)
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "torn.json").write_bytes(b'{"n": 1')
    (tmp_path / "list.json").write_bytes(b"[1]")
    (tmp_path / "link.json").symlink_to(tmp_path / "a-1.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "new\nline.json").write_bytes(ONE)

    assert store.ids() == ["a-1"]
    assert store.faults() == {
        "empty.json": "empty: empty",
        "torn.json": "torn: torn or not JSON",
        "list.json": "list: not a JSON object",
        "link.json": "not a regular file",
        "folder.json": "not a regular file",
        "notes.txt": "not a record's name",
        "new\nline.json": "not a record's name",
    }
    with pytest.raises(RecordError):
        store.read("link")


@pytest.mark.req("LOOP-2")
@pytest.mark.parametrize("name", ["../a", ".a", "a/b", "", "a\nb", "a" * 65, "~"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Ids and slots become file names: nothing else may pass, and nothing is written."""
    store = FileRecordStore(tmp_path / "records")
    with pytest.raises(RecordError):
        store.create(name, ONE)
    if name != "a" * 65:
        with pytest.raises(RecordError):
            store.create("a-1", ONE, slot=name or "/")
    assert store.ids() == []
    assert sorted(tmp_path.iterdir()) == []


@pytest.mark.fault(32)
@pytest.mark.req("EVD-4")
@pytest.mark.parametrize("call", ["fsync", "link", "symlink", "open", "pwrite"])
def test_a_full_disk_is_a_refusal_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Every kind of call fails with ENOSPC in turn: PrerequisiteError, no record, no slot; later it works again."""
    store = FileRecordStore(tmp_path)
    store.create("a-0", ONE)

    def full(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_files.os, call, full)
        with pytest.raises(PrerequisiteError, match="No space left"):
            store.create("a-1", ONE, slot="s")

    assert store.ids() == ["a-0"]
    assert store.slot("s") is None
    assert store.create("a-2", TWO, slot="s").made


@pytest.mark.req("DSP-3")
def test_a_record_removed_by_hand_leaves_no_trace(tmp_path: Path) -> None:
    """Its slot is free again, and the same record can be made once more."""
    store = FileRecordStore(tmp_path)
    store.create("a-1", ONE, slot="s")
    (tmp_path / "a-1.json").unlink()

    assert store.slot("s") is None
    assert store.create("a-3", TWO, slot="s").made
    assert store.slot("s") == "a-3"


@pytest.mark.fault(12)
@pytest.mark.req("LOOP-1")
def test_many_processes_want_one_slot(tmp_path: Path) -> None:
    """Twelve processes create at once: one is told that it made the record, all agree on who holds the slot."""
    children = []
    for number in range(12):
        child = os.fork()
        if child == 0:
            made = FileRecordStore(tmp_path).create(f"a-{number}", b'{"n":%d}\n' % number, slot="s").made
            os._exit(1 if made else 0)
        children.append(child)

    exits = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    assert sorted(exits) == [0] * 11 + [1]
    assert len(FileRecordStore(tmp_path).ids()) == 1
    assert sorted(exits) == [0] * 11 + [1]
    assert len(FileRecordStore(tmp_path).ids()) == 1


@pytest.mark.req("INV-5", "LOOP-1")
def test_a_listing_that_was_kept_misses_nothing(tmp_path: Path) -> None:
    """New, replaced, removed and completed files are seen at once; one that is damaged in place, by `faults`."""
    store = FileRecordStore(tmp_path)
    for name in ("a-1", "a-2", "a-3"):
        store.create(name, ONE)
    old_ns = 1_700_000_000_123_456_789
    os.utime(tmp_path, ns=(old_ns, old_ns))  # the directory has rested: from now on it need not be read
    assert store.ids() == store.ids() == ["a-1", "a-2", "a-3"]

    (tmp_path / "a-2.json").unlink()
    (tmp_path / "torn").write_bytes(b'{"n"')
    (tmp_path / "torn").rename(tmp_path / "a-3.json")
    (tmp_path / "a-4.json").write_bytes(b'{"n"')
    assert store.ids() == ["a-1"]
    (tmp_path / "a-4.json").write_bytes(ONE)
    assert store.ids() == ["a-1", "a-4"]

    (tmp_path / "a-3.json").unlink()
    os.utime(tmp_path, ns=(old_ns, old_ns))
    assert store.ids() == ["a-1", "a-4"]
    (tmp_path / "a-1.json").write_bytes(b'{"n"')
    assert store.faults() == {"a-1.json": "a-1: torn or not JSON"}
    assert store.ids() == ["a-4"]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of any size are watched."""
    monkeypatch.setattr(listing, "WATCHED_FROM", 0)


def test_a_small_folder_takes_no_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few records are found by reading the folder, so that many small stores leave inotify to others."""
    monkeypatch.setattr(listing, "Watch", lambda _directory: pytest.fail("it took a watch"))
    store, mark = looked_twice(tmp_path, 3)
    store.create("b-1", TWO)

    assert store.changed(mark)[1] == ["b-1"]


def looked_twice(folder: Path, count: int) -> tuple[FileRecordStore, int]:
    """A store that knows `count` records and watches their folder, with its mark."""
    store = FileRecordStore(folder)
    for number in range(count):
        store.create(f"a-{number:03}", ONE)
    store.ids()
    (folder / "a-new.json").write_bytes(ONE)
    return store, store.changed(0)[0]


@pytest.mark.usefixtures("watched")
@pytest.mark.req("LOOP-1")
def test_a_look_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among many known records a new one is found without reading the folder or opening any other file."""
    store, mark = looked_twice(tmp_path, 50)
    opened: list[str] = []
    monkeypatch.setattr(listing.os, "scandir", lambda _path: pytest.fail("it read the whole folder"))
    monkeypatch.setattr(store._listing, "_read", lambda name: (opened.append(name), store.read(name))[1])
    store.create("b-1", TWO)
    (tmp_path / "a-007.json").unlink()

    assert sorted(store.changed(mark)[1]) == ["a-007", "b-1"]
    assert opened == ["b-1"]


@pytest.mark.usefixtures("watched")
@pytest.mark.req("LOOP-1")
def test_a_file_changed_in_place_is_told(tmp_path: Path) -> None:
    """Whoever believed the record looks at it again; one that is torn now is gone."""
    store, mark = looked_twice(tmp_path, 3)
    (tmp_path / "a-000.json").write_bytes(b'{"n":100}')
    mark, edited = store.changed(mark)
    (tmp_path / "a-001.json").write_bytes(b'{"n":')

    assert edited == ["a-000"]
    assert store.changed(mark)[1] == ["a-001"]
    assert "a-001" not in store.ids()


@pytest.mark.usefixtures("watched")
@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("loss", ["silent", "overflow", "silent and no time moved"])
def test_what_inotify_missed_is_found_by_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """No event, or too many: the folder's own time gives it away, or else the slow rescan finds it."""
    store, mark = looked_twice(tmp_path, 3)
    before = os.stat(tmp_path)
    monkeypatch.setattr(listing.Watch, "told", lambda _self: None if loss == "overflow" else set())
    (tmp_path / "b-1.json").write_bytes(TWO)
    if loss == "silent and no time moved":
        os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert store.changed(mark)[1] == []
        monkeypatch.setattr(listing, "RESCAN_S", 0.0)

    assert store.changed(mark)[1] == ["b-1"]


@pytest.mark.usefixtures("watched")
@pytest.mark.req("LOOP-1")
def test_without_inotify_everything_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No watch can be had (too many are in use): every change is found by reading the folder."""

    def none_left(_self: listing.Watch, _directory: Path) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(listing.Watch, "__init__", none_left)
    store, mark = looked_twice(tmp_path, 3)
    store.create("b-1", TWO)

    assert store.changed(mark)[1] == ["b-1"]


@pytest.mark.usefixtures("watched")
@pytest.mark.req("LOOP-1")
def test_a_folder_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """Moved away and made again: the old records are told as gone, the new ones as there."""
    folder = tmp_path / "records"
    store, mark = looked_twice(folder, 2)
    folder.rename(tmp_path / "old")
    folder.mkdir()
    (folder / "b-1.json").write_bytes(TWO)

    assert set(store.changed(mark)[1]) == {"a-000", "a-001", "a-new", "b-1"}
    assert store.ids() == ["b-1"]


@pytest.mark.req("LOOP-1", "UX-1")
def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A file stands where a folder of its path should be."""
    (tmp_path / "state").write_text("")
    store = FileRecordStore(tmp_path / "state" / "records")
    for look in (store.ids, store.faults, lambda: store.changed(0)):
        with pytest.raises(PrerequisiteError, match="state/records: "):
            look()


@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("lacks", ["__init__", "add_watch"])
def test_without_an_instance_left_changes_are_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lacks: str
) -> None:
    """They come a little later, said once; from the moment that an instance is free they come by event again."""
    monkeypatch.setattr(store_files, "UNWATCHED_RESCAN_S", 0.01)
    store, seen, refused = FileRecordStore(tmp_path / "records"), list[list[str]](), list[str]()

    def all_in_use(*_: Any) -> None:
        refused.append(lacks)
        raise OSError(errno.EMFILE if lacks == "__init__" else errno.ENOSPC, "all in use")

    async def scenario() -> None:
        changes = store.changes(rescan_s=3600.0)
        with monkeypatch.context() as scarce:
            scarce.setattr(f"hyops.adapters.store_files.Inotify.{lacks}", all_in_use)
            seen.append(await anext(changes))
            following = asyncio.ensure_future(anext(changes))
            while len(refused) < 3:
                await asyncio.sleep(0)
            store.create("a-1", ONE)
            seen.append(await following)
        for name in ("a-2", "a-3"):  # the first is found when the last pause is over, the second by its event
            store.create(name, ONE)
            seen.append(await anext(changes))
            monkeypatch.setattr(store_files, "UNWATCHED_RESCAN_S", 3600.0)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert seen == [[], ["a-1"], ["a-2"], ["a-3"]]
    assert capsys.readouterr().err.count("all in use") == 1


@pytest.mark.req("LOOP-1", "UX-1")
def test_a_folder_that_cannot_be_watched_for_another_reason_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is used up is looked at anyway."""

    def forbidden(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("hyops.adapters.store_files.Inotify.add_watch", forbidden)
    with pytest.raises(PrerequisiteError, match="Permission denied"):
        asyncio.run(anext(FileRecordStore(tmp_path / "records").changes(rescan_s=1.0)))  # type: ignore[arg-type]
