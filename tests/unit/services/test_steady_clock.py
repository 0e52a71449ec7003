"""A wall clock that steps ahead: what has passed for certain, whatever it says (LOOP-1)."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from hyops.adapters.clock_kept import KeptFile
from hyops.control.holding import FUTURE_MAX_S
from hyops.errors import PrerequisiteError, RecordError
from hyops.runner.kernel_clock import synced
from hyops.services.pulse import Pulse
from hyops.services.steady_clock import ALONE_S, KEPT_S, RETRY_S, STEP_MAX_S, Known, Reading, SteadyClock, looked
from hyops.testing.clock import FakeClock

HOURS_S = 3 * 3600.0
ODD = b'{"boot_id": "boot-1", "offset_s": -1e300, "wall_s": -1e300}\n'


class Host:
    """One host: its clock, whether a time service keeps it, and the file in which its stage remembers."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.kept, self.pulse = FakeClock(), False, Pulse()
        self.boot, self.file = 1, folder / "state" / "clock.json"

    def began(self) -> SteadyClock:
        """A process of it, begun now."""
        memory = KeptFile(self.file, Known)
        return SteadyClock(self.clock, memory, boot_id=f"boot-{self.boot}", synced=lambda: self.kept, pulse=self.pulse)

    def rebooted(self, off_s: float) -> None:
        """It was off for so long, and its clock goes on as it should."""
        self.boot += 1
        was = self.clock.now()
        self.clock = FakeClock(was + timedelta(seconds=off_s))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """One that nobody has used yet."""
    (tmp_path / "state").mkdir()
    return Host(tmp_path)


def doubt_s(host: Host, clock: SteadyClock) -> float:
    """By how much later it may be than it is for certain."""
    return (host.clock.now() - clock.surely()).total_seconds()


@pytest.mark.req("LOOP-1")
@pytest.mark.fault(4)
def test_a_step_ahead_is_not_believed_and_time_goes_on_without_it(host: Host) -> None:
    """Three hours in one second: certain is the second. It is told, once it is undone no more."""
    clock = host.began()
    host.clock.advance(10)
    host.clock.jump_wall(HOURS_S)
    assert doubt_s(host, clock) == HOURS_S
    assert "stepped 10800 s ahead" in str(host.pulse.doubt)
    host.clock.advance(30)
    assert (doubt_s(host, clock), clock.now()) == (HOURS_S, host.clock.now())

    host.clock.jump_wall(-HOURS_S)
    assert (doubt_s(host, clock), host.pulse.doubt) == (0.0, None)


@pytest.mark.req("LOOP-1")
def test_what_ntp_may_do_is_no_step(host: Host) -> None:
    """A leap second, and little more than that: believed, and not added up to a step."""
    clock = host.began()
    for _ in range(10):
        host.clock.advance(60)
        host.clock.jump_wall(STEP_MAX_S / 2)

        assert doubt_s(host, clock) == 0.0


@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("kept", [True, False])
def test_a_step_that_stands_is_believed(host: Host, kept: bool) -> None:
    """Soon where the kernel says that a time service keeps the clock, later where there is none."""
    clock, stands_s = host.began(), KEPT_S if kept else ALONE_S
    host.clock.jump_wall(HOURS_S)
    host.kept = kept
    assert doubt_s(host, clock) == HOURS_S
    host.clock.advance(stands_s - 1)
    assert doubt_s(host, clock) == HOURS_S
    host.clock.advance(1)

    assert (doubt_s(host, clock), host.pulse.doubt) == (0.0, None)


@pytest.mark.req("LOOP-1")
def test_a_step_on_top_of_a_step_begins_anew(host: Host) -> None:
    """A clock that is moved again and again is confirmed by no time that passes meanwhile."""
    clock = host.began()
    for _ in range(3):
        host.clock.jump_wall(HOURS_S)
        doubt_s(host, clock)
        host.clock.advance(ALONE_S - 1)

        assert doubt_s(host, clock) > 0


@pytest.mark.req("LOOP-1")
def test_a_step_back_is_believed_at_once(host: Host) -> None:
    """As ever; and the way ahead again is a step."""
    clock = host.began()
    host.clock.jump_wall(-HOURS_S)
    assert (doubt_s(host, clock), host.pulse.doubt) == (0.0, None)
    host.clock.jump_wall(HOURS_S)

    assert doubt_s(host, clock) == HOURS_S


@pytest.mark.req("LOOP-1")
@pytest.mark.fault(4, 13)
def test_a_restart_is_no_way_round(host: Host) -> None:
    """It steps before, or while the stage is down; begun anew as often as one likes, it is in the same doubt, and no
    restart makes it longer."""
    clock = host.began()
    host.clock.jump_wall(HOURS_S)
    doubt_s(host, clock)
    for _ in range(3):
        host.clock.advance(ALONE_S / 4)
        assert doubt_s(host, host.began()) == HOURS_S
    host.clock.advance(ALONE_S / 4)
    assert doubt_s(host, host.began()) == 0.0

    host.clock.jump_wall(HOURS_S)
    assert doubt_s(host, host.began()) == HOURS_S


@pytest.mark.req("LOOP-1")
def test_a_boot_with_a_clock_that_is_ahead_ends_nothing(host: Host) -> None:
    """Off for hours, or wrong by them: only what had passed before is certain, until a time service keeps the clock or
    it has stood. That is nothing to see to."""
    host.began()
    last = host.clock.now()
    host.rebooted(HOURS_S)
    clock = host.began()
    assert last <= clock.surely() < last + timedelta(hours=1)
    assert (host.pulse.doubt, host.pulse.doubted_s > 0) == (None, True)
    host.clock.advance(ALONE_S)
    assert (doubt_s(host, clock), host.pulse.doubted_s) == (0.0, 0.0)

    host.rebooted(HOURS_S)
    host.kept = True
    assert doubt_s(host, host.began()) == 0.0


@pytest.mark.parametrize("damage", [None, b"", b'{"boot_id": "boot-1"', b'{"boot_id": "boot-1"}\n', b"\x00" * 64, ODD])
def test_who_knows_nothing_believes_the_clock(host: Host, damage: bytes | None) -> None:
    """A new host, and one whose file is damaged: there is nothing to doubt it by, and from now on there is."""
    if damage is not None:
        host.file.write_bytes(damage)
    assert doubt_s(host, host.began()) == 0.0
    host.clock.jump_wall(HOURS_S)

    assert doubt_s(host, host.began()) == HOURS_S


@pytest.mark.req("LOOP-1")
def test_a_full_disk_forgets_and_stops_nothing(host: Host) -> None:
    """What cannot be kept is known to the process, and kept when there is room again."""

    class Full(KeptFile[Known]):
        full = True

        def save(self, state: Known) -> None:
            if self.full:
                raise PrerequisiteError("no space left on device")
            super().save(state)

    memory = Full(host.file, Known)
    clock = SteadyClock(host.clock, memory, boot_id="boot-1", synced=lambda: host.kept, pulse=host.pulse)
    host.clock.jump_wall(HOURS_S)
    assert (doubt_s(host, clock), host.file.exists()) == (HOURS_S, False)
    memory.full = False
    host.clock.advance(RETRY_S)
    assert doubt_s(host, clock) == HOURS_S

    assert doubt_s(host, host.began()) == HOURS_S


def test_a_look_at_a_clock_that_goes_on_writes_nothing(host: Host) -> None:
    """Every four minutes is enough, for the next boot."""
    clock = host.began()
    before = host.file.stat().st_ino
    for _ in range(230):
        host.clock.advance(1)
        clock.surely()
    assert host.file.stat().st_ino == before
    host.clock.advance(10)
    clock.surely()

    assert host.file.stat().st_ino != before


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """And one that cannot be written."""
    folder = tmp_path / "clock.json"
    folder.mkdir()
    with pytest.raises(RecordError, match=r"clock\.json: Is a directory"):
        KeptFile(folder, Known).load()
    with pytest.raises(PrerequisiteError, match=r"clock\.json: "):
        KeptFile(folder, Known).save(Known(boot_id="b", offset_s=0.0, wall_s=0.0))

    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("seed", range(50))
def test_what_is_certain_never_runs_ahead_of_a_clock_that_stood(seed: int) -> None:
    """Whatever happens, it is no later than now, and a step ahead never moves it before it has stood for a minute."""
    rng = random.Random(seed)
    wall_s, mono_s = 1.7e9, 1000.0
    known = looked(None, Reading("b", wall_s, mono_s), lambda: None)
    for _ in range(100):
        passes_s = rng.choice([0.0, 1.0, 59.0, 61.0, 1000.0])
        jumps_s = rng.choice([0.0, 0.0, 0.0, 29.0, -1e4, 1e4, 1e6])
        wall_s, mono_s = wall_s + passes_s + jumps_s, mono_s + passes_s
        kept = rng.random() < 0.5
        before, known = known, looked(known, Reading("b", wall_s, mono_s), lambda kept=kept: kept)

        assert known.offset_s + mono_s <= wall_s + 1e-3
        if known.offset_s - before.offset_s > STEP_MAX_S:
            assert before.since_s is not None
            assert mono_s - before.since_s >= KEPT_S


def test_the_kernel_can_be_asked() -> None:
    """On this host too, whatever it says."""
    assert synced() in (True, False, None)


@pytest.mark.req("LOOP-1")
@pytest.mark.fault(19)
def test_a_disk_that_takes_nothing_is_not_asked_at_each_look() -> None:
    """A stage looks some thousand times a second: it tries to keep what it knows now and then, until it can."""
    memory, clock = Full(), FakeClock()
    stage = SteadyClock(clock, memory, boot_id="boot-1", synced=lambda: None, pulse=Pulse())
    for _ in range(1000):
        stage.surely()
    assert memory.tried == 1
    clock.advance(RETRY_S)
    memory.full = False
    stage.surely()

    assert memory.known is not None


@pytest.mark.req("LOOP-1")
def test_the_kernel_is_not_asked_at_each_look() -> None:
    """While a step is in doubt, once a second."""
    asked: list[None] = []
    clock = FakeClock()
    stage = SteadyClock(clock, Full(), boot_id="boot-1", synced=lambda: bool(asked.append(None)), pulse=Pulse())
    clock.jump_wall(HOURS_S)
    stage.surely()
    clock.advance(KEPT_S)
    for _ in range(1000):
        stage.surely()

    assert len(asked) == 1


@pytest.mark.req("LOOP-1")
@pytest.mark.fault(4)
def test_a_doubt_that_begins_in_the_future_ends_all_the_same(host: Host) -> None:
    """A file that was edited, or a machine that was taken back to an older state: nothing waits for ever."""
    clock = host.began()
    host.clock.jump_wall(HOURS_S)
    clock.surely()
    memory = KeptFile(host.file, Known)
    known = memory.load()
    assert known is not None
    memory.save(known.model_copy(update={"since_s": 1e12}))

    begun = host.began()
    host.clock.advance(ALONE_S)
    assert doubt_s(host, begun) == 0.0


@pytest.mark.req("LOOP-1", "UX-2")
@pytest.mark.parametrize("made", ["fifo", "link", "large"])
def test_what_another_stage_put_there_holds_up_no_command(host: Host, made: str) -> None:
    """`hyops control status` runs as root, and reads what each stage's user has in its folder."""
    if made == "fifo":
        os.mkfifo(host.file)
    elif made == "link":
        host.file.symlink_to("/dev/zero")
    else:
        host.file.write_bytes(b" " * 100_000)

    with pytest.raises(RecordError, match=r"clock\.json"):
        KeptFile(host.file, Known).load()


class Full:
    """A disk that takes nothing."""

    def __init__(self) -> None:
        self.full, self.tried = True, 0
        self.known: Known | None = None

    def load(self) -> Known | None:
        """Nothing."""
        return None

    def save(self, state: Known) -> None:
        """PrerequisiteError while it is full."""
        self.tried += 1
        if self.full:
            raise PrerequisiteError("no space left on device")
        self.known = state


@pytest.mark.req("LOOP-1", "DEC-6")
def test_what_was_said_before_a_reboot_is_not_of_the_future_after_it(host: Host) -> None:
    """Without a time service nobody knows how long the host was off; but the end of a hold that was read before that is
    believed at once, and the service is not held anew for a quarter of an hour."""
    clock = host.began()
    for _ in range(59):
        host.clock.advance(60)
        clock.surely()
    said = host.clock.now()
    host.rebooted(120)

    assert said - host.began().surely() <= timedelta(seconds=FUTURE_MAX_S)
