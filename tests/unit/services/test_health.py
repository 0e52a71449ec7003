"""The health of a stage is made of its records and its last pass, never of a constant (LOOP-4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.health_http import listen
from hyops.adapters.store_files import FileRecordStore
from hyops.compose import record_store
from hyops.compose_health import beside, health_of, unwritable
from hyops.compose_store import sharing
from hyops.errors import HyopsError, PrerequisiteError, RecordError
from hyops.model.decision import Decision
from hyops.model.etcd import EtcdStore
from hyops.model.vocabulary import DecisionType
from hyops.services import loop
from hyops.services.config import Home, Homes
from hyops.services.health import Health
from hyops.services.inbox import Refusals
from hyops.services.pulse import Pulse
from hyops.services.seen import Seen
from hyops.testing.evidence import STAGES as SIGNERS
from hyops.testing.records import MemoryRecordStore
from loopback import free_ports

pytestmark = pytest.mark.req("LOOP-4")

SIGNER = SIGNERS["dispatch"]
STAGES = ("decision", "dispatch", "approval", "execution")


class Config:
    """What is asked of a stage's configuration."""

    def __init__(self, folder: Path) -> None:
        self.homes = Homes.of({stage: str(folder / stage) for stage in STAGES})
        for stage in STAGES:
            (folder / stage / "state").mkdir(parents=True)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Four homes with nothing in them."""
    return Config(tmp_path)


def put(config: Config, stage: str, kind: str, name: str, **body: Any) -> None:
    """One record."""
    store = FileRecordStore(Path(getattr(config.homes, stage)) / "state" / kind)
    store.create(name, json.dumps(body, default=str).encode() + b"\n")


def value(health: Health, name: str) -> float:
    """One number of the metrics."""
    lines = health.metrics().splitlines()
    return float(next(line for line in lines if line.startswith(f"hyops_stage_{name}{{")).rsplit(" ", 1)[1])


def decide(config: Config, name: str, age_s: float = 0.0) -> str:
    """A decision by hand; its digest."""
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    made = Decision(decision_id=name, decision_type=DecisionType.FAILOVER, rationale="x", timestamp_utc=at)
    put(config, "decision", "records", name, **made.body())
    return made.digest()


def test_what_waits_is_counted_until_it_is_answered(config: Config) -> None:
    """Two decisions came, one long ago; a request answers one, a refusal the other."""
    health = health_of("dispatch", "record-only", config)
    first, second = decide(config, "d-1", 500), decide(config, "d-2")
    assert (value(health, "queue_length"), value(health, "oldest_waiting_seconds") >= 500) == (2, True)

    put(config, "dispatch", "requests", "r-1", source_decision_digest=first)
    assert (value(health, "queue_length"), value(health, "oldest_waiting_seconds") < 500) == (1, True)
    refusals = Refusals(FileRecordStore(Path(config.homes.dispatch) / "state" / "refusals"), SIGNER, "dispatch")
    slot = f"ignored-{second.removeprefix('sha256:')}"
    refusals.record(slot, kind="decision", subject="d-2", digest=second, reason="dry-run", now=datetime.now(UTC))
    assert (value(health, "queue_length"), value(health, "refusals_total")) == (0, 1)


class Refusing(MemoryRecordStore):
    """Of which one cannot be read for a while, and one is gone when it is read."""

    why: Exception | None = None

    def read(self, record_id: str) -> bytes:
        """See the port."""
        if record_id == "r-5":
            raise KeyError(record_id)
        if self.why is not None and record_id == "r-1":
            raise self.why
        return super().read(record_id)


@pytest.mark.parametrize("why", [RecordError("permission denied"), PrerequisiteError("no quorum")])
def test_what_could_not_be_read_once_is_asked_for_again(why: HyopsError) -> None:
    """A record that was out of reach for a moment is counted as soon as it can be read, and what is none never."""
    store = Refusing()
    seen = Seen(store, lambda name, data: json.loads(data)["n"])
    for name, data in (
        ("r-1", b'{"n":1}'),
        ("r-2", b'{"n":2}'),
        ("r-3", b"{}"),
        ("r-4", b"[" * 100_000),
        ("r-5", b"{}"),
    ):
        store.create(name, data)
    store.why = why
    for _ in range(2):
        with contextlib.suppress(PrerequisiteError):
            assert seen.refresh() == {"r-2": 2}
    store.why = None
    assert seen.refresh() == {"r-1": 1, "r-2": 2}
    assert not seen.again


@pytest.mark.parametrize("text", ['{"expires_at":"2026-11-30T00:00:00"}', '{"timestamp_utc":"2026-11-30"}', "[]", "5",
                                  '{"expires_at":5}', "null", '"x"',
                                  '{"signature":{},"decision_id":"d-2","expires_at":"2026-11-30"}'])  # fmt: skip
def test_what_somebody_wrote_by_hand_is_counted_or_not_and_harms_nothing(config: Config, text: str) -> None:
    """No time zone, no object, no text: the others are counted, and the page is there."""
    health = health_of("dispatch", "record-only", config)
    decide(config, "d-1")
    (Path(config.homes.decision) / "state" / "records" / "d-2.json").write_text(text)
    for _ in range(2):
        assert value(health, "queue_length") == 1
        assert health.answer("/healthz")[0] in (200, 503)


def test_on_etcd_the_stores_of_a_stage_are_those_of_its_health(config: Config) -> None:
    """One mirror and one watch for each kind, however often somebody asks how it is; a command has its own."""
    store = EtcdStore.of({"endpoints": ["http://127.0.0.1:1"], "env": "lab"})
    config.homes = config.homes.model_copy(update={s: Home.kept_in(f"/none/{s}", s, store) for s in STAGES})
    before = len(threading.enumerate())
    with sharing():
        health = health_of("approval", "signed", config)
        assert health.queue is not None
        assert health.queue.refusals is not None
        assert health.queue.source.store is record_store(config.homes.dispatch, "requests")
        assert health.queue.answers[0].store is record_store(config.homes.approval, "executions")
        assert health.queue.refusals.store is record_store(config.homes.approval, "refusals")
        assert health.refusals is health.queue.refusals.store
        assert health.refusals is not health.queue.answers[0].store
    assert record_store(config.homes.approval, "refusals") is not health.refusals
    assert len(threading.enumerate()) == before


def test_the_generation_is_that_of_the_outcomes(config: Config) -> None:
    """The highest that was reached."""
    for number, after in enumerate((3, 5, None)):
        put(
            config,
            "execution",
            "outcomes",
            f"o-{number}",
            service="orders",
            generation_before=2,
            generation_after=after,
        )
    assert 'hyops_service_generation{service="orders"} 5' in health_of("decision", "emit-only", config).metrics()


def test_a_stage_that_stands_still_is_not_healthy(config: Config) -> None:
    """No pass for a while, a pass that failed, a folder that takes nothing: each is said, and each is 503."""
    health = health_of("dispatch", "record-only", config)
    health.pulse = Pulse()
    assert "no pass over the records has worked yet" in health.answer("/healthz")[2]
    health.pulse.passed()
    assert health.answer("/healthz")[0] == 200
    health.pulse.failed(PrerequisiteError("/x/requests:\n  permission denied " + "x" * 5000))
    assert "the last pass failed: PrerequisiteError: /x/requests: permission denied x" in health.answer("/healthz")[2]
    assert len(health.answer("/healthz")[2]) < 1000
    health.pulse.failed(ValueError())
    assert health.faults() == ["the last pass failed: ValueError"]
    health.pulse.passed()
    assert health.answer("/healthz")[0] == 200
    health.pass_age_max_s = -1.0
    assert health.answer("/healthz")[0] == 503
    health.pass_age_max_s = 30.0
    (Path(config.homes.dispatch) / "state").rmdir()
    status, _, body = health.answer("/healthz")
    assert (status, value(health, "healthy")) == (503, 0)
    assert "dispatch/state" in body


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user reaches; those of pytest are for one alone."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user for a while")
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def nobody() -> Iterator[None]:
    """The rest of this test, as a user without rights."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("dispatch", "requests"),
        ("dispatch", "plans"),
        ("dispatch", "refusals/.slots"),
        ("dispatch", "refusals/.lock"),
        ("decision", "inputs"),
        ("approval", "executions"),
        ("execution", "starts"),
        ("execution", "outcomes"),
    ],
)
def test_a_folder_of_records_that_is_somebody_elses_is_told(
    shared: Path, request: pytest.FixtureRequest, stage: str, path: str
) -> None:
    """While nothing waits, too: the page of the user who cannot write there names it, its owner and its mode."""
    config, state = Config(shared), shared / stage / "state"
    for kind in ("requests", "plans", "refusals", "inputs", "executions", "starts", "outcomes", "approvals"):
        (state / kind / ".slots").mkdir(parents=True)
        (state / kind / ".lock").touch()
    for one in (shared, *shared.rglob("*")):
        os.chown(one, 65534, 65534)
    os.chown(state / path, 0, 0)
    os.chown(state / "approvals", 0, 0)  # people's: they put files there, and the stage does not
    health = health_of(stage, "record-only", config)
    health.pulse = Pulse()
    health.pulse.passed()
    assert health.faults() == []  # root may
    told = unwritable(config.homes, kept_there=False)  # to an administrator: of the stage's user
    whose = f"{stage}: {state / path}: cannot be written by user 65534: it is 0:0's, mode "
    assert [one.startswith(whose) for one in told] == [True]
    assert unwritable(config.homes, kept_there=True) == []

    request.getfixturevalue("nobody")
    (why,) = health.faults()
    assert why.startswith(f"{state / path}: cannot be written by user 65534: it is 0:0's, mode ")


ABSURD = [
    '{"service":"pg","generation_before":1e999}',
    '{"service":"pg","generation_before":-1e999}',
    '{"service":"pg","generation_before":1,"generation_after":1e999}',
    '{"service":"pg","generation_before":1e300}',
    '{"service":"pg","generation_before":99999999999999999999}',
    '{"service":"pg","generation_before":-1}',
    '{"service":"pg","generation_before":true}',
    '{"service":"pg","generation_before":"7"}',
    f'{{"service":"pg","generation_before":{"9" * 5000}}}',
    '{"service":"pg","generation_before":1,"generation_after":[]}',
    '{"service":{},"generation_before":1}',
    "[" * 100_000,
    "1",
]


@pytest.mark.parametrize("said", ABSURD)
def test_a_generation_that_is_none_costs_no_look(config: Config, said: str) -> None:
    """One record that says an absurd number: the others are counted, in each look."""
    health = health_of("execution", "dispatch", config)
    put(config, "execution", "outcomes", "outcome-1", generation_after=None, generation_before=3, service="pg")
    (Path(config.homes.execution) / "state" / "outcomes" / "outcome-0.json").write_text(said + "\n")

    for _ in range(2):
        told = [line for line in health.metrics().splitlines() if line.startswith("hyops_service_generation")]
        assert told == ['hyops_service_generation{service="pg"} 3']


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1e999", 7, [], True])
def test_a_time_that_is_none_costs_no_look(config: Config, at: object) -> None:
    """Nor does a moment that has no time in UTC; what waits beside it is counted."""
    for name, when in (("d-0", at), ("d-1", "2026-01-31T12:00:00Z")):
        body = {"decision_id": name, "decision_type": "failover", "rationale": "r", "signature": {}}
        path = Path(config.homes.decision) / "state" / "records" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**body, "timestamp_utc": when, "expires_at": when}) + "\n")
    health = health_of("dispatch", "record-only", config)
    health.now = lambda: datetime(2026, 1, 31, 11, tzinfo=UTC)

    assert value(health, "queue_length") >= 1


def test_a_disk_without_inodes_is_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are free, and no file can be made; a file system that does not count them has enough."""
    health = health_of("dispatch", "record-only", config)
    health.pulse = Pulse()
    health.pulse.passed()
    there = os.statvfs("/")

    def left(files: int, free: int) -> list[str]:
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*there[:5], files, free, free, *there[8:])))
        return health.faults()

    assert ["no room for more files (0 inodes left)" in why for why in left(9, 0)] == [True]
    assert left(100_000, 50_000) == left(0, 0) == []


def test_numbers_are_told_with_all_their_digits(config: Config) -> None:
    """A counter of ten million does not stand still for ten; a part of a second is no less."""
    health = health_of("dispatch", "record-only", config)
    health.pulse = Pulse(passes=10_000_019, failures=1_234_567)
    health.pulse.age_s = lambda: 1234567.891  # type: ignore[method-assign]

    lines = health.metrics().splitlines()
    assert 'hyops_stage_passes_total{stage="dispatch"} 10000019' in lines
    assert 'hyops_stage_faults_total{stage="dispatch"} 1234567' in lines
    assert 'hyops_stage_last_pass_age_seconds{stage="dispatch"} 1234567.891' in lines


def test_it_answers_on_loopback_and_outlives_what_is_no_request(config: Config) -> None:
    """Pages, an unknown page, another method, noise: each its status, and the next one is answered."""
    health = health_of("dispatch", "record-only", config)
    health.pulse = Pulse()
    health.pulse.passed()
    (port,) = free_ports(1)

    async def ask(text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        writer.write_eof()
        said = await reader.read()
        writer.close()
        return said.split(b"\r\n")[0]

    async def all_of_it() -> list[bytes]:
        server = await listen(port, health.answer)
        try:
            asked = (b"GET /healthz HTTP/1.1\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n",
                     b"noise", b"A" * 20_000, b"GET /metrics HTTP/1.1\r\n\r\n")  # fmt: skip
            return [await ask(one) for one in asked]
        finally:
            server.close()

    found = asyncio.run(all_of_it())
    assert [line[9:12] for line in found] == [b"200", b"404", b"405", b"", b"", b"200"]


def test_a_port_that_is_somebodys_stops_no_stage(config: Config, tmp_path: Path) -> None:
    """The daemon runs without its health, and says so; without `health` nothing of it is even read."""
    (port,) = free_ports(1)
    body = {"api_version": "hybridops/v1", "kind": "DecisionDispatcher", "signing_key": "/k", "trusted_keys": "/t",
            "services": ["orders"], "routes": {"env": "prod", "dispatcher_routes": {}},
            "health": {"port": port}}  # fmt: skip
    file, ran = tmp_path / "config.json", []

    async def daemon() -> None:
        ran.append(True)

    async def taken() -> None:
        server = await listen(port, lambda path: (200, "text/plain", ""))
        try:
            await beside("dispatch", file, daemon)
        finally:
            server.close()

    file.write_text(json.dumps(body))
    asyncio.run(taken())
    file.write_text("{}")
    asyncio.run(beside("dispatch", file, daemon))
    assert ran == [True, True]


def test_the_loop_marks_each_pass_and_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the health asks is what the loop itself marks."""
    pulse, seen = Pulse(), []
    monkeypatch.setattr(loop, "PULSE", pulse)
    monkeypatch.setattr(loop, "ERROR_PAUSE_S", (0.0, 0.0))

    async def step(slow: bool) -> None:
        seen.append((pulse.passes, pulse.failures))
        if len(seen) == 1:
            raise ValueError("a bug")
        if len(seen) == 3:
            raise asyncio.CancelledError
        waker.wake()

    waker = loop.Waker()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(loop._steps(step, waker, "dispatch", 600.0))
    assert seen == [(0, 0), (0, 1), (1, 1)]
