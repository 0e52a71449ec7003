"""Moving a loop's records between two places: files on disk, and a place in memory that can fail or stop anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyops.adapters.moving_files import FilePlace
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.adapters.store_moved import serving
from hyops.errors import NotVerifiedError, PrerequisiteError, RecordError
from hyops.ports.moves import Held, Kind
from hyops.ports.starts import Remembered
from hyops.services.moving import move
from hyops.testing.contract_records import ONE, TWO

REQUESTS, INPUTS = ("dispatch", "requests"), ("decision", "inputs")


class KilledError(BaseException):
    """The process is gone at this point."""


class MemoryPlace:
    """A place whose steps are counted; at the given one the process dies, before or after its effect."""

    name = "memory"

    def __init__(self) -> None:
        self.sign: str | None = None
        self.kept: dict[Kind, Held] = {}
        self.who: list[str] = []
        self.dies: Callable[[str], None] = lambda _: None
        self.loses: str | None = None
        self.knows, self.forgets = Remembered(0, frozenset()), False

    def closed(self) -> str | None:
        """What `close` said."""
        return self.sign

    def close(self, words: str) -> None:
        """From now on."""
        self.dies("close")
        self.sign = words
        self.dies("closed")

    def open(self) -> None:
        """Taken away."""
        self.dies("open")
        self.sign = None
        self.dies("opened")

    def serving(self) -> list[str]:
        """As the test says."""
        return self.who

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """There are no writers here."""
        yield

    def kinds(self) -> list[Kind]:
        """Those that were written."""
        return sorted(self.kept)

    def held(self, kind: Kind) -> Held:
        """All of one."""
        return self.kept.get(kind, Held({}, {}, {}))

    def add(self, kind: Kind, record_id: str, data: bytes, slot: str | None) -> bool:
        """Once; or it is lost on the way."""
        self.dies("add")
        held = self.kept.setdefault(kind, Held({}, {}, {}))
        if record_id == self.loses:
            return True
        if held.records.get(record_id, data) != data:
            raise RecordError("other bytes")
        held.records[record_id] = data
        if slot is not None:
            held.slots[slot] = record_id
        self.dies("added")
        return True

    def remembered(self) -> Remembered:
        """All that was."""
        return self.knows

    def remember(self, known: Remembered) -> None:
        """Once more than before; or it is lost on the way."""
        self.dies("remember")
        if not self.forgets:
            self.knows = Remembered(max(known.epoch, self.knows.epoch), known.sent | self.knows.sent)
        self.dies("remembered")


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, str]:
    """Four homes with some records; a torn one beside them."""
    found = {stage: str(tmp_path / stage) for stage in ("decision", "dispatch", "approval", "execution")}
    requests = FileRecordStore(Path(found["dispatch"]) / "state" / "requests")
    for number in range(3):
        requests.create(f"request-{number}", b'{"n":%d}\n' % number, slot=f"slot-{number}")
    (Path(found["dispatch"]) / "state" / "requests" / "torn.json").write_bytes(b'{"n":')
    FileRecordStore(Path(found["decision"]) / "state" / "inputs").create("inputs-1", TWO)
    (Path(found["execution"]) / "state" / "starts").mkdir(parents=True)
    return found


def store(homes: dict[str, str]) -> FileRecordStore:
    """As a stage has it."""
    return FileRecordStore(Path(homes["dispatch"]) / "state" / "requests")


@pytest.mark.req("LOOP-3")
def test_everything_is_moved_and_the_old_side_is_closed(homes: dict[str, str]) -> None:
    """Records and slots, byte for byte; what is no record stays and is named; writers of before are refused."""
    files, memory, writer = FilePlace(homes), MemoryPlace(), store(homes)
    moved = move(files, memory)

    assert memory.kept[REQUESTS].records == {f"request-{n}": b'{"n":%d}\n' % n for n in range(3)}
    assert memory.kept[REQUESTS].slots == {f"slot-{n}": f"request-{n}" for n in range(3)}
    assert memory.kept[INPUTS].records == {"inputs-1": TWO}
    assert moved.kinds == {INPUTS: (1, 0, 1), REQUESTS: (3, 3, 3)}
    assert list(moved.left[REQUESTS]) == ["torn.json"]
    assert (memory.sign, files.closed()) == (None, "the records of this loop are in memory")
    with pytest.raises(PrerequisiteError, match="in memory") as refused:
        writer.create("late", ONE)
    assert "hyops control migrate" in refused.value.hint
    assert writer.ids() == ["request-0", "request-1", "request-2"]
    assert move(files, memory).already


@pytest.mark.req("LOOP-3")
def test_and_back_again(homes: dict[str, str]) -> None:
    """With what came meanwhile; files are open again, and the other side is closed."""
    files, memory = FilePlace(homes), MemoryPlace()
    move(files, memory)
    memory.add(REQUESTS, "request-9", ONE, "slot-9")
    move(memory, files)

    assert (files.closed(), memory.sign) == (None, "the records of this loop are in files")
    assert store(homes).slot("slot-9") == "request-9"
    assert not store(homes).create("request-9", ONE, slot="slot-9").made


@pytest.mark.req("LOOP-3", "INV-7")
@pytest.mark.fault(13)
def test_killed_anywhere_the_same_command_finishes(homes: dict[str, str]) -> None:
    """At every step, there and back: never are both sides open, and the end is the same."""
    for at in range(20):
        files, memory, steps = FilePlace(homes), MemoryPlace(), 0

        def dies(_: str, at: int = at) -> None:
            nonlocal steps
            steps += 1
            if steps == at + 1:
                raise KilledError

        memory.dies = dies
        for source, target in ((files, memory), (memory, files)):
            try:
                move(source, target)
            except KilledError:
                used = [p for p in (files, memory) if p.closed() is None and p.kinds()]
                assert [len(p.held(REQUESTS).records) for p in used] in ([3], [])
                moved = move(source, target)
                assert moved.kinds[REQUESTS][:2] == (3, 3)
            assert (source.closed() is None, target.closed() is None) == (False, True)
            assert target.held(REQUESTS).records == source.held(REQUESTS).records
            assert target.held(REQUESTS).slots == source.held(REQUESTS).slots
    assert steps < at  # the last rounds were not killed at all


@pytest.mark.req("LOOP-3", "UX-1")
def test_while_a_stage_runs_nothing_is_moved(homes: dict[str, str]) -> None:
    """On either side; seen by the lock that it holds, not by a flag. A stage that begins meanwhile is refused."""
    files, memory = FilePlace(homes), MemoryPlace()
    state = Path(homes["approval"]) / "state"
    with serving(state), serving(state), pytest.raises(PrerequisiteError, match="approval") as running:
        move(files, memory)
    assert "stop the services" in running.value.hint
    memory.who = ["decision/host-1"]
    with pytest.raises(PrerequisiteError, match="decision/host-1"):
        move(files, memory)
    assert (files.closed(), memory.sign, memory.kept) == (None, None, {})
    with files.quiet(), pytest.raises(PrerequisiteError, match="being moved"), serving(state):
        pass


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_writer_at_work_is_not_overtaken(homes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of an operator holds a kind's lock: the move is refused, and everything is as it was."""
    import fcntl

    monkeypatch.setattr("hyops.adapters.moving_files.LOCK_WAIT_S", 0.0)
    files, memory = FilePlace(homes), MemoryPlace()
    with (Path(homes["dispatch"]) / "state" / "requests" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PrerequisiteError, match="another writer"):
            move(files, memory)
    assert (files.closed(), memory.sign, memory.kept) == (None, None, {})


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_target_in_use_is_refused(homes: dict[str, str]) -> None:
    """The wrong direction, or two loops under one name: nothing is touched."""
    files, memory = FilePlace(homes), MemoryPlace()
    with pytest.raises(PrerequisiteError, match="has 4 records already"):
        move(memory, files)
    memory.add(REQUESTS, "foreign", ONE, None)
    with pytest.raises(PrerequisiteError, match="has 1 records already"):
        move(files, memory)
    assert (files.closed(), memory.sign) == (None, None)


@pytest.mark.req("LOOP-3")
@pytest.mark.parametrize("what", ["a record is lost", "a record too many"])
def test_what_is_not_alike_is_not_opened(homes: dict[str, str], what: str) -> None:
    """The comparison at the end names it; the old side stays in use and the new one closed."""
    files, memory = FilePlace(homes), MemoryPlace()
    memory.sign = "interrupted"
    if what == "a record is lost":
        memory.loses = "request-1"
    else:
        memory.add(REQUESTS, "foreign", ONE, None)
    with pytest.raises(NotVerifiedError, match="request-1" if memory.loses else "foreign"):
        move(files, memory)
    assert (files.closed(), memory.sign) == (None, "interrupted")


@pytest.mark.req("LOOP-3", "INV-3", "EXE-1")
def test_what_executors_remember_moves_too_or_nothing_is_opened(homes: dict[str, str]) -> None:
    """Epoch and marks are there before the target opens; a place that does not keep them stays closed."""
    starts = FileStarts(Path(homes["execution"]) / "state" / "starts")
    for _ in range(3):
        starts.next_epoch()
    starts.note("attempt-1")
    place, source = MemoryPlace(), FilePlace(homes)
    place.forgets = True
    with pytest.raises(NotVerifiedError, match="epoch 0 of 3, 1 marks are missing"):
        move(source, place)
    assert (place.closed() is not None, source.closed()) == (True, None)
    place.forgets = False
    move(source, place)
    assert (place.remembered(), place.closed()) == (Remembered(3, frozenset({"attempt-1"})), None)
