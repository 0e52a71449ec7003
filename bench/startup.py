"""Start-up of the command line against bare Python."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.measure import Row, Table, command, interleaved


def run(table: Table, count: int) -> None:
    """`hyops --version` and `--help` against `python -c pass` of the same interpreter."""
    hyops = str(Path(sys.executable).with_name("hyops"))
    python = command(sys.executable, "-c", "pass")
    bare, version, help_ = interleaved(count, python, command(hyops, "--version"), command(hyops, "--help"))
    ratio = version.p50 / bare.p50
    table.add(
        Row(
            "`hyops --version`",
            version,
            baseline=bare,
            baseline_name="`python -c pass`",
            goal="<= 4x",
            reached=ratio <= 4,
            incumbent="0.489 s, 22x",
        )
    )
    table.add(Row("`hyops --help`", help_, baseline=bare, baseline_name="`python -c pass`", incumbent="0.484 s"))
