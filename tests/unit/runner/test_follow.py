"""A run is followed where the host has no inotify instance or watch left: late, but whole, and to its end (RUN-5)."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.runner import follow as following
from hyops.runner.folders import Folders, is_alive, lock_alive
from hyops.runner.follow import Watch, follow, wait_until

Event = tuple[str, int, dict[str, Any]]
RUN = "run-20260131T120000Z-00000001"
CHILD_LIMIT_S = 60.0
NONE_LEFT = "echo 0 > /proc/sys/user/max_inotify_instances"


def run_folder(top: Path) -> Folders:
    """A runner's folders with one run."""
    folders = Folders(top / "root", top / "secrets")
    folders.make()
    folders.run(RUN).mkdir(mode=0o700)
    return folders


def job(folder: Path, act: Callable[[], None]) -> int:
    """The process of a job, alive from now on; it acts when its line is closed and ends."""
    alive, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lock_alive(folder)
            os.write(told, b"x")
            act()
        finally:
            os._exit(0)  # whatever happened: it must never go on as a second pytest
    os.read(alive, 1)
    os.close(alive)
    os.close(told)
    return child


def heard_of_a_run(folders: Folders) -> list[Event]:
    """What one who follows hears of a job that writes after the first line was heard, and then ends."""
    folder, heard = folders.run(RUN), list[Event]()
    go, ready = os.pipe()

    def act() -> None:
        (folder / "log").write_text("first\n")
        os.read(go, 1)
        with (folder / "log").open("a") as log:
            log.write("second\n")
        (folder / "journal.jsonl").write_text('{"kind":"end","body":{}}\n')

    (folder / "log").touch()
    child = job(folder, act)

    def emit(stream: str, offset: int, body: dict[str, Any]) -> None:
        heard.append((stream, offset, body))
        if body.get("line") == "first":
            os.write(ready, b"x")

    follow(folders, RUN, 0, emit, stop_fd=None, start_wait_s=30.0)
    os.waitpid(child, 0)
    return heard


def lines(heard: list[Event]) -> list[str]:
    """The lines of the log."""
    return [body["line"] for stream, _, body in heard if stream == "log"]


def in_use(number: int) -> Callable[[Path], int]:
    """The kernel's answer where nothing is left, or something else is wrong."""

    def refused(_: Path) -> int:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.req("RUN-5")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOSPC])
def test_without_events_every_line_and_the_end_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One line says why lines come late; none is lost or heard twice."""
    monkeypatch.setattr(following, "_inotify", in_use(number))

    heard = heard_of_a_run(run_folder(tmp_path))

    assert lines(heard) == [f"hyops: inotify on this runner: {os.strerror(number)}: new lines show late",
                            "first", "second"]  # fmt: skip
    assert [stream for stream, _, _ in heard if stream != "log"] == ["journal", "end"]
    assert heard[-1][2] == {"state": "interrupted"}


@pytest.mark.req("RUN-5")
def test_with_events_nothing_is_said_of_them(tmp_path: Path) -> None:
    """The warning is for the host that needs it."""
    assert lines(heard_of_a_run(run_folder(tmp_path))) == ["first", "second"]


@pytest.mark.req("RUN-5", "UX-1")
def test_another_fault_of_the_folder_is_still_a_fault(tmp_path: Path) -> None:
    """A folder that is not there is looked at by nobody."""
    with pytest.raises(OSError, match="No such file") as refused:
        Watch(tmp_path / "gone")
    assert refused.value.errno == errno.ENOENT


@pytest.mark.req("RUN-5", "RUN-11")
@pytest.mark.parametrize("fails", ["the lock is a link", "the lock cannot be asked"])
def test_a_watch_that_cannot_begin_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A connection may ask for such a run again and again: nothing stays open of it."""
    if fails == "the lock is a link":
        (tmp_path / "alive").symlink_to("/dev/null")
    else:
        (tmp_path / "alive").write_text(str(os.getpid()))
        monkeypatch.setattr("hyops.runner.folders.is_alive", in_use(errno.EIO))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"symbolic links|Input/output"):
        Watch(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.req("RUN-5")
def test_without_events_who_stops_is_heard_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's wish ends the wait, whatever the rescan is."""
    monkeypatch.setattr(following, "_inotify", in_use(errno.EMFILE))
    monkeypatch.setattr(following, "UNWATCHED_RESCAN_S", 3600.0)
    go, ready = os.pipe()
    with Watch(tmp_path, go) as watch:
        os.write(ready, b"x")
        assert watch.wait(3600.0)
    os.close(go)
    os.close(ready)


@pytest.mark.req("RUN-5")
def test_without_events_the_wait_for_a_file_finds_it_or_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for is found by the next look; what never comes ends with the limit."""
    monkeypatch.setattr(following, "_inotify", in_use(errno.EMFILE))
    looks = iter([False, False, True])

    assert wait_until(tmp_path, lambda: next(looks), 600.0)
    assert not wait_until(tmp_path, lambda: False, 0.01)


def _exhausted() -> bool:
    """Whether this user may have a user namespace of its own, without inotify."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-Ur", "sh", "-c", NONE_LEFT], capture_output=True, check=False).returncode == 0


@pytest.mark.req("RUN-5", "LOOP-1")
@pytest.mark.skipif(not _exhausted(), reason="no user namespace in which inotify can be used up")
def test_in_a_namespace_without_inotify_runs_and_records_are_followed(tmp_path: Path) -> None:
    """The kernel itself refuses, and both sides of a dispatch go on: the follower of a run, and the watched store."""
    script = "import pathlib, test_follow; test_follow.show(pathlib.Path(__import__('sys').argv[1]))"
    argv = ["unshare", "-Ur", "sh", "-c", f'{NONE_LEFT} && exec "$@"', "sh", sys.executable, "-c", script]
    done = subprocess.run(
        [*argv, str(tmp_path)], cwd=Path(__file__).parent, capture_output=True, check=False, timeout=CHILD_LIMIT_S
    )

    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert said["lines"][1:] == ["first", "second"]
    assert "Too many open files" in said["lines"][0]
    assert said["records"] == [[], ["a-1"], ["a-2"]]
    assert done.stderr.decode().count("inotify") == 1


def show(top: Path) -> None:
    """In the namespace: follow a run and a store, and print what was heard."""
    import asyncio

    from hyops.adapters.store_files import FileRecordStore

    store = FileRecordStore(top / "records")

    async def watch() -> list[list[str]]:
        changes, seen = store.changes(rescan_s=3600.0), []
        for name in (None, "a-1", "a-2"):
            if name is not None:
                store.create(name, b"{}")
            seen.append(await anext(changes))
        return seen

    print(json.dumps({"lines": lines(heard_of_a_run(run_folder(top))), "records": asyncio.run(watch())}))


@pytest.mark.req("RUN-5", "RUN-11")
def test_a_look_at_the_job_is_no_event(tmp_path: Path) -> None:
    """Whoever follows a run asks again and again whether its job lives; were that an event, he would wake himself."""
    held = lock_alive(tmp_path)
    assert held is not None
    with Watch(tmp_path) as watch:
        assert is_alive(tmp_path)
        assert select.select([watch._fd], [], [], 0)[0] == []
    os.close(held)
