"""The state of an environment on disk: what a kill leaves, two writers, the lock's owner, what a person edited."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from hyops.adapters.owned_lock import owned_lock
from hyops.adapters.states_files import FileStates
from hyops.errors import PrerequisiteError, RecordError, StaleGenerationError, UsageError
from state_kit import REF, Root, state

FORK = get_context("fork")
WRITES = ("half", "written", "named", "durable")
BOUNDARIES = ["locked", *(f"history:{at}" for at in WRITES), *(f"current:{at}" for at in WRITES)]
PLACE = "state/modules/platform__net/instances/site-b.json"
PAST = "state/modules/platform__net/history/instances/site-b"


def in_child(work: Callable[[], None]) -> int | None:
    """Run it in a process of its own; how that ended."""
    child = FORK.Process(target=work)
    child.start()
    child.join(20)
    return child.exitcode


@pytest.mark.req("ROOT-2", "ROOT-3")
def test_the_layout_is_the_published_one(tmp_path: Path) -> None:
    """Modules by id, instances below, 0700 and 0600, every generation kept, and both kinds listed by reference."""
    root = Root(tmp_path / "lab")
    for number in (1, 2, 3):
        root.put(state(number, cidr=f"10.{number}.0.0/16"))
    root.put(state(1, ref="platform/net", cidr="latest"), "platform/net")
    assert json.loads((root.path / PLACE).read_text())["generation"] == 3
    assert sorted(path.name for path in (root.path / PAST).iterdir()) == [f"{n:016d}.json" for n in (1, 2, 3)]
    assert (root.path / "state/modules/platform__net/latest.json").is_file()
    assert root.states.refs() == ["platform/net", REF]
    assert [kept.state.outputs["cidr"] for kept in root.states.history(REF)] == [f"10.{n}.0.0/16" for n in (1, 2, 3)]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in root.path.rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in root.path.rglob("*") if p.is_file()} == {0o600}


@pytest.mark.req("ROOT-3")
@pytest.mark.parametrize("expected", [None, 1, 3])
def test_compare_and_set(tmp_path: Path, expected: int | None) -> None:
    """Who saw another generation than the authority's writes nothing, whatever it was."""
    root = Root(tmp_path / "lab")
    root.put(state(1))
    root.put(state(2, cidr="now"))
    before = root.files()
    fresh = state(3 if expected is None else expected + 1, cidr="stale")
    with root.states.writing("test") as writer, pytest.raises(StaleGenerationError, match="generation 2; seen was"):
        writer.put(REF, fresh, expected=expected)
    with root.states.writing("test") as writer, pytest.raises(StaleGenerationError, match="to be written is 4"):
        writer.put(REF, state(4), expected=2)
    assert root.files() == before


@pytest.mark.req("ROOT-3", "ROOT-5")
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_kill_9_at_each_boundary_loses_nothing(tmp_path: Path, boundary: str) -> None:
    """The state is the old or the new one, whole; the next writer goes on, and no generation is missing or twice."""
    root = Root(tmp_path / "lab")
    root.put(state(1, cidr="old"))

    def dies(name: str) -> None:
        if name == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(lambda: Root(root.path, dies).put(state(2, cidr="new"))) == -signal.SIGKILL
    now = root.now()
    assert now is not None
    named = boundary in BOUNDARIES[BOUNDARIES.index("history:named") :]
    assert (now.generation, now.outputs) == ((2, {"cidr": "new"}) if named else (1, {"cidr": "old"}))
    with root.states.writing("test") as writer:
        assert writer.read(REF) is not None
    assert json.loads((root.path / PLACE).read_text())["generation"] == now.generation  # settled for other readers
    root.put(state(now.generation + 1, cidr="after"))
    assert [kept.state.generation for kept in root.states.history(REF)] == list(range(1, now.generation + 2))


def _counts(path: Path, times: int) -> None:
    for _ in range(times):
        with FileStates(path).writing("count") as writer:
            now = writer.read(REF)
            count = now.state.outputs["count"] if now else 0
            generation = now.state.generation if now else 0
            writer.put(REF, state(generation + 1, count=count + 1), expected=generation if now else None)


@pytest.mark.req("ROOT-5")
def test_two_processes_lose_no_update(tmp_path: Path) -> None:
    """Each reads, adds one and writes, many times at once: the sum is there, and every generation."""
    path, times = tmp_path / "lab", 40
    children = [FORK.Process(target=_counts, args=(path, times)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    history = FileStates(path).history(REF)
    assert [kept.state.outputs["count"] for kept in history] == list(range(1, 2 * times + 1))


@pytest.mark.req("ROOT-5")
def test_who_waits_is_told_who_holds_it(tmp_path: Path) -> None:
    """The message names pid, host and what for; a dead owner's words in the file hold nobody up."""
    root = Root(tmp_path / "lab")
    with root.states.writing("state resolve conflict-1"), pytest.raises(PrerequisiteError) as told:
        root.put(state(1))
    for word in (str(os.getpid()), os.uname().nodename, "state resolve conflict-1"):
        assert word in told.value.message

    def dies(name: str) -> None:
        if name == "locked":
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(lambda: Root(root.path, dies).put(state(1))) == -signal.SIGKILL
    assert json.loads((root.path / "state" / ".lock").read_text())["pid"] != os.getpid()
    root.put(state(1))
    with owned_lock(tmp_path / "other", "x"):
        (tmp_path / "other").write_bytes(b"\xff{")
        with (
            pytest.raises(PrerequisiteError, match="has not said who it is"),
            owned_lock(tmp_path / "other", "y", wait_s=0),
        ):
            pass


@pytest.mark.req("ROOT-3")
def test_what_a_person_wrote_is_kept_or_refused(tmp_path: Path) -> None:
    """A file by hand becomes history; one changed without a new generation is refused, and left as it is."""
    root = Root(tmp_path / "lab")
    place = root.path / PLACE
    place.parent.mkdir(parents=True, mode=0o700)
    (root.path / "state").chmod(0o700)
    place.write_text(json.dumps(state(4, cidr="by hand").body()))
    root.put(state(5, cidr="next"))
    assert [kept.state.outputs["cidr"] for kept in root.states.history(REF)] == ["by hand", "next"]
    place.write_text(json.dumps(state(5, cidr="edited").body()))
    with pytest.raises(RecordError, match="changed by hand"):
        root.put(state(6, cidr="over it"))
    assert "edited" in place.read_text()
    place.write_text(json.dumps(state(6, cidr="edited").body()))
    root.put(state(7, cidr="after"))
    assert [kept.state.outputs["cidr"] for kept in root.states.history(REF)] == ["by hand", "next", "edited", "after"]


@pytest.mark.req("ROOT-2", "ROOT-3")
def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    """References that lead out, links, damage, what is too large, and a folder that others can write."""
    root = Root(tmp_path / "lab")
    for ref in ("../x", "a/../b", "a#b/c", "a\nb", "/etc", "a#..", ""):
        with pytest.raises(UsageError), root.states.writing("test") as writer:
            writer.put(ref, state(1), expected=None)
    root.put(state(1))
    place = root.path / PLACE
    with pytest.raises(RecordError, match="over"):
        root.put(state(2, big="x" * 2_000_000))
    place.write_text(" " * 2_000_000)
    with pytest.raises(RecordError, match="more than"):
        root.now()
    place.write_text("{")
    with pytest.raises(RecordError, match="line 1"):
        root.now()
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError):
        root.now()
    place.parent.rename(tmp_path / "moved")
    place.parent.symlink_to(tmp_path / "moved")
    (tmp_path / "moved" / "site-b.json").unlink()
    with pytest.raises(PrerequisiteError, match="a link"):
        root.put(state(2))
    (root.path / "state").chmod(0o770)
    with pytest.raises(PrerequisiteError, match="others can write"):
        root.put(state(2))


@pytest.mark.req("ROOT-3")
def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """The write fails as a refusal, and the state stays; when there is room again it goes on."""
    root = Root(tmp_path / "lab")
    root.put(state(1, cidr="old"))

    def full(name: str) -> None:
        if name == "history:half":
            raise OSError(28, "No space left on device")

    with pytest.raises(PrerequisiteError, match="No space left"):
        Root(root.path, full).put(state(2, cidr="new"))
    assert (now := root.now()) is not None
    assert now.outputs == {"cidr": "old"}
    root.put(state(2, cidr="new"))
