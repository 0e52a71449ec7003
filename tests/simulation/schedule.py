"""A schedule: a seeded story with accidents, played on an arena, healed, let come to rest; and how to shrink one."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hyops.control.mode import mode_of
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.observed import Mode
from simulation.arena import Arena
from simulation.events import EVENTS, Event, apply, say
from simulation.hosts import HOSTS
from simulation.invariants import ViolationError, insist
from simulation.quick import forget, quick
from simulation.virtual import StuckError

REST_S = 45
QUIET_ROUNDS = 4
STORIES: dict[str, list[Event]] = {
    "site lost, somebody stood for it": [
        ("stand", "ada", 30), ("watch", 0.4), ("site-dies", "onprem"), ("watch", 1.2), ("watch", 0.4), ("pump",),
        ("pump",), ("watch", 1.2), ("pump",), ("watch", 2.0), ("pump",), ("site-returns", True), ("watch", 1.2),
    ],
    "site lost, people asked": [
        ("watch", 0.4), ("site-dies", "onprem"), ("watch", 1.2), ("watch", 0.4), ("pump",), ("approve", "ada"),
        ("approve", "bob"), ("pump",), ("watch", 0.4), ("pump",), ("watch", 2.0), ("pump",), ("watch", 0.4),
    ],
    "cut off": [
        ("stand", "bob", 30), ("watch", 0.4), ("cut", "onprem", "cloud"), ("cut", "onprem", "control"), ("watch", 2.0),
        ("pump",), ("pump",), ("watch", 2.0), ("pump",), ("mend",), ("watch", 1.2), ("pump",),
    ],
    "planned": [
        ("watch", 0.4), ("ask", "ada", "planned"), ("turn", 0, "dispatch"), ("approve", "ada"), ("approve", "bob"),
        ("pump",), ("watch", 0.4), ("pump",), ("watch", 0.4), ("pump",), ("watch", 0.4),
    ],
    "primary frozen": [
        ("stand", "ada", 30), ("watch", 0.4), ("host-freezes", "onprem-db"), ("watch", 1.2), ("watch", 0.4), ("pump",),
        ("pump",), ("watch", 2.0), ("pump",), ("host-thaws", "onprem-db"), ("watch", 1.2), ("pump",),
    ],
    "agent gone": [
        ("stand", "ada", 30), ("watch", 0.4), ("agent-dies", "onprem-db"), ("watch", 2.0), ("watch", 1.2), ("pump",),
        ("pump",), ("watch", 1.2), ("agent-returns", "onprem-db"), ("pump",), ("watch", 1.2),
    ],
    "everybody lies": [
        ("stand", "ada", 30), ("watch", 0.4), ("all-lie-dead",), ("watch", 1.2), ("watch", 1.2), ("pump",),
        ("wal-stalled",), ("watch", 1.2), ("pump",), ("pump",), ("watch", 2.0), ("pump",), ("watch", 1.2),
    ],
    "there and back": [
        ("ask", "carl", "planned"), ("turn", 0, "dispatch"), ("approve", "ada"), ("approve", "bob"), ("pump",),
        ("watch", 0.4), ("pump",), ("watch", 2.0), ("pump",), ("watch", 0.4), ("ask", "carl", "planned"),
        ("turn", 0, "dispatch"), ("approve", "ada"), ("approve", "bob"), ("pump",), ("watch", 0.4), ("pump",),
        ("watch", 0.4), ("pump",),
    ],
    "quorum lost": [
        ("stand", "ada", 30), ("watch", 0.4), ("quorum", True), ("watch", 2.0), ("watch", 1.2), ("pump",), ("pump",),
        ("watch", 1.2), ("quorum", False), ("watch", 2.0), ("pump",), ("watch", 1.2), ("pump",),
    ],
    "unguarded": [
        ("watch", 0.4), ("edge-fails", "onprem-db", True), ("edge-flushed", "onprem-db"),
        ("agent-freezes", "onprem-db"),
        ("cut", "onprem", "cloud"), ("cut", "onprem", "control"), ("watch", 1.2), ("watch", 0.4), ("pump",),
        ("say", "glass", "break-glass"), ("pump",), ("watch", 2.0), ("pump",), ("watch", 2.0), ("pump",), ("mend",),
        ("edge-fails", "onprem-db", False), ("watch", 0.4), ("pump",),
    ],
    "unguarded, and nobody breaks the glass": [
        ("stand", "ada", 30), ("watch", 0.4), ("edge-fails", "onprem-db", True), ("edge-flushed", "onprem-db"),
        ("agent-freezes", "onprem-db"), ("cut", "onprem", "cloud"), ("cut", "onprem", "control"), ("watch", 1.2),
        ("watch", 0.4), ("pump",), ("pump",), ("watch", 2.0), ("pump",), ("watch", 2.0), ("pump",), ("mend",),
        ("edge-fails", "onprem-db", False), ("watch", 0.4), ("pump",),
    ],
    "agent frozen and cut off": [
        ("stand", "ada", 30), ("watch", 0.4), ("cut", "onprem", "cloud"), ("cut", "onprem", "control"),
        ("agent-freezes", "onprem-db"), ("watch", 1.2), ("watch", 0.4), ("pump",), ("pump",), ("watch", 2.0), ("pump",),
        ("watch", 1.2), ("mend",), ("host-thaws", "onprem-db"), ("watch", 1.2), ("pump",),
    ],
    "fence lies": [
        ("stand", "ada", 30), ("watch", 0.4), ("wal-stalled",), ("all-lie-dead",), ("fence-lies", "onprem-db"),
        ("watch", 1.2), ("watch", 0.4), ("pump",), ("pump",), ("watch", 2.0), ("pump",), ("watch", 1.2), ("pump",),
    ],
    "one eye left": [
        ("stand", "ada", 30), ("watch", 0.4), ("wal-stalled",), ("watch", 0.8), ("error", "witness"),
        ("silent", "cloud-runner"), ("lie-dead", "control"), ("watch", 2.0), ("watch", 2.0), ("pump",), ("pump",),
        ("watch", 1.2), ("pump",), ("seen-well",), ("watch", 0.4),
    ],
    "target behind": [
        ("stand", "ada", 30), ("watch", 0.4), ("lag", 5e6), ("watch", 0.8), ("site-dies", "onprem"), ("watch", 1.2),
        ("watch", 0.8), ("pump",), ("approve", "ada"), ("pump",), ("lag", 0.0), ("watch", 1.2), ("pump",),
    ],
    "a start on its way": [
        ("stand", "ada", 30), ("watch", 0.4), ("link-cut", "cloud-runner", "start-in-flight", 1),
        ("site-dies", "onprem"), ("watch", 1.2), ("watch", 0.4), ("turn", 0, "dispatch"), ("turn", 0, "approval"),
        ("turn", 0, "execution"), ("idle", 3.0), ("idle", 130.0), ("turn", 0, "execution"), ("idle", 3.0), ("arrive",),
        ("idle", 3.0), ("pump",), ("idle", 3.0),
    ],
    "a start cut off": [
        ("stand", "ada", 30), ("watch", 0.4), ("link-cut", "cloud-runner", "start", 1), ("site-dies", "onprem"),
        ("watch", 1.2), ("watch", 0.4), ("turn", 0, "dispatch"), ("turn", 0, "approval"), ("turn", 0, "execution"),
        ("idle", 0.1), ("host-key", "cloud-runner", True), ("restart", 0, "execution"), ("turn", 0, "execution"),
        ("idle", 1.0), ("turn", 0, "execution"), ("idle", 1.0), ("host-key", "cloud-runner", False), ("watch", 1.2),
    ],
    "changed after its approval": [
        ("watch", 0.4), ("site-dies", "onprem"), ("watch", 1.2), ("watch", 0.4), ("turn", 0, "dispatch"),
        ("approve", "ada"), ("approve", "bob"), ("turn", 0, "approval"), ("edited-plan",), ("turn", 0, "execution"),
        ("pump",), ("watch", 1.2), ("pump",), ("watch", 0.4),
    ],
    "nobody knows how it ended": [
        ("stand", "ada", 30), ("watch", 0.4), ("forge", "cloud-runner", "unsigned"), ("site-dies", "onprem"),
        ("watch", 1.2), ("watch", 0.4), ("ask", "carl", "unplanned"), ("pump",), ("approve", "ada"), ("pump",),
        ("watch", 2.0), ("pump",), ("watch", 0.8), ("pump",), ("site-returns", True), ("watch", 1.2), ("pump",),
    ],
    "two answers to one outage": [
        ("ask", "carl", "planned"), ("stand", "ada", 30), ("turn", 0, "dispatch"), ("approve", "ada"),
        ("approve", "bob"), ("turn", 0, "approval"), ("site-dies", "onprem"), ("watch", 1.2), ("watch", 0.4),
        ("turn", 0, "dispatch"), ("turn", 0, "approval"), ("turn", 0, "execution"), ("idle", 0.1), ("pump",),
        ("watch", 2.0), ("idle", 3.0), ("pump",), ("watch", 1.2), ("pump",), ("pump",),
    ],
    "answers of all kinds": [
        ("watch", 0.4), ("site-dies", "onprem"), ("watch", 1.2), ("watch", 0.4), ("turn", 0, "dispatch"),
        ("approve-foreign", "request_digest"), ("pump",), ("approve-expired", "ada"), ("pump",),
        ("approve-old", "bob"), ("pump",), ("approve-future", "ada"), ("pump",), ("say", "eve", "grant"), ("pump",),
        ("approve-foreign", "plan_digest"), ("pump",), ("stand", "ada", 9000), ("pump",), ("say", "bob", "reject"),
        ("approve", "ada"), ("pump",), ("watch", 2.0), ("pump",),
    ],
    "taken back": [
        ("ask", "ada", "planned"), ("turn", 0, "dispatch"), ("approve", "ada"), ("pump",), ("approve", "bob"),
        ("say", "bob", "withdraw"), ("pump",), ("watch", 1.2), ("pump",), ("idle", 130.0), ("approve", "bob"),
        ("pump",), ("watch", 1.2), ("pump",),
    ],
    "slow": [
        ("watch", 0.4), ("ask", "carl", "planned"), ("freeze", 0, "execution"), ("turn", 0, "dispatch"),
        ("approve", "ada"), ("approve", "bob"), ("turn", 0, "approval"), ("idle", 130.0), ("thaw",), ("pump",),
        ("watch", 1.2), ("ask", "carl", "planned"), ("freeze", 0, "dispatch"), ("idle", 130.0), ("thaw",), ("pump",),
        ("watch", 0.4),
    ],
    "rows on their way": [
        ("watch", 0.4), ("ask", "carl", "planned"), ("turn", 0, "dispatch"), ("approve", "ada"), ("approve", "bob"),
        ("turn", 0, "approval"), ("idle", 0.08), ("turn", 0, "execution"), ("idle", 0.015), ("wal-stalled",),
        ("watch", 2.0), ("pump",), ("watch", 2.0), ("seen-well",), ("watch", 0.4), ("pump",),
    ],
    "one of two": [
        ("ask", "carl", "planned"), ("turn", 0, "dispatch"), ("approve", "ada"), ("pump",), ("watch", 0.8), ("pump",),
        ("say", "glass", "grant"), ("approve", "ada"), ("pump",), ("approve", "bob"), ("pump",), ("watch", 1.2),
        ("pump",), ("watch", 0.4),
    ],
    "one sees it": [
        ("stand", "ada", 30), ("watch", 0.4), ("wal-stalled",), ("lie-dead", "control"), ("watch", 2.0), ("pump",),
        ("unwell", "witness"), ("lie-dead", "witness"), ("watch", 2.0), ("pump",), ("watch", 0.4),
    ],
}  # fmt: skip
NAMES = sorted(EVENTS)


@dataclass(frozen=True)
class Schedule:
    """What happens, in order; `seed` decides what is left to chance while it does."""

    seed: int
    instances: int
    required: int
    events: tuple[Event, ...]
    story: str = ""

    def as_json(self) -> str:
        """As `HYOPS_SCHEDULE` takes it."""
        return json.dumps([self.seed, self.instances, self.required, self.events])

    @classmethod
    def of_json(cls, text: str) -> Schedule:
        """The same again."""
        seed, instances, required, events = json.loads(text)
        return cls(seed, instances, required, tuple(tuple(e) for e in events), "given")


@dataclass
class Played:
    """What came of a schedule. `fault`: what did not hold, or None."""

    schedule: Schedule
    fault: str | None = None
    met: Counter[str] = field(default_factory=Counter)
    steps: int = 0


def drawn(seed: int) -> Schedule:
    """The schedule of a seed: a story, with accidents put in and parts left out."""
    rng = random.Random(seed)
    story = rng.choice(sorted(STORIES))
    events = [e for e in STORIES[story] if rng.random() > 0.04]
    for _ in range(rng.choice((0, 1, 2, 3, 4, 6, 9))):
        name = rng.choice(NAMES)
        events.insert(rng.randint(0, len(events)), (name, *EVENTS[name][1](rng)))
    instances = rng.choice((1, 1, 1, 2))
    required = 2 if story == "one of two" else 1
    return Schedule(seed, instances, required, tuple(events), story)


def play(schedule: Schedule, *, rest: bool = True) -> Played:
    """Play it; never raises for what does not hold."""
    with quick(), contextlib.redirect_stderr(NOWHERE):
        try:
            return _played(schedule, rest=rest)
        finally:
            forget()


class _Nowhere(io.TextIOBase):
    """Where the stages log to."""

    def write(self, text: str) -> int:
        """Nothing is kept."""
        return len(text)


NOWHERE = _Nowhere()


def _played(schedule: Schedule, *, rest: bool) -> Played:
    played = Played(schedule)
    arena = Arena(schedule.seed, instances=schedule.instances, required=schedule.required)
    try:
        for happens in schedule.events:
            played.steps += 1
            apply(arena, happens)
        if rest:
            heal(arena)
            come_to_rest(arena)
    except (ViolationError, StuckError) as exc:
        played.fault = str(exc)
    except Exception as exc:  # noqa: BLE001  # a stage fell over: that is what is looked for
        played.fault = f"{type(exc).__name__}: {exc}"
    finally:
        played.met = arena.coverage
        told(arena)
        arena.pair.close()
        arena.loop.fresh()
    return played


def heal(arena: Arena) -> None:
    """All that was broken is mended; what was decided, approved and done stands."""
    arena.stalls.clear()
    arena.full_creates, arena.meter.crash_after = 0, None
    arena.end_holds()
    pair = arena.pair
    pair.net.cut.clear()
    pair.net.down.clear()
    pair.net.quorum_silent = pair.net.wal_stalled = False
    pair.lost_answers.clear()
    arena.lies, arena.dns.silent, arena.dns.lose_next_answer = {}, set(), False
    arena.site_lives()
    for process in arena.processes.values():
        process.thaw()
    for host, it in pair.hosts.items():
        it.disk.full, it.fence_lies, it.edge.fails = False, 0, False
        pair.thaw(host)
        pair.power_on(host, starts=True)
        if it.process.dead:
            pair.boot_agent(host)
    for runner in arena.sim_runners.values():
        runner.cuts, runner.forging, runner.host_key_changed, runner.full, runner.dies_at = [], {}, False, False, -1
        for job in runner.jobs.values():
            job.journal.full = False
        runner.reboot()
        runner.boot()
        runner.arrive()
    arena.check()


def come_to_rest(arena: Arena) -> None:
    """The loop goes on until nothing changes any more; then there is one writer, or somebody is told why not."""
    quiet = 0
    for second in range(REST_S):
        before = (arena.meter.done, arena.crashes, arena.ledger.promotions[-1], arena.pair.writers())
        arena.watch(0.4)
        arena.pump()
        if second in (2, 6, 12):
            for by in ("ada", "bob"):
                _answer(arena, by)
        after = (arena.meter.done, arena.crashes, arena.ledger.promotions[-1], arena.pair.writers())
        quiet = quiet + 1 if before == after and len(after[-1]) == 1 and not _busy(arena) else 0
        if quiet == QUIET_ROUNDS:
            break
    at_rest(arena, quiet == QUIET_ROUNDS)


def _answer(arena: Arena, by: str) -> None:
    """What people do about a request that waits while nobody serves."""
    if not arena.pair.writers():
        say(arena, by)


def _busy(arena: Arena) -> bool:
    return any(job.state == "running" for runner in arena.sim_runners.values() for job in runner.jobs.values())


def at_rest(arena: Arena, quiet: bool) -> None:
    """Exactly one writer and nothing open, or a reason that a person can read."""
    writers = arena.pair.writers()
    insist(len(writers) <= 1, f"INV-1: {writers} take writes")
    attempts = arena.records("attempts", Attempt)
    outcomes = arena.records("outcomes", AttemptOutcome)
    mode = mode_of(arena.policy, 1, attempts, outcomes)
    reasons = why_not(arena, mode)
    arena.met("rest", "one writer" if writers and not reasons else "a person is needed" if reasons else "nothing")
    for reason in reasons:
        arena.met("reason", reason)
    insist(writers or reasons, "LOOP: nobody serves, and nobody is told why")
    insist(mode.open_attempt is None or reasons, f"INV-7: attempt {mode.open_attempt} is open, and nobody is told why")
    if quiet and writers and not reasons:
        stands = arena.pair.store._services["pg"]
        insist(writers == [stands.primary], f"INV-3: {writers} serve, the quorum says {stands.primary}")
        insist(mode.generation == stands.generation, f"GEN-1: {mode.generation} to the loop, {stands.generation} there")
        insist(
            mode.primary == stands.primary, f"DEC-6: the loop thinks {mode.primary}, the quorum says {stands.primary}"
        )


def why_not(arena: Arena, mode: Mode) -> list[str]:
    """What people are told: by the loop, by what is open, by the hosts."""
    reasons = [f"loop {word}" for word in ("uncertain", "unserved") if getattr(mode, word)]
    if mode.open_attempt:
        reasons += [f"hindered {told.error}" for told in arena.starts.hindered.values()]
        reasons += [f"job {job.state}" for r in arena.sim_runners.values() for job in r.jobs.values() if not job.result]
    for host in HOSTS:
        state = arena.pair.hosts[host].agent.state
        if state.hold != "none" and state.holding():
            reasons.append(f"host {state.hold}")
    failed = {o.attempt_id for o in arena.records("outcomes", AttemptOutcome) if o.exit_code}
    reasons += ["run failed"] * bool(failed and not arena.pair.writers())
    stands = arena.pair.store._services["pg"]
    role = arena.pair.hosts[stands.primary].database.role()
    if not arena.pair.writers() and role != "primary":
        reasons.append(f"database {role}")
    return reasons


def told(arena: Arena) -> None:
    """Every refusal of a stage, by the words that its reason begins with, into the coverage."""
    for stage in ("dispatch", "approval", "execution"):
        for refusal in arena.refusals(stage):
            arena.met(f"refused by {stage}", in_short(refusal.reason))
    for outcome in arena.outcomes():
        arena.met("outcome", f"{outcome.outcome} {outcome.exit_code}")


def in_short(reason: str) -> str:
    """A reason without what is different each time."""
    words = re.sub(r"^dispatch-[^:]*: ", "", reason)
    words = re.sub(r"sha256:[0-9a-f]+|\b[a-z-]+-\d{8}T\S+|\d{8}T\d{6}Z|\d[\d.]*", "#", words)
    return " ".join(words.split()[:5])[:60]


def shrunk(schedule: Schedule, fails: Callable[[Schedule], bool], tries_max: int = 400) -> Schedule:
    """The fewest events that still fail, by delta debugging: halves, quarters, and so on, then one by one."""
    events, tries, size = list(schedule.events), 0, max(1, len(schedule.events) // 2)
    while size >= 1 and tries < tries_max:
        start, smaller = 0, False
        while start < len(events) and tries < tries_max:
            tries += 1
            fewer = events[:start] + events[start + size :]
            if fails(_with(schedule, fewer)):
                events, smaller = fewer, True
            else:
                start += size
        if not smaller:
            if size == 1:
                break
            size = max(1, size // 2)
    for plain in (_with(schedule, events, instances=1),):
        if schedule.instances > 1 and fails(plain):
            return plain
    return _with(schedule, events)


def _with(schedule: Schedule, events: Sequence[Event], *, instances: int | None = None) -> Schedule:
    return Schedule(schedule.seed, instances or schedule.instances, schedule.required, tuple(events), schedule.story)
