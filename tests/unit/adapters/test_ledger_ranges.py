"""What the client's host prints of its ledger: complete lines only, and an error where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.adapters.ledger import read_ranges
from hyops_lab.guest import ledger_ranges


def printed(path: Path) -> subprocess.CompletedProcess[str]:
    """Run it as the forced command does."""
    argv = [sys.executable, "-IS", ledger_ranges.__file__, str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def line(row_id: int) -> str:
    """As the client writes it."""
    return f"{row_id} 123456 1700000000000000000 10.77.1.10\n"


@pytest.mark.req("EVD-1")
@given(st.lists(st.integers(min_value=0, max_value=200), unique=True))
def test_every_id_is_in_exactly_one_range(row_ids: list[int]) -> None:
    """Folding loses and invents nothing, and hyops accepts what comes out."""
    found = ledger_ranges.ranges(row_ids)

    assert [n for first, last in found for n in range(first, last + 1)] == sorted(row_ids)
    assert read_ranges(json.dumps({"ranges": found}).encode(), source="l") == [tuple(pair) for pair in found]


def test_a_torn_last_line_was_acknowledged_to_nobody(tmp_path: Path) -> None:
    """The client died in the middle of a line: the lines before it count, with a refused id left out."""
    path = tmp_path / "ledger"
    path.write_text(line(1) + line(2) + line(4) + "5 1234")

    assert json.loads(printed(path).stdout) == {"ranges": [[1, 2], [4, 4]]}


def test_an_empty_ledger_is_an_answer(tmp_path: Path) -> None:
    """The client has started and nothing was acknowledged yet."""
    path = tmp_path / "ledger"
    path.touch()

    assert (printed(path).returncode, json.loads(printed(path).stdout)) == (0, {"ranges": []})


@pytest.mark.req("INV-5")
@pytest.mark.parametrize(
    "content",
    [None, "\n", "one 2 3 10.0.0.1\n", line(1) + line(1), line(1) + "12\n" + line(3), "-1 2 3 h\n", "\0" * 64 + "\n"],
    ids=["absent", "blank", "words", "twice", "half", "negative", "zeros"],
)
def test_what_is_no_ledger_is_an_error_and_never_nothing_lost(tmp_path: Path, content: str | None) -> None:
    """A wrong path or a damaged file must not read as "nothing was acknowledged": exit 1, no output."""
    path = tmp_path / "ledger"
    if content is not None:
        path.write_text(content)

    done = printed(path)

    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in done.stderr
