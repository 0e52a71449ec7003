"""Make a sealed bundle of everything that is known about one attempt (EVD-1, INV-7).

`entries` is pure: it says what is to be written, in the order in which it came about. `assemble` writes it to a
nameless directory and renames that once it is sealed, so a bundle is complete or not there; two who assemble the same
attempt get the one that was first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hyops._version import __version__
from hyops.errors import EvidenceError, RecordError
from hyops.evidence import actuals, journal
from hyops.evidence.bundle import FILES, NAME
from hyops.evidence.chain import FILE, ChainWriter
from hyops.model import canonical
from hyops.model.approval import Approval
from hyops.model.base import Part, Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.evidence import Actuals, Loss
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.ownership import as_owner, make_folder, open_lock
from hyops.ports.signer import Signer
from hyops.ports.transport import RunReturn

FORMAT = "hyops/evidence/v1"
PARTIAL = ".partial-"


def bundle_name(outcome: AttemptOutcome) -> str:
    """Of the bundle about an outcome; a later answer to an unknown one has its own, beside the first."""
    if outcome.reconciles is None:
        return outcome.run_id
    return f"{outcome.run_id}-{'proved' if outcome.reconciliation is None else 'reconciled'}"


@dataclass(frozen=True)
class Story:
    """Everything about one attempt. What did not come about is None: a refused request has no run."""

    request: DispatchRequest
    decision: Decision | None = None
    plan: Plan | None = None
    approvals: Sequence[Approval] = ()
    execution: Execution | None = None
    attempt: Attempt | None = None
    run_return: RunReturn | None = None
    outcome: AttemptOutcome | None = None
    inputs: DecisionInputs | None = None
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def trusted_return(self) -> RunReturn | None:
        """What the runner handed back, when the executor found it good; otherwise it is only attached, as it came."""
        refused = self.outcome is not None and self.outcome.journal_head is None
        return None if refused else self.run_return

    @property
    def name(self) -> str:
        """The bundle's name: the run's id, or the request's when nothing ran."""
        if self.attempt is None:
            return self.request.dispatch_id
        return bundle_name(self.outcome) if self.outcome else self.attempt.run_id


@dataclass(frozen=True)
class Draft:
    """An entry before it has a place in the chain."""

    kind: str
    at: datetime
    body: dict[str, Any]
    subject: str
    digest: str


def assemble(story: Story, *, directory: Path, signer: Signer, now: datetime) -> Path:
    """Write and seal the bundle `directory/<name>`; returns its path, also when it was there already.

    Raises:
        EvidenceError: it cannot be written; nothing that looks like a bundle is left.
    """
    final = directory / story.name
    drafts = list(entries(story, now))
    try:
        make_folder(directory, 0o700)
        with _alone(directory):
            if (final / FILE).is_file():
                return final
            with as_owner(directory):
                partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=directory))
                try:
                    _write(partial, drafts, story, signer, now)
                    _publish(partial, final)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as exc:
        raise EvidenceError(f"{final}: {exc.strerror}", hint="free space for evidence, then assemble again") from exc
    return final


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; what an assembler left that was killed is removed, since nobody is at it now."""
    fd = open_lock(directory / ".lock", 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for left in directory.glob(PARTIAL + "*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(fd)


def opened(story: Story, now: datetime, version: str) -> Draft:
    """The first entry: which bundle this is, of which service, and which hyops wrote it."""
    body = {"format": FORMAT, "bundle": story.name, "hyops": version, "service": story.request.service or ""}
    return Draft("opened", now, body, f"bundle/{story.name}", canonical.digest(body))


def entries(story: Story, now: datetime) -> Iterator[Draft]:
    """What the chain says between `opened` and `sealed`; the last but one is what was achieved."""
    if story.decision is not None:
        yield _record(story.decision, story.decision.timestamp_utc or story.request.timestamp_utc)
    if story.inputs is not None:
        yield _part("inputs", story.inputs, story.inputs.at)
    if story.plan is not None:
        yield _part("plan", story.plan, story.request.timestamp_utc)
    yield _record(story.request, story.request.timestamp_utc)
    for approval in story.approvals:
        yield _record(approval, approval.statement.signed_at)
    if story.execution is not None:
        yield _record(story.execution, story.execution.timestamp_utc)
    if story.attempt is not None:
        yield _record(story.attempt, story.attempt.timestamp_utc)
    if story.trusted_return is not None:
        yield from _run(story.trusted_return)
    if story.outcome is not None:
        yield _record(story.outcome, story.outcome.timestamp_utc)
    loss = counted(story)
    if loss is not None:
        yield _part("loss", loss, now)
    for name, data in sorted(_files(story).items()):
        yield _attachment(name, data, now)
    yield _part("actuals", achieved(story), now)


def achieved(story: Story) -> Actuals:
    """RTA and RPA of the story."""
    return actuals.measure(
        decision=story.decision,
        request=story.request,
        execution=story.execution,
        attempt=story.attempt,
        plan=story.plan,
        result=story.trusted_return.result if story.trusted_return else None,
        outcome=story.outcome,
        loss=counted(story),
        inputs=story.inputs,
    )


def counted(story: Story) -> Loss | None:
    """The loss as a step of the run counted it and the runner signed it; nobody else's count is evidence."""
    return loss_in(story.trusted_return.result) if story.trusted_return else None


def loss_in(result: RunResult) -> Loss | None:
    """The loss that a step of the run counted and the runner signed for; the last one, if several did."""
    found: Loss | None = None
    for step in result.steps:
        value = step.outputs.get("loss")
        if not isinstance(value, dict):
            continue
        known = {key: item for key, item in value.items() if key in Loss.model_fields}
        try:
            found = Loss.of({"source": f"counted by step {step.step_id} of the run", **known})
        except RecordError:
            continue  # stays visible in the result, and counts for nothing
    return found


def receipts_in(result: RunResult) -> tuple[list[FenceReceipt], list[DemotionReceipt]]:
    """The receipts that the run's steps handed back, wherever they stand in the outputs."""
    fences: list[FenceReceipt] = []
    demotions: list[DemotionReceipt] = []
    for value in _values([step.outputs for step in result.steps]):
        try:
            if value.get("schema") == "hyops/fence-receipt/v1":
                receipt = FenceReceipt.of(value)
                fences += [] if receipt in fences else [receipt]
            elif "last_lsn" in value and "system_identifier" in value:
                demotion = DemotionReceipt.of(value)
                demotions += [] if demotion in demotions else [demotion]
        except RecordError:
            continue  # what a hostile runner made up stays visible in its result, and proves nothing
    return fences, demotions


def _values(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _values(item)


def _run(home: RunReturn) -> Iterator[Draft]:
    result = home.result
    for number, raw in enumerate(journal.lines_of(home.journal), start=1):
        at = _journal_stamp(raw) or result.started_at
        yield Draft("journal", at, journal.body_of(raw), f"journal/{number}", canonical.digest_bytes(raw))
    fences, demotions = receipts_in(result)
    for demotion in demotions:
        yield _part("demotion-receipt", demotion, demotion.at)
    for receipt in fences:
        yield _record(receipt, receipt.issued_at)
    for step in result.steps:
        yield _part("step", step, step.ended_at, name=step.step_id)
    yield _record(result, result.ended_at)


def _journal_stamp(raw: bytes) -> datetime | None:
    """The time a journal line gives for itself, for the order on the page only."""
    try:
        value = canonical.parse(raw)
        at = datetime.fromisoformat(value["at"])
    except (RecordError, KeyError, TypeError, ValueError):
        return None
    return at if at.tzinfo else None


def _record(record: Record, at: datetime) -> Draft:
    return Draft(record.kind, at, record.body(), f"{record.kind}/{record.record_id}", record.digest())


def _part(kind: str, part: Part, at: datetime, name: str = "") -> Draft:
    body = part.body()
    return Draft(kind, at, body, f"{kind}/{name}" if name else kind, canonical.digest(body))


def _attachment(name: str, data: bytes, at: datetime) -> Draft:
    digest = canonical.digest_bytes(data)
    return Draft("attachment", at, {"name": name, "bytes": len(data), "digest": digest}, f"files/{name}", digest)


def _files(story: Story) -> dict[str, bytes]:
    files = dict(story.attachments)
    if story.run_return is not None and story.run_return.log:
        files["runner.log"] = story.run_return.log
    if story.run_return is not None and story.trusted_return is None:
        files["returned-result.json"] = story.run_return.result.encoded()
        files["returned-journal.jsonl"] = story.run_return.journal
    for name in files:
        if not NAME.fullmatch(name):
            raise EvidenceError(f"attachment {name!r} has no safe name", hint="use lower-case letters, digits, . _ -")
    return files


def _write(folder: Path, drafts: Sequence[Draft], story: Story, signer: Signer, now: datetime) -> None:
    for name, data in _files(story).items():
        (folder / FILES).mkdir(mode=0o700, exist_ok=True)
        _durable(folder / FILES / name, data)
    chain = ChainWriter(folder / FILE, signer)
    try:
        for draft in (opened(story, now, __version__), *drafts):
            chain.append(draft.kind, draft.at, draft.body, {draft.subject: draft.digest})
        chain.seal(now)
    finally:
        chain.close()


def _durable(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _publish(partial: Path, final: Path) -> None:
    """Give the finished directory its name; whoever was first wins, since a full directory is never replaced.

    Its group may read it, as it may read the records that it is made of: evidence that only its maker sees proves less.
    """
    for folder in (partial / FILES, partial):
        if folder.is_dir():
            for path in folder.iterdir():
                path.chmod(path.stat().st_mode | (0o050 if path.is_dir() else 0o040))
            _sync_directory(folder)
    partial.chmod(partial.stat().st_mode | 0o050)
    try:
        partial.rename(final)
    except OSError:
        if (final / FILE).is_file():
            return
        raise
    _sync_directory(final.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
