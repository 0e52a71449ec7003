"""The chain: one signed entry a line, each naming the digest of the line before it (EVD-2, EVD-4, fault 31).

A line is a DSSE envelope in canonical JSON over an in-toto Statement v1; its predicate is an `Entry`. The first entry
is `opened`, the last `sealed`; one key signs them all. Lines are compared byte for byte with their canonical form, so
that no two spellings of one entry exist and a flipped padding bit shows.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hyops.errors import Effect, EvidenceError, RecordError
from hyops.model import canonical, dsse
from hyops.model.base import Digest, Part, UtcTime, iso_utc
from hyops.ports.signer import Signer, Verifier

FILE = "evidence.jsonl"
ENTRY_TYPE = "urn:hyops:evidence-entry:v1"
GENESIS = "sha256:" + "0" * 64
LINES_MAX = 100_000
CHAIN_ROLES = frozenset({"execution", "evidence"})
"""Whose key may write a chain: the stage that closes attempts, or a key for nothing else."""


class Fault(StrEnum):
    """What is wrong with the first bad record."""

    ALTERED = "altered"
    DROPPED = "dropped"
    REORDERED = "reordered"
    REPEATED = "repeated"
    ADDED = "added"
    TRUNCATED = "truncated"
    UNSEALED = "unsealed"
    FOREIGN_KEY = "foreign-key"
    WRONG_ROLE = "wrong-role"
    BAD_SIGNATURE = "bad-signature"
    CONTRADICTION = "contradiction"
    MISSING = "missing"
    UNCHECKED = "unchecked"


_HINTS = {Fault.UNCHECKED: "name the file of the approvers' public keys with --allowed-signers; the bundle may be good"}


class BadRecordError(EvidenceError):
    """The evidence does not verify; `line` counts from 1 and `seq` from 0."""

    effect = Effect.NONE

    def __init__(self, fault: Fault, line: int, what: str, why: str) -> None:
        super().__init__(
            f"line {line} ({what}): {fault}: {why}", hint=_HINTS.get(fault), fault=str(fault), line=line, record=what
        )
        self.fault, self.line, self.what, self.why = fault, line, what, why


class Entry(Part):
    """One thing that is said. `at` is when it happened by the account of whoever recorded it."""

    seq: Annotated[int, Field(ge=0)]
    prev: Digest
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]
    at: UtcTime
    content: dict[str, Any] = Field(alias="body")

    def predicate(self) -> dict[str, Any]:
        """The JSON value that is signed."""
        return {
            "seq": self.seq,
            "prev": self.prev,
            "kind": self.kind,
            "at": iso_utc(self.at),
            "body": self.content,
        }


@dataclass(frozen=True)
class Link:
    """An entry where it stands in the chain, verified."""

    line: int
    digest: str
    keyid: str
    entry: Entry
    subjects: Mapping[str, str]

    @property
    def name(self) -> str:
        """The thing it speaks of, such as `approval/approval-2026...`."""
        return next(iter(self.subjects), self.entry.kind)


class ChainWriter:
    """Appends entries durably; when one cannot be written, that entry is cut off again and nothing more is taken."""

    def __init__(self, path: Path, signer: Signer) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._signer = signer
        self._size = 0
        self._broken = False
        self.count = 0
        self.head = GENESIS

    def append(self, kind: str, at: datetime, body: Mapping[str, Any], subjects: Mapping[str, str]) -> str:
        """Write one entry and wait for the disk; returns the digest of its line.

        Raises:
            EvidenceError: the disk is full or failing. The caller stops before its next effect (EVD-4).
        """
        if self._broken:
            raise EvidenceError("evidence was not written before; nothing more is added", hint=_DISK_HINT)
        entry = Entry(seq=self.count, prev=self.head, kind=kind, at=at, body=dict(body))
        statement = dsse.statement(ENTRY_TYPE, entry.predicate(), subjects)
        if len(canonical.encode(statement)) > canonical.BYTES_MAX:
            raise EvidenceError(f"entry {kind}: larger than {canonical.BYTES_MAX} bytes", hint="attach it as a file")
        line = canonical.encode(dsse.envelope(statement, self._signer))
        try:
            _write_all(self._fd, line + b"\n")
            os.fsync(self._fd)
        except OSError as exc:
            self._broken = True
            _cut(self._fd, self._size)
            raise EvidenceError(f"evidence cannot be written: {exc.strerror}", hint=_DISK_HINT) from exc
        self._size += len(line) + 1
        self.count += 1
        self.head = canonical.digest_bytes(line)
        return self.head

    def seal(self, at: datetime) -> str:
        """Write the last entry: how many stand before it and the digest of the last of them."""
        return self.append("sealed", at, {"count": self.count, "head": self.head}, {"chain": self.head})

    def close(self) -> None:
        """Close the file; a chain that is not sealed stays visibly open (INV-7)."""
        os.close(self._fd)


_DISK_HINT = "free space for evidence; no effect is made that cannot be recorded"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _cut(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError:
        return  # the reader names a torn last line, so leaving it is safe


def read(data: bytes, verifier: Verifier) -> list[Link]:
    """The verified chain in `data`.

    Raises:
        BadRecordError: names the first line that is altered, dropped, reordered, repeated, added or cut off.
    """
    lines = data.split(b"\n")
    tail = lines.pop()
    if not lines:
        raise BadRecordError(Fault.TRUNCATED, 1, "opened", "the chain holds no complete record")
    if len(lines) > LINES_MAX:
        raise BadRecordError(Fault.ADDED, LINES_MAX + 1, "?", f"more than {LINES_MAX} records")
    links: list[Link] = []
    for index, raw in enumerate(lines):
        link = _read_line(raw, index, verifier)
        _check_place(link, index, links, lines)
        links.append(link)
    if tail:
        raise BadRecordError(Fault.TRUNCATED, len(lines) + 1, "?", "the last record is torn")
    _check_seal(links)
    return links


def _read_line(raw: bytes, index: int, verifier: Verifier) -> Link:
    line = index + 1
    try:
        envelope = canonical.parse(raw, source="line", bytes_max=2 * canonical.BYTES_MAX)
        if canonical.encode(envelope) != raw:
            raise RecordError("not in canonical form")
        payload, keyid = _open(envelope, verifier, line)
        entry = Entry.of(payload["predicate"], source="predicate")
        subjects = {item["name"]: "sha256:" + item["digest"]["sha256"] for item in payload["subject"]}
        if payload != dsse.statement(ENTRY_TYPE, entry.predicate(), subjects):
            raise RecordError("not a statement of evidence")
    except (RecordError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadRecordError(Fault.ALTERED, line, f"record {index}", str(exc)) from exc
    return Link(line, canonical.digest_bytes(raw), keyid, entry, subjects)


def _open(envelope: Any, verifier: Verifier, line: int) -> tuple[Any, str]:
    (signature,) = envelope["signatures"]
    keyid = str(signature["keyid"])
    for text in (signature["sig"], envelope["payload"]):
        if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
            raise RecordError("base64 is not in its one form")
    if set(signature) != {"keyid", "sig"}:
        raise RecordError("a signature has keyid and sig, nothing else")
    if not verifier.roles(keyid):
        raise BadRecordError(Fault.FOREIGN_KEY, line, f"record {line - 1}", f"key {keyid} is not trusted")
    return dsse.open_envelope(envelope, verifier)


def _check_place(link: Link, index: int, before: list[Link], lines: list[bytes]) -> None:
    what, seq = f"record {link.entry.seq}, {link.name}", link.entry.seq
    if before and before[-1].entry.kind == "sealed":
        raise BadRecordError(Fault.ADDED, link.line, what, "stands after the seal")
    if seq < index:
        raise BadRecordError(Fault.REPEATED, link.line, what, f"record {seq} stands at line {seq + 1} already")
    if seq > index:
        later = any(_peek_seq(raw) == index for raw in lines[index + 1 :])
        fault = Fault.REORDERED if later else Fault.DROPPED
        why = f"record {index} stands further down" if later else f"record {index} is missing before it"
        raise BadRecordError(fault, link.line, what, why)
    expected = before[-1].digest if before else GENESIS
    if link.entry.prev != expected:
        raise BadRecordError(Fault.ALTERED, link.line, what, "does not follow from the record before it")
    if (link.entry.kind == "opened") != (index == 0):
        raise BadRecordError(Fault.ADDED, link.line, what, "`opened` is the first record and only that")
    if before and link.keyid != before[0].keyid:
        raise BadRecordError(Fault.FOREIGN_KEY, link.line, what, "signed by another key than the chain's first record")


def _peek_seq(raw: bytes) -> int | None:
    """The sequence number a line claims, for naming a fault only."""
    try:
        payload = canonical.parse(base64.b64decode(canonical.parse(raw)["payload"]))
        seq = payload["predicate"]["seq"]
    except (RecordError, KeyError, TypeError, ValueError):
        return None
    return seq if isinstance(seq, int) else None


def _check_seal(links: list[Link]) -> None:
    last = links[-1]
    what = f"record {last.entry.seq}, {last.name}"
    if last.entry.kind != "sealed":
        why = "the chain ends here without a seal: it is still being written, or its end was removed"
        raise BadRecordError(Fault.UNSEALED, last.line, what, why)
    if last.entry.content != {"count": len(links) - 1, "head": last.entry.prev}:
        raise BadRecordError(Fault.CONTRADICTION, last.line, what, "the seal does not name what stands before it")
