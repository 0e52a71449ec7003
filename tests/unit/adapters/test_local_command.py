"""A command of this host, and what is kept of its output: however it is cut, no secret stands in the log (SEC-2)."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from hyops.adapters.local_command import READ_MAX, run
from hyops.engine.redact import Redactor
from hyops.errors import DeadlineError, PrerequisiteError, TargetError
from hyops.services.deploy_record import DeployRecord

SECRET = "Sup3rS3cret-Välue42"
IN_HALVES = """
import os, sys
secret = os.environ["HALVES"].encode()
os.write(1, b"token is " + secret[: int(sys.argv[2])])
open(sys.argv[1], "rb", buffering=0).read(1)  # returns once the first half was read
os.write(1, secret[int(sys.argv[2]) :] + b" and more\\nnext line\\n")
"""


def recorded(folder: Path) -> DeployRecord:
    """A record that guards the secret."""
    record = DeployRecord(folder, "decision-1")
    record.begin({})
    record.redactor = Redactor({"K": SECRET})
    return record


def log_of(record: DeployRecord) -> str:
    """What a person reads."""
    return (record.folder / "runner.log").read_text()


@pytest.mark.req("SEC-2", "INV-10", "RUN-7")
@pytest.mark.fault(21)
@pytest.mark.parametrize("first", [1, 9, len(b"Sup3rS3cret-V") + 1])
def test_a_secret_that_two_reads_share_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """The command pauses in the middle of it, once within a character: neither half is in the log."""
    record, half = recorded(tmp_path), tmp_path / "half"
    os.mkfifo(half)
    go_on = os.open(half, os.O_RDWR)
    monkeypatch.setenv("HALVES", SECRET)
    reads: list[bytes] = []

    async def body() -> None:
        with record.output() as write:

            def hear(data: bytes) -> None:
                reads.append(data)
                write(data)
                if len(reads) == 1:
                    os.write(go_on, b".")

            await run([sys.executable, "-c", IN_HALVES, str(half), str(first)], hear)

    asyncio.run(body())
    os.close(go_on)

    assert len(reads) >= 2
    assert log_of(record) == "token is *** and more\nnext line\n"


@pytest.mark.req("SEC-2", "RUN-7")
def test_a_secret_in_a_line_without_an_end_is_masked(tmp_path: Path) -> None:
    """Where one read ends is nobody's choice, and no limit of a line cuts it."""
    record = recorded(tmp_path)
    program = "import sys; s = bytes.fromhex(sys.argv[1])\nfor n in range(40): sys.stdout.buffer.write(b'.' * 5003 + s)"

    async def body() -> None:
        with record.output() as write:
            await run([sys.executable, "-c", program, SECRET.encode().hex()], write)

    asyncio.run(body())

    log = log_of(record)
    assert len(log) > READ_MAX
    assert log.count("***") == 40
    assert SECRET[:6] not in log
    assert SECRET[-6:] not in log


@pytest.mark.req("RUN-7", "SEC-2")
def test_what_the_last_line_is_is_kept_when_a_command_fails(tmp_path: Path) -> None:
    """What may become a secret is held back to the end, and then written; the next line of the log begins anew."""
    record = recorded(tmp_path)

    async def body() -> None:
        with record.output() as write:
            await run(["sh", "-c", f"printf 'broken: {SECRET[:6]}'; exit 3"], write)

    with pytest.raises(TargetError, match="ended with 3"):
        asyncio.run(body())
    record.line("afterwards")

    assert log_of(record) == f"broken: {SECRET[:6]}\nafterwards\n"


@pytest.mark.req("RUN-7")
def test_what_is_no_text_is_shown_as_such(tmp_path: Path) -> None:
    """A byte that is no character becomes the sign for it; the log stays readable."""
    record = recorded(tmp_path)

    async def body() -> None:
        with record.output() as write:
            await run(["printf", r"a\377b\n"], write)

    asyncio.run(body())

    assert log_of(record) == "a\N{REPLACEMENT CHARACTER}b\n"


@pytest.mark.req("RUN-2")
def test_a_command_that_cannot_be_started_or_never_ends(tmp_path: Path) -> None:
    """Each is an error of its own; what hangs is ended."""
    heard: list[bytes] = []
    with pytest.raises(PrerequisiteError, match="No such file"):
        asyncio.run(run([str(tmp_path / "nobody")], heard.append))
    with pytest.raises(DeadlineError, match="longer than"):
        asyncio.run(run(["sleep", "600"], heard.append, limit_s=0.05))

    assert heard == []
