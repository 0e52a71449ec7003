"""What comes home from a runner is checked before anybody believes it: size, chain, signature, whose it is (RUN-6)."""

from __future__ import annotations

import json

from hyops.errors import EvidenceError, RecordError
from hyops.model import canonical
from hyops.model.dsse import verify_record
from hyops.model.run import RunResult
from hyops.ports.signer import Verifier
from hyops.ports.transport import RunReturn


def open_return(
    result: bytes, journal: bytes, log: bytes, *, run_id: str, runner_ref: str, verifier: Verifier
) -> RunReturn:
    """The typed return of exactly this run.

    Raises:
        EvidenceError: not this run's, not signed by this runner's key, or the journal is not what was signed.
    """
    try:
        record = RunResult.read(result, source=f"result of {run_id}")
        keyid = verify_record(record, verifier)
        if f"runner:{runner_ref}" not in verifier.roles(keyid):
            raise RecordError(f"result of {run_id}: its key may not speak for {runner_ref}")
        if (record.run_id, record.runner_ref) != (run_id, runner_ref):
            raise RecordError(f"asked for {run_id} of {runner_ref}, got {record.run_id} of {record.runner_ref}")
        head, count = _chain(journal)
        if (head, count) != (record.journal_head, record.journal_records):
            raise RecordError(f"result of {run_id}: the journal is not the one that was signed")
    except RecordError as exc:
        raise EvidenceError(exc.message, hint="nothing was taken over; look at the runner itself") from exc
    return RunReturn(record, journal, log)


def _chain(journal: bytes) -> tuple[str, int]:
    head, lines = "sha256:" + "0" * 64, journal.split(b"\n")
    if lines.pop() != b"":
        raise RecordError("the journal ends in a torn line")
    for number, raw in enumerate(lines, start=1):
        try:
            prev = json.loads(raw)["prev"]
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise RecordError(f"journal line {number}: damaged") from exc
        if prev != head:
            raise RecordError(f"journal line {number}: does not follow from the line before it")
        head = canonical.digest_bytes(raw)
    return head, len(lines)
