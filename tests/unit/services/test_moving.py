"""Moving a loop's records between two places: files on disk, and a place in memory that can fail or stop anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyops.adapters.moving_files import FilePlace
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.adapters.store_moved import serving
from hyops.errors import Effect, NotVerifiedError, PrerequisiteError, RecordError
from hyops.ports.moves import Held, Kind
from hyops.ports.starts import Remembered
from hyops.services.moving import ASIDE_MAX, move
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
        self.aside: dict[str, bytes] = {}

    def closed(self) -> str | None:
        """What `close` said."""
        return self.sign

    def signs(self) -> set[str | None]:
        """The one."""
        return {self.sign}

    def where(self, kind: Kind, record_id: str) -> str:
        """Its name."""
        return f"memory/{record_id}"

    def set_aside(self, kind: Kind, records: Sequence[str], slots: Sequence[str]) -> dict[str, str]:
        """One after the other."""
        held = self.kept[kind]
        for slot in slots:
            self.dies("aside-slot")
            self.aside[slot] = held.slots.pop(slot).encode()
        for name in records:
            self.dies("aside")
            self.aside[name] = held.records.pop(name)
        return {name: f"aside/{name}" for name in (*(f"slot {slot}" for slot in slots), *records)}

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
    error = NotVerifiedError if memory.loses else PrerequisiteError
    with pytest.raises(error, match="request-1" if memory.loses else "memory/foreign is not as in files") as told:
        move(files, memory)
    assert told.value.effect is (Effect.PARTIAL if memory.loses else Effect.NONE)
    assert (files.closed(), memory.sign) == (None, "interrupted")
    assert memory.aside == {}


def removed(memory: MemoryPlace, number: int) -> None:
    """Somebody took a record and its slot away by hand."""
    del memory.kept[REQUESTS].records[f"request-{number}"], memory.kept[REQUESTS].slots[f"slot-{number}"]


@pytest.mark.req("LOOP-3", "LOOP-2")
def test_what_was_removed_meanwhile_stands_in_no_ones_way_back(homes: dict[str, str]) -> None:
    """Removed, or made anew with other bytes or another slot: the old copy is moved aside, whole, and named; the stages
    find what the source had."""
    files, memory = FilePlace(homes), MemoryPlace()
    move(files, memory)
    for number in (0, 1):
        removed(memory, number)
    memory.add(REQUESTS, "request-1", TWO, "slot-7")
    memory.add(REQUESTS, "request-9", ONE, "slot-0")
    torn = Path(homes["dispatch"]) / "state" / "requests" / "request-8.json"
    torn.write_bytes(b'{"n')
    memory.add(REQUESTS, "request-8", ONE, None)
    del memory.kept[REQUESTS].slots["slot-2"]

    moved = move(memory, files)

    state = Path(homes["dispatch"]) / "state"
    aside = state / ".aside" / "requests"
    names = ("request-0", "request-1", "request-8")
    slots = {f"slot slot-{n}": str(aside / ".slots" / f"slot-{n}") for n in range(3)}
    assert moved.aside == {REQUESTS: slots | {name: str(aside / f"{name}.json") for name in names}}
    assert (aside / "request-0.json").read_bytes() == b'{"n":0}\n'
    assert sorted(p.name for p in (aside / ".slots").iterdir()) == ["slot-0", "slot-1", "slot-2"]
    assert files.held(REQUESTS).records == memory.kept[REQUESTS].records
    assert files.held(REQUESTS).slots == {"slot-7": "request-1", "slot-0": "request-9"}
    assert store(homes).slot("slot-0") == "request-9"
    assert (files.closed(), memory.sign) == (None, "the records of this loop are in files")
    assert files.kinds() == [INPUTS, REQUESTS]


@pytest.mark.req("LOOP-3")
def test_what_is_aside_is_never_written_over(homes: dict[str, str]) -> None:
    """There and back twice, each time another record under one id was removed: both are kept. The other way as well."""
    files, memory = FilePlace(homes), MemoryPlace()
    for data in (ONE, TWO):
        files.add(REQUESTS, "synthetic", data, "check")
        move(files, memory)
        del memory.kept[REQUESTS].records["synthetic"], memory.kept[REQUESTS].slots["check"]
        move(memory, files)
    aside = Path(homes["dispatch"]) / "state" / ".aside" / "requests"
    assert [(aside / name).read_bytes() for name in ("synthetic.json", "synthetic.json~1")] == [ONE, TWO]
    (Path(homes["dispatch"]) / "state" / "requests" / "request-1.json").unlink()

    assert move(files, memory).aside == {REQUESTS: {n: f"aside/{n}" for n in ("slot slot-1", "request-1")}}
    assert memory.aside == {"slot-1": b"request-1", "request-1": b'{"n":1}\n'}


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_source_that_lost_its_records_empties_no_copy(homes: dict[str, str]) -> None:
    """Nothing there, or many less: refused, and nothing was touched, unless a person says how many were removed."""
    files, memory = FilePlace(homes), MemoryPlace()
    for number in range(ASIDE_MAX + 1):
        files.add(REQUESTS, f"old-{number:02}", ONE, None)
    move(files, memory)
    whole = dict(memory.kept[REQUESTS].records)
    for name in [name for name in whole if name.startswith("old")]:
        del memory.kept[REQUESTS].records[name]

    with pytest.raises(PrerequisiteError, match=r"memory has 17 records less, and files has .*/old-00\.json") as less:
        move(memory, files)
    assert "--aside-max 17" in less.value.hint
    memory.kept.clear()
    with pytest.raises(PrerequisiteError, match="memory has no record at all"):
        move(memory, files)
    assert (len(files.held(REQUESTS).records), files.closed(), memory.sign) == (
        len(whole),
        "the records of this loop are in memory",
        None,
    )
    moved = move(memory, files, aside_max=len(whole) + 1)
    assert {*moved.aside[REQUESTS]} >= {*whole}
    assert [*moved.aside[INPUTS]] == ["inputs-1"]
    assert files.closed() is None


@pytest.mark.req("LOOP-3")
def test_a_good_copy_of_what_is_damaged_at_the_source_is_left(homes: dict[str, str]) -> None:
    """It may be the only one: a person looks first."""
    files, memory = FilePlace(homes), MemoryPlace()
    move(files, memory)
    move(memory, files)
    (Path(homes["dispatch"]) / "state" / "requests" / "request-1.json").write_bytes(b'{"n')

    with pytest.raises(PrerequisiteError, match=r"requests/request-1\.json is damaged; nothing was touched"):
        move(files, memory)
    assert memory.kept[REQUESTS].records["request-1"] == b'{"n":1}\n'


@pytest.mark.req("LOOP-3")
def test_one_home_without_a_sign_makes_no_copy(homes: dict[str, str]) -> None:
    """A stage may have begun there: what only it has is nobody's to move aside."""
    files, memory = FilePlace(homes), MemoryPlace()
    move(files, memory)
    removed(memory, 0)
    (Path(homes["dispatch"]) / "state" / ".moved").unlink()

    with pytest.raises(PrerequisiteError, match="does not say that it is a copy of memory; nothing was touched") as why:
        move(memory, files)
    assert why.value.effect is Effect.NONE
    assert store(homes).ids() == ["request-0", "request-1", "request-2"]


@pytest.mark.req("LOOP-3", "INV-7")
@pytest.mark.fault(13)
def test_killed_while_it_moves_aside_the_same_command_finishes(homes: dict[str, str]) -> None:
    """Between any two of what it takes out and puts in."""
    for at in range(20):
        files, memory, steps = FilePlace(homes), MemoryPlace(), 0
        move(files, memory)
        move(memory, files)
        for number in (0, 1):
            (Path(homes["dispatch"]) / "state" / "requests" / f"request-{number}.json").unlink()
        files.add(REQUESTS, "request-1", TWO, "slot-1")

        def dies(_: str, at: int = at) -> None:
            nonlocal steps
            steps += 1
            if steps == at + 1:
                raise KilledError

        memory.dies = dies
        try:
            move(files, memory)
        except KilledError:
            move(files, memory)
        assert {"request-0", "slot-0"} <= memory.aside.keys()
        assert memory.kept[REQUESTS].records == files.held(REQUESTS).records
        assert memory.kept[REQUESTS].slots == {"slot-1": "request-1", "slot-2": "request-2"}
        memory.dies = lambda _: None
        move(memory, files)
        files.add(REQUESTS, "request-0", b'{"n":0}\n', "slot-0")
        (Path(homes["dispatch"]) / "state" / "requests" / "request-1.json").unlink()
        files.add(REQUESTS, "request-1", b'{"n":1}\n', "slot-1")
    assert steps < at


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
