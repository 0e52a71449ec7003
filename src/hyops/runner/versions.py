"""What a runner does with a peer, or with a run, of another hyops version (RUN-11).

A request that makes something names the protocol that was agreed on; a server that was upgraded since then refuses
one that it does not speak. A run goes on with the code that its job was started with; another version takes it over
only if it knows the journal's format, and leaves it untouched otherwise. Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyops._version import __version__
from hyops.errors import PrerequisiteError, UsageError
from hyops.model import protocol
from hyops.runner.folders import read_file

MAKING = frozenset({"order", "offer", "ship", "start", "resume", "gc"})
JOURNAL_FORMAT = 1  # raise it when an older hyops would misread what is written
JOURNAL_FORMATS = frozenset({JOURNAL_FORMAT})
LINE_MAX = 1024 * 1024


def hello() -> dict[str, Any]:
    """This side's part of the greeting."""
    mine = protocol.ours("", __version__)
    return {
        "hyops_version": mine.hyops_version,
        "protocol_min": mine.protocol_min,
        "protocol_max": mine.protocol_max,
    }


def refuse_protocol(header: dict[str, Any], runner_ref: str) -> None:
    """Return when the request is in a protocol of ours; one that names none is in the first.

    Raises:
        ProtocolError: it makes something, in a protocol that this runner does not speak. UsageError: no number.
    """
    number = header.get("protocol", 1)
    if type(number) is not int or not 0 < number < protocol.NUMBER_MAX:
        raise UsageError(f"protocol {str(number)[:60]!r}: a number is needed")
    if header.get("verb") in MAKING:
        peer = protocol.Speaker("the dispatcher", str(header.get("hyops_version", "of before"))[:64], number, number)
        protocol.agreed(protocol.ours(runner_ref, __version__), peer)


def refuse_journal(folder: Path) -> None:
    """Return when this hyops may write on in the journal of a run, or there is none. It only reads.

    Raises:
        PrerequisiteError: the run was begun in a format that this version does not know.
    """
    try:
        line, newline, _ = read_file(folder / "journal.jsonl", LINE_MAX).partition(b"\n")
        body = json.loads(line)["body"] if newline else {}
        known = body.get("journal_format", 1)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # none, or damaged: whoever opens it as a journal says which line
    if type(known) is int and known in JOURNAL_FORMATS:
        return
    began, ours = str(body.get("hyops_version", "unknown"))[:64], ", ".join(map(str, sorted(JOURNAL_FORMATS)))
    raise PrerequisiteError(
        f"run {folder.name} was begun by hyops {began} with a journal of format {str(known)[:20]}; hyops "
        f"{__version__} on this runner knows {ours}, and leaves the run as it is",
        hint=f"install hyops {began}, or a later one that knows that format, on the runner, then resume the run",
    )
