"""What waits is one count: `hyops control status` and the health of the stages say the same in every state (UX-2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyops.adapters.store_files import FileRecordStore
from hyops.compose import record_store
from hyops.compose_health import health_of
from hyops.control.hearing import YES_MAX
from hyops.errors import RecordError
from hyops.model.approval import ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.services.config import Homes
from hyops.services.control_status import Shown, queues_of
from hyops.services.queues import STAGES, queue_of
from hyops.services.seen import OneLook
from hyops.testing.records import MemoryRecordStore
from simulation.world import KEYS, World, routes

pytestmark = pytest.mark.req("LOOP-3", "LOOP-4", "UX-2")

KEPT = {
    "decisions": ("decision", "records"),
    "requests": ("dispatch", "requests"),
    "refused-dispatch": ("dispatch", "refusals"),
    "executions": ("approval", "executions"),
    "refused-approval": ("approval", "refusals"),
    "attempts": ("execution", "attempts"),
    "outcomes": ("execution", "outcomes"),
    "refused-execution": ("execution", "refusals"),
}
NUMBERS = {
    "dispatch": ("dispatch", "queue_length", "oldest_waiting_seconds"),
    "approval": ("approval", "queue_length", "oldest_waiting_seconds"),
    "execution": ("execution", "queue_length", "oldest_waiting_seconds"),
    "runners": ("execution", "open_runs", "oldest_open_run_seconds"),
}
"""Queue -> whose metrics tell of it, and by which names."""


def on_files(world: World, folder: Path) -> Homes:
    """The records of a loop as they lie on a control host."""
    homes = Homes.of({stage: str(folder / stage) for stage in ("decision", "dispatch", "approval", "execution")})
    for kind, (stage, name) in KEPT.items():
        store = FileRecordStore(Path(getattr(homes, stage)) / "state" / name)
        for record_id, data in world.disk[kind].records.items():
            store.create(record_id, data)
    return homes


def told(world: World, folder: Path) -> dict[str, Shown]:
    """What `hyops control status` shows; the health of the stages says the same, or it is an error."""
    homes, now = on_files(world, folder), world.clock.now()
    shown = queues_of(lambda stage, kind: record_store(getattr(homes, stage), kind), now, lambda _: None, {})
    for queue in shown:
        stage, length, oldest = NUMBERS[queue.stage]
        health = health_of(stage, "-", SimpleNamespace(homes=homes))
        health.now = lambda: now
        lines = dict(line.rsplit(" ", 1) for line in health.metrics().splitlines())
        labels = f'{{stage="{stage}"}}'
        age_s = (queue.oldest.age_s or 0.0) if queue.oldest else 0.0
        assert int(lines[f"hyops_stage_{length}{labels}"]) == queue.length, queue.stage
        assert float(lines[f"hyops_stage_{oldest}{labels}"]) == pytest.approx(age_s, abs=0.06), queue.stage
    return {queue.stage: queue for queue in shown}


def decided(**how: object) -> World:
    """The site is lost, and that was decided."""
    world = World(**{"approval_policy": ApprovalPolicy(), **how})  # type: ignore[arg-type]
    world.watch(3)
    world.site_dies()
    world.watch(2)
    return world


def asked(**how: object) -> World:
    """The dispatcher has passed, too."""
    world = decided(**how)
    world.turn(0, "dispatch")
    return world


def ignored() -> World:
    """No route leads anywhere."""
    lane = {"target_ref": "dr/x@v1", "target_env": "lab", "execution_plane": "runner-local"}
    return asked(service_routes=routes(dispatcher_routes={"failback": lane}))


def unbelieved() -> World:
    """A key that may not speak for the decision service signed it."""
    world = decided()
    (name,) = world.disk["decisions"].records
    forged = sign_record(Decision.read(world.disk["decisions"].records[name]), KEYS["dispatch"])
    world.disk["decisions"].records[name] = forged.encoded()
    world.boot(0)
    world.turn(0, "dispatch")
    assert world.disk["requests"].records == {}
    return world


def denied() -> World:
    """The dispatcher says no by itself, and the approval stage has not heard of it yet."""
    world = decided()

    def no_plan(*_: object) -> None:
        raise RecordError("no such blueprint")

    world.plan_for = no_plan  # type: ignore[assignment]
    world.boot(0, "dispatch")
    world.turn(0, "dispatch")
    (request,) = world.disk["requests"].records.values()
    assert json.loads(request)["status"] == "denied"
    return world


def said(*words: tuple[str, str], required: int = 1) -> World:
    """People said that, and their stage has passed."""
    world = asked(approval_policy=ApprovalPolicy(required=required))
    for who, verdict in words:
        world.say_yes(who, verdict)
    world.turn(0, "approval")
    return world


def flooded() -> World:
    """More files of somebody unknown than are ever verified."""
    world = asked()
    for number in range(YES_MAX + 1):
        world.say_yes("mallory", note=f"file {number}")
    world.turn(0, "approval")
    return world


def late(world: World, *stages: str) -> World:
    """Time has passed, and after it these stages."""
    world.clock.advance(timedelta(days=1).total_seconds())
    for stage in stages:
        world.turn(0, stage)
    return world


def run(*cuts: str, **how: object) -> World:
    """Approved, and taken by the executor; the links to the runner are cut as often as that."""
    world = asked(**how)
    world.say_yes("ada")
    world.runners["cloud-runner"].cuts += cuts
    for stage in ("approval", "execution"):
        world.turn(0, stage)
    return world


STATES: dict[str, tuple[Callable[[], World], str | None]] = {
    "nothing": (World, None),
    "decided": (decided, "dispatch"),
    "ignored": (ignored, None),
    "not believed": (unbelieved, None),
    "never dispatched": (lambda: late(decided()), None),
    "asked": (asked, "approval"),
    "denied": (denied, None),
    "rejected": (lambda: said(("bob", "reject")), None),
    "approved by too few": (lambda: said(("ada", "grant"), required=2), "approval"),
    "withdrawn": (lambda: said(("ada", "grant"), ("ada", "withdraw")), "approval"),
    "flooded": (flooded, "approval"),
    "expired, unseen": (lambda: late(asked()), None),
    "expired": (lambda: late(asked(), "approval"), None),
    "approved": (lambda: said(("ada", "grant")), "execution"),
    "approved, expired, unseen": (lambda: late(said(("ada", "grant"))), None),
    "approved, refused": (lambda: late(said(("ada", "grant")), "execution"), None),
    "tried": (lambda: run("connect"), "runners"),
    "ended": (run, None),
    "dry run": (lambda: run(mode="dry-run"), None),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_counted_once_and_alike(state: str, tmp_path: Path) -> None:
    """One record waits in one queue, or in none, by what the stages themselves have written."""
    make, where = STATES[state]

    shown = told(make(), tmp_path)

    assert {stage: queue.length for stage, queue in shown.items()} == {stage: int(stage == where) for stage in STAGES}
    assert [stage for stage, queue in shown.items() if queue.oldest is not None] == ([where] if where else [])


def test_what_is_held_up_says_by_what(tmp_path: Path) -> None:
    """A flood of approvals closes nothing: the request is seen, with what its stage found."""
    oldest = told(flooded(), tmp_path)["approval"].oldest

    assert oldest is not None
    assert oldest.why.startswith(f"awaiting approval; its stage found: {YES_MAX + 1} approvals say yes to it")


def test_an_answer_to_other_bytes_answers_nothing(tmp_path: Path) -> None:
    """A record by hand is asked, removed, and put there again in other words: it waits, as the dispatcher sees it."""
    world = World()
    body = {"decision_id": "decision-check", "decision_type": "failover", "rationale": "once", "checks": []}
    world.disk["decisions"].records["decision-check"] = json.dumps(body).encode()
    assert told(world, tmp_path / "1")["dispatch"].length == 1
    world.turn(0, "dispatch")
    assert told(world, tmp_path / "2")["dispatch"].length == 0

    world.disk["decisions"].records["decision-check"] = json.dumps({**body, "rationale": "again"}).encode()
    oldest = told(world, tmp_path / "3")["dispatch"].oldest
    assert oldest is not None
    assert (oldest.record_id, oldest.age_s) == ("decision-check", None)


def test_the_same_bytes_refused_as_something_else_close_nothing(tmp_path: Path) -> None:
    """Somebody copies the request among the approvals: that is no approval, and the request waits on."""
    world = asked()
    world.disk["approvals"].records.update(world.disk["requests"].records)
    world.turn(0, "approval")
    assert [one.subject_kind for one in world.refusals("approval")] == ["approval"]

    assert told(world, tmp_path)["approval"].length == 1


def test_what_came_is_read_before_its_answers(tmp_path: Path) -> None:
    """A record that is answered while somebody looks is not taken for one that waits."""
    world, stores = decided(), {}
    for kind, (stage, name) in KEPT.items():
        stores[stage, name] = world.disk[kind]
    queue = queue_of("dispatch", lambda stage, name: stores[stage, name])

    class Meanwhile(MemoryRecordStore):
        def changed(self, since: int) -> tuple[int, list[str]]:
            found = stores["decision", "records"].changed(since)
            world.turn(0, "dispatch")
            return found

        def read(self, record_id: str) -> bytes:
            return stores["decision", "records"].read(record_id)

    queue.source.store = Meanwhile()
    assert queue.waiting(world.clock.now()) == []
    assert world.disk["requests"].records


def test_a_copy_and_what_is_no_record_count_nowhere(tmp_path: Path) -> None:
    """The dispatcher refuses each of them; until it does, nobody is told that it waits."""
    world = decided()
    (data,) = world.disk["decisions"].records.values()
    folder = tmp_path / "decision" / "state" / "records"
    folder.mkdir(parents=True)
    for name, there in {"copy": data, "half": data[: len(data) // 2], "deep": b"[" * 9999, "list": b"[]"}.items():
        (folder / f"decision-{name}.json").write_bytes(there)

    shown = told(world, tmp_path)

    assert (shown["dispatch"].length, shown["approval"].length) == (1, 0)


def test_a_command_lists_each_kind_of_record_once() -> None:
    """On etcd a second look begins a watch: what answers one queue and waits in the next is looked at for both."""
    world, looked = run(), list[str]()

    class Counted(MemoryRecordStore):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind

        def changed(self, since: int) -> tuple[int, list[str]]:
            looked.append(self.kind)
            return world.disk[self.kind].changed(since)

        def read(self, record_id: str) -> bytes:
            return world.disk[self.kind].read(record_id)

    stores = {place: OneLook(Counted(kind)) for kind, place in KEPT.items()}
    shown = queues_of(lambda stage, name: stores[stage, name], world.clock.now(), lambda _: None, {})

    assert sorted(looked) == sorted(KEPT)
    assert [queue.length for queue in shown] == [0, 0, 0, 0]
    assert stores["decision", "records"].changed(1)[1] == []


def test_an_age_is_never_negative() -> None:
    """The clock of whoever made it is ahead of ours."""
    world = decided()
    queue = queue_of("dispatch", lambda stage, name: world.disk[next(k for k, v in KEPT.items() if v == (stage, name))])
    (one,) = queue.waiting(world.clock.now())
    assert one.since is not None
    assert one.age_s(one.since - timedelta(seconds=5)) == 0.0
