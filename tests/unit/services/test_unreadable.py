"""An approval file that nobody can read is refused and recorded once, and holds up nothing (APR-1, INV-5, INV-7)."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import store_files
from hyops.adapters.store_files import FileRecordStore
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.refusal import Refusal
from hyops.services.approval import ApprovalStage
from hyops.services.inbox import Inbox
from hyops.testing.records import MemoryRecordStore
from simulation.world import KEYS, VERIFIER, World

Make = Callable[[Path, bytes], Any]
BAD: dict[str, Make] = {
    "zero-byte": lambda path, good: path.write_bytes(b""),
    "truncated": lambda path, good: path.write_bytes(good[:-20]),
    "binary": lambda path, good: path.write_bytes(bytes(range(256)) * 4),
    "10-mb": lambda path, good: path.write_bytes(good + b" " * 10_000_000),
    "10-mb-of-nothing": lambda path, good: path.write_bytes(bytes(10_000_000)),
    "a-folder": lambda path, good: path.mkdir(),
    "a-pipe": lambda path, good: os.mkfifo(path),
    "a-link": lambda path, good: path.symlink_to("/etc/hostname"),
    "too-deep": lambda path, good: path.write_bytes(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "no-object": lambda path, good: path.write_bytes(b"[]"),
    "not-a-number": lambda path, good: path.write_bytes(b'{"approval_id": NaN}'),
    "no-permission": lambda path, good: path.write_bytes(good),
}


@functools.cache
def asked() -> World:
    """A lost site whose request waits; its clock stands still."""
    world = World()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    return world


class Desk:
    """A request that waits, with the approvals in a real folder."""

    def __init__(self, folder: Path, mode: str = "signed") -> None:
        self.folder = folder
        folder.mkdir()
        self.world, self.policy = asked(), ApprovalPolicy.of({"mode": mode})
        self.requests = MemoryRecordStore()
        self.requests.records.update(self.world.disk["requests"].records)
        (self.dispatch_id,) = self.requests.records
        self.refused, self.executions = MemoryRecordStore(), MemoryRecordStore()
        self.boot()

    def boot(self) -> None:
        """Start the stage, which remembers nothing."""
        self.store = FileRecordStore(self.folder)
        self.stage = ApprovalStage(
            requests=self.requests,
            approvals=self.store,
            executions=self.executions,
            refusals=self.refused,
            policy=self.policy,
            approval_verifier=self.world.approvers,
            signer=KEYS["approval"],
            verifier=VERIFIER,
            clock=self.world.clock,
        )

    def passes(self, *slow: bool) -> None:
        """So many passes; a slow one is the rescan."""
        for one in slow:
            asyncio.run(self.stage.step(one))

    def good(self, by: str) -> Approval:
        """A valid approval, not yet in the folder."""
        approval = self.world.say_yes(by)
        self.world.disk["approvals"].records.clear()
        return approval

    def refusals(self) -> list[Refusal]:
        """What was recorded."""
        return [Refusal.read(data) for data in self.refused.records.values()]


def unreadable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Opening this file fails as it does for a user without the right to; root has it always."""
    real = os.open

    def refusing(path: Any, *words: Any, **more: Any) -> int:
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *words, **more)

    monkeypatch.setattr(store_files.os, "open", refusing)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "APR-2", "INV-5", "INV-7")
@pytest.mark.parametrize("what", ["approval", "marker"])
@pytest.mark.parametrize("case", BAD)
def test_an_unreadable_approval_is_refused_once_and_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, what: str
) -> None:
    """Over several passes, rescans and a restart: one record, no execution; and a good approval beside it carries."""
    desk = Desk(tmp_path / "approvals", "marker" if what == "marker" else "signed")
    bad = desk.good("ada")
    name = bad.approval_id if what == "approval" else f"{desk.dispatch_id}.approved"
    BAD[case](desk.folder / f"{name}.json", bad.encoded() if what == "approval" else b'{"approved_by": "ada"}')
    if case == "no-permission":
        unreadable(monkeypatch, f"{name}.json")
    desk.passes(True, False, True, False)
    desk.boot()
    desk.passes(True, True)

    (refusal,) = desk.refusals()
    assert (refusal.subject_kind, refusal.subject_id.removesuffix(".json")) == ("approval", name)
    assert desk.executions.records == {}

    good = desk.good("bob")
    desk.store.create(good.approval_id, good.encoded())
    desk.passes(False, True)

    assert len(desk.executions.records) == 1
    assert len(desk.refusals()) == 1


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "LOOP-1")
def test_a_mended_file_counts(tmp_path: Path) -> None:
    """Copied in slowly: torn at first, and recorded so; whole afterwards, and it carries."""
    desk = Desk(tmp_path / "approvals")
    good = desk.good("ada")
    path = desk.folder / f"{good.approval_id}.json"
    path.write_bytes(good.encoded()[:100])
    desk.passes(True, True)
    path.write_bytes(good.encoded())
    desk.passes(False, True)

    assert len(desk.executions.records) == 1
    assert ["torn" in refusal.reason for refusal in desk.refusals()] == [True]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "LOOP-1", "INV-5")
@pytest.mark.parametrize("case", ["a-folder", "10-mb", "no-permission"])
def test_an_approval_that_cannot_be_read_any_more_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Read once, then spoilt, together with the arrival of another: recorded once, and the other one is not lost."""
    desk = Desk(tmp_path / "approvals")
    inbox = Inbox(desk.store, Approval, VERIFIER, role=None)
    spoilt, other = desk.good("ada"), desk.good("bob")
    path = desk.folder / f"{spoilt.approval_id}.json"
    path.write_bytes(spoilt.encoded())
    inbox.refresh()

    assert [letter.name for letter in inbox.letters()] == [spoilt.approval_id]

    BAD[case](tmp_path / "spoilt", spoilt.encoded())
    path.unlink()
    (tmp_path / "spoilt").rename(path)
    if case == "no-permission":
        unreadable(monkeypatch, path.name)
    (desk.folder / f"{other.approval_id}.json").write_bytes(other.encoded())
    inbox.refresh()
    inbox.refresh()

    assert [letter.name for letter in inbox.letters()] == [other.approval_id]

    desk.passes(False, True, True)
    (execution,) = desk.executions.records.values()

    assert b'"approved_by":["bob"]' in execution
    assert len(desk.refusals()) == 1


@pytest.mark.req("LOOP-2", "INV-7")
def test_an_unreadable_request_is_recorded_once(tmp_path: Path) -> None:
    """A torn file among the dispatcher's requests: no question to anybody, and its refusal says so."""
    desk = Desk(tmp_path / "approvals")
    desk.requests.broken["dispatch-torn.json"] = "torn or not JSON"
    desk.passes(True, True)

    assert [(r.subject_kind, r.subject_id) for r in desk.refusals()] == [("request", "dispatch-torn.json")]
