"""The records that can still tell something say the same of a service as all records together."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from hyops.control.mode import mode_of
from hyops.model import ids
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.vocabulary import Outcome
from hyops.services.inbox import Inbox
from hyops.services.standing import Standing
from hyops.testing.clock import FakeClock
from hyops.testing.records import MemoryRecordStore
from simulation.world import KEYS, VERIFIER, policy

DIGEST = "sha256:" + "0" * 64
AT = FakeClock().now()


def attempt_of(number: int, generation: int, mode: Any) -> Attempt:
    """An attempt of `pg`."""
    made = AT + timedelta(seconds=number)
    return Attempt(
        attempt_id=ids.derived("attempt", made, str(number)),
        run_id=ids.derived("run", made, str(number)),
        timestamp_utc=made,
        status="dispatching" if mode == "dispatch" else "dry-run-ready",
        execution_mode=mode,
        source_execution_id="execution-1",
        source_execution_digest=DIGEST,
        source_dispatch_id="dispatch-1",
        service="pg",
        generation=generation,
        runner_ref="cloud-runner",
        plan_digest=DIGEST,
    )


def outcome_of(attempt: Attempt, outcome: Outcome, after: int | None, primary: str | None) -> AttemptOutcome:
    """How it ended."""
    return AttemptOutcome(
        outcome_id=ids.derived("outcome", attempt.timestamp_utc, attempt.attempt_id),
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        timestamp_utc=attempt.timestamp_utc,
        outcome=outcome,
        exit_code=0,
        service="pg",
        generation_before=attempt.generation,
        generation_after=after,
        primary_after=primary,
    )


@pytest.mark.req("DEC-6", "VOC-5")
@pytest.mark.parametrize("seed", range(25))
def test_what_is_told_is_what_all_records_say(seed: int) -> None:
    """Records come in any order, some are removed by hand: the mode is the one that all of them together give."""
    chance, pg = random.Random(seed), policy()
    stores = MemoryRecordStore(), MemoryRecordStore()
    attempts = Inbox(stores[0], Attempt, VERIFIER, role="execution")
    outcomes = Inbox(stores[1], AttemptOutcome, VERIFIER, role="execution")
    standing = Standing(attempts, outcomes)
    todo: list[tuple[int, Attempt | AttemptOutcome]] = []
    for number in range(8):
        made = attempt_of(number, chance.randint(1, 3), chance.choice(["dispatch", "dispatch", "dry-run"]))
        todo.append((0, made))
        if chance.random() < 0.8:
            after = chance.choice([None, None, made.generation, made.generation + 1])
            primary = chance.choice([None, "cloud-db", "onprem-db", "elsewhere"])
            todo.append((1, outcome_of(made, chance.choice(list(Outcome)), after, primary)))
    chance.shuffle(todo)
    for index, record in todo:
        stores[index].create(record.record_id, sign_record(record, KEYS["execution"]).encoded())
        if chance.random() < 0.15:
            gone = stores[chance.randint(0, 1)].records
            gone.pop(chance.choice([*gone, ""]), None)
        standing.refresh()

        assert mode_of(pg, 1, *standing.telling("pg")) == mode_of(pg, 1, attempts.records(), outcomes.records())
        assert standing.closed == {o.attempt_id for o in outcomes.records()}
        for generation in range(4):
            ended = {o.outcome_id for o in standing.ended("pg", generation)}
            assert ended == {o.outcome_id for o in outcomes.records() if o.generation_before == generation}
