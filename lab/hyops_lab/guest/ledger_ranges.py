"""Print the client's acknowledged ids as inclusive ranges: `{"ranges": [[first, last], ...]}`. Standard library only.

Only complete lines count: an id whose line is torn was never reported as acknowledged to anyone. A ledger that is not
there, or has a line that the client does not write, is an error: an empty answer would read as "nothing was lost".
"""

import json
import re
import sys
from collections.abc import Iterable

LINE = re.compile(rb"([0-9]{1,18}) [0-9]+ [0-9]+ \S+( \S+)?\n")


def ids(lines: Iterable[bytes]) -> "list[int]":
    """The id of every complete line; raises ValueError for a complete line that is not of a ledger."""
    found = []
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        if match:
            found.append(int(match[1]))
        elif line.endswith(b"\n"):
            raise ValueError(f"line {number} is not of a ledger")
    return found


def ranges(row_ids: Iterable[int]) -> "list[list[int]]":
    """Fold ids into ranges; two client runs may interleave, but an id is never used twice."""
    found: list[list[int]] = []
    for row_id in sorted(row_ids):
        if found and found[-1][1] >= row_id:
            raise ValueError(f"id {row_id} stands twice")
        if found and found[-1][1] + 1 == row_id:
            found[-1][1] = row_id
        else:
            found.append([row_id, row_id])
    return found


def main() -> int:
    """Print the ranges, or say what is wrong and return 1."""
    try:
        with open(sys.argv[1], "rb") as ledger:
            found = ranges(ids(ledger))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{sys.argv[1]}: {error}\n")
        return 1
    sys.stdout.write(json.dumps({"ranges": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
