"""What leaves the runner's cache, and what never does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.runner import cache
from hyops.runner.cache import Cache, Entry, in_use, outdated
from hyops.runner.folders import Folders, lock_alive, write_file
from staging_kit import FILES, RUN, archive, ask, config, folders_of, held, hexed, left, offer, ship

NOW = 1_000_000.0
ENTRIES = st.lists(
    st.builds(Entry, st.integers(0, 30).map(str), st.integers(0, 50), st.floats(NOW - 200, NOW)),
    unique_by=lambda entry: entry.digest,
)


@pytest.mark.req("RUN-1")
@given(ENTRIES, st.sets(st.integers(0, 30).map(str)), st.integers(0, 200), st.floats(0, 200))
def test_what_is_in_use_stays_and_the_rest_fits(
    entries: list[Entry], used: set[str], bytes_max: int, keep_s: float
) -> None:
    """Always: nothing in use goes; what stays unused is young, and is over the size only by what is in use."""
    gone = list(outdated(entries, used, now=NOW, bytes_max=bytes_max, keep_s=keep_s))
    stays = [entry for entry in entries if entry not in gone]
    assert not {entry.digest for entry in gone} & used
    unused = [entry for entry in stays if entry.digest not in used]
    assert all(NOW - entry.used_at <= keep_s for entry in unused)
    assert not unused or sum(entry.size_bytes for entry in stays) <= bytes_max
    for entry in gone:  # nothing goes for size that is younger than what stays
        if NOW - entry.used_at <= keep_s:
            assert all(other.used_at >= entry.used_at for other in unused)


def _run(folders: Folders, run_id: str, data: bytes, outcome: str | None) -> None:
    folder = folders.run(run_id)
    folder.mkdir(mode=0o700)
    spec = {"service": "pg", "epoch": 1, "plan": {"bundle": {"a": canonical.digest_bytes(data)}}}
    write_file(folder / "spec.json", json.dumps(spec).encode())
    if outcome is not None:
        write_file(folder / "result.json", json.dumps({"outcome": outcome}).encode())


@pytest.mark.req("RUN-1", "RUN-5")
@pytest.mark.parametrize(
    ("outcome", "stays"),
    [(None, True), ("failed", True), ("unknown", True), ("refused", True), ("", True), ("succeeded", False)],
)
def test_files_of_a_run_that_may_go_on_stay(tmp_path: Path, outcome: str | None, stays: bool) -> None:
    """Open, interrupted, or ended so that it may be opened again: its files stay; of one that succeeded they may go."""
    folders = folders_of(config(tmp_path))
    data = FILES["play.yml"]
    (folders.cas / hexed(data)).write_bytes(data)
    _run(folders, "run-a", data, outcome)
    Cache(folders).evict(now=time.time(), bytes_max=0, keep_s=0)
    assert held(folders) == ({hexed(data)} if stays else set())


@pytest.mark.req("RUN-1", "RUN-5")
@pytest.mark.fault(18)
def test_nothing_goes_beside_a_folder_that_is_closed_off(tmp_path: Path) -> None:
    """An interrupted run's folder was opened to others: its files are kept until it can be read, and so are all."""
    folders = folders_of(config(tmp_path))
    data = FILES["play.yml"]
    for entry in (data, b"of nobody"):
        (folders.cas / hexed(entry)).write_bytes(entry)
    _run(folders, "run-a", data, None)
    folders.run("run-a").chmod(0o755)
    assert Cache(folders).evict(now=time.time(), bytes_max=0, keep_s=0) == []
    assert held(folders) == {hexed(data), hexed(b"of nobody")}
    (folders.runs / "run-a").chmod(0o700)
    Cache(folders).evict(now=time.time(), bytes_max=0, keep_s=0)
    assert held(folders) == {hexed(data)}


def test_a_finished_run_whose_job_lives_is_open_again(tmp_path: Path) -> None:
    """It succeeded once and was asked to go on: until it has ended anew, its files are in use."""
    folders = folders_of(config(tmp_path))
    _run(folders, "run-a", b"x", "succeeded")
    (folders.run("run-a") / "reopen.json").touch()
    fd = lock_alive(folders.run("run-a"))
    assert fd is not None
    assert in_use(folders, now=time.time()) == {canonical.digest_bytes(b"x")}
    os.close(fd)


@pytest.mark.req("RUN-1")
def test_what_was_offered_is_kept_until_its_start(tmp_path: Path) -> None:
    """Between offer and start nothing of it goes, however full the cache; an hour later it may."""
    made = config(tmp_path, cache_bytes_max=0, cache_keep_s=0)
    folders = folders_of(made)
    ask(made, offer(FILES), ship(archive(FILES)))
    assert len(held(folders)) == 3
    gc = wire.encode({"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": False})
    assert ask(made, gc)[0]["cache"]["gone_files"] == 0
    os.utime(folders.staging / f"{RUN}.offer", (1, 1))
    (told,) = ask(made, wire.encode({"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": True}))
    assert (told["cache"]["gone_files"], len(held(folders)), len(left(folders))) == (3, 3, 1)
    (told,) = ask(made, gc)
    assert told["cache"] == {"files": 3, "size_bytes": 5013, "gone_files": 3, "gone_bytes": 5013}
    assert (held(folders), left(folders)) == (set(), [])


@pytest.mark.req("RUN-1")
def test_a_full_cache_makes_room_for_what_comes(tmp_path: Path) -> None:
    """Over its size the longest unused goes first; what an offer asked for a moment ago counts as used."""
    made = config(tmp_path, cache_bytes_max=250)
    folders = folders_of(made)
    blobs = [bytes([n]) * 100 for n in range(3)]
    for number, data in enumerate(blobs[:2]):
        ask(made, offer({"f": data}, f"run-{number}"), ship(archive({"f": data}), f"run-{number}"))
        os.utime(folders.cas / hexed(data), (time.time() - 1000 + number,) * 2)
        cache.drop_offer(folders, f"run-{number}")
    ask(made, offer({"f": blobs[0]}, "run-0"))
    cache.drop_offer(folders, "run-0")
    ask(made, offer({"f": blobs[2]}, "run-2"), ship(archive({"f": blobs[2]}), "run-2"))
    assert held(folders) == {hexed(blobs[0]), hexed(blobs[2])}


@pytest.mark.fault(17)
def test_entries_go_when_the_disk_needs_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an offer would be refused for room, what nobody uses goes first; what is in use never does."""
    made = config(tmp_path)
    folders = folders_of(made)
    for run_id, data in (("run-0", b"unused"), ("run-1", b"in use")):
        ask(made, offer({"f": data}, run_id), ship(archive({"f": data}), run_id))
    cache.drop_offer(folders, "run-0")
    monkeypatch.setattr("hyops.runner.staging.fits", lambda *_: hexed(b"unused") not in held(folders))
    assert ask(made, offer({"f": b"new"}, "run-2"))[0]["missing"] == [canonical.digest_bytes(b"new")]
    assert held(folders) == {hexed(b"in use")}


def test_what_is_no_entry_of_ours_goes_too(tmp_path: Path) -> None:
    """A planted link, folder or stray file in the cache is used by nobody: it goes by age, its target does not."""
    folders = folders_of(config(tmp_path))
    victim = tmp_path / "victim"
    victim.write_bytes(b"x")
    (folders.cas / ("0" * 64)).symlink_to(victim)
    (folders.cas / ".stray.partial").write_bytes(b"y")
    (folders.cas / "folder").mkdir()
    Cache(folders).evict(now=time.time() + 10, bytes_max=10**9, keep_s=5)
    assert (held(folders), victim.read_bytes()) == (set(), b"x")


def test_a_fresh_entry_is_not_removed_for_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one connection finds an entry damaged, another has replaced it: the good one stays."""
    folders = folders_of(config(tmp_path))
    path, real = folders.cas / hexed(b"good"), cache._digest
    path.write_bytes(b"evil")

    def replaced(fd: int) -> str:
        told = real(fd)
        (folders.staging / "fresh").write_bytes(b"good")
        Cache(folders).adopt(folders.staging / "fresh", canonical.digest_bytes(b"good"))
        return told

    monkeypatch.setattr(cache, "_digest", replaced)
    assert not Cache(folders).verified(canonical.digest_bytes(b"good"), 4, now=time.time())
    assert path.read_bytes() == b"good"
