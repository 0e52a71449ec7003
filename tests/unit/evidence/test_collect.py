"""A closed attempt becomes a bundle from the records that led to it, also when some of them are gone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyops.errors import EvidenceError
from hyops.evidence.chain import BadRecordError
from hyops.evidence.collect import Assembler
from hyops.evidence.verify import Verified, verify_path
from hyops.model import canonical
from hyops.ports.transport import RunReturn
from hyops.testing import evidence as seeds
from hyops.testing.records import MemoryRecordStore


class Now:
    """A clock that stands."""

    def now(self) -> object:
        """A minute after the switch began."""
        return seeds.START + timedelta(minutes=1)


@pytest.fixture
def switch() -> seeds.Switch:
    """A successful failover."""
    return seeds.failover()


@pytest.fixture
def stores(switch: seeds.Switch) -> dict[str, MemoryRecordStore]:
    """The records of all stages."""
    names = ("decisions", "inputs", "requests", "plans", "approvals", "executions")
    made = {name: MemoryRecordStore() for name in names}
    made["decisions"].create(switch.decision.record_id, switch.decision.encoded())
    made["inputs"].create((switch.decision.inputs_digest or "")[7:], switch.inputs.encoded())
    made["requests"].create(switch.request.record_id, switch.request.encoded())
    made["plans"].create(switch.plan.digest()[7:], canonical.encode(switch.plan.body()))
    made["approvals"].create(switch.approvals[0].record_id, switch.approvals[0].encoded())
    made["executions"].create(switch.execution.record_id, switch.execution.encoded())
    return made


@pytest.fixture
def assembler(stores: dict[str, MemoryRecordStore], tmp_path: Path) -> Assembler:
    """What the execution stage calls."""
    return Assembler(
        SimpleNamespace(**stores),  # type: ignore[arg-type]
        inputs=stores["inputs"],
        directory=tmp_path / "evidence",
        signer=seeds.STAGES["execution"],
        clock=Now(),  # type: ignore[arg-type]
    )


def close(assembler: Assembler, switch: seeds.Switch, returned: RunReturn | None) -> None:
    """Tell the assembler that the attempt is closed."""
    asyncio.run(assembler.closed(switch.attempt, switch.outcome, returned))


def check(tmp_path: Path, switch: seeds.Switch) -> Verified:
    """Verify the bundle of the switch."""
    return verify_path(tmp_path / "evidence" / switch.attempt.run_id, seeds.VERIFIER, seeds.APPROVALS)


@pytest.mark.req("EVD-1", "INV-7")
def test_a_closed_attempt_has_a_verified_bundle(assembler: Assembler, switch: seeds.Switch, tmp_path: Path) -> None:
    """Everything that led to it is fetched by id and digest, and the whole verifies."""
    assert not assembler.done(switch.outcome)
    close(assembler, switch, switch.run_return)

    assert assembler.done(switch.outcome)
    assert set(check(tmp_path, switch).contents.placed) >= {
        "decision",
        "inputs",
        "plan",
        "request",
        "run-result",
        "loss",
    }


@pytest.mark.req("LOOP-1", "EVD-2")
@pytest.mark.fault(9)
def test_closing_again_after_a_crash_changes_nothing(
    assembler: Assembler, switch: seeds.Switch, tmp_path: Path
) -> None:
    """The second call finds the bundle of the first one."""
    close(assembler, switch, switch.run_return)
    head = check(tmp_path, switch).head
    close(assembler, switch, switch.run_return)

    assert check(tmp_path, switch).head == head


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize("gone", ["decisions", "inputs", "approvals", "executions", "plans"])
def test_a_record_that_is_gone_is_a_gap_that_verification_names(
    assembler: Assembler, stores: dict[str, MemoryRecordStore], switch: seeds.Switch, tmp_path: Path, gone: str
) -> None:
    """Evidence is made all the same, and does not pass for complete."""
    stores[gone].records.clear()
    close(assembler, switch, switch.run_return)

    with pytest.raises(BadRecordError):
        check(tmp_path, switch)


@pytest.mark.req("INV-7")
def test_without_its_request_there_is_no_story(
    assembler: Assembler, stores: dict[str, MemoryRecordStore], switch: seeds.Switch
) -> None:
    """The one record that nothing can stand in for: the error names it and says what to do."""
    stores["requests"].records.clear()

    with pytest.raises(EvidenceError, match=switch.request.dispatch_id):
        close(assembler, switch, switch.run_return)
    assert not assembler.done(switch.outcome)


@pytest.mark.req("EVD-1", "RUN-6")
@pytest.mark.fault(18)
def test_what_became_of_the_state_is_sealed_with_it(
    stores: dict[str, MemoryRecordStore], switch: seeds.Switch, tmp_path: Path
) -> None:
    """A file that belongs to the outcome stands in the bundle; changed afterwards, it is named."""
    assembler = Assembler(
        SimpleNamespace(**stores),  # type: ignore[arg-type]
        inputs=stores["inputs"],
        directory=tmp_path / "evidence",
        signer=seeds.STAGES["execution"],
        clock=Now(),  # type: ignore[arg-type]
        attachments=lambda outcome: {"state-return.json": outcome.outcome_id.encode()},
    )
    close(assembler, switch, switch.run_return)
    file = tmp_path / "evidence" / switch.attempt.run_id / "files" / "state-return.json"
    assert file.read_bytes() == switch.outcome.outcome_id.encode()
    check(tmp_path, switch)
    file.write_bytes(b"no conflict")
    with pytest.raises(BadRecordError, match="state-return"):
        check(tmp_path, switch)
