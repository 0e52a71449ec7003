"""What a bundle's manifest may say: plain relative names, so many files, so many bytes (RUN-1, RUN-4).

The side that computes a bundle and the runner that lays it out hold the same rules. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hyops.errors import UnsafePlanError

FILES_MAX = 10_000
NAME_MAX = 1024
DEPTH_MAX = 32
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}")


def check_names(names: Iterable[str]) -> None:
    """Return when every name can be laid out below one folder, in subfolders too, and none covers another.

    Raises:
        UnsafePlanError: names the first that cannot, or says how many there are.
    """
    known = set(names)
    if len(known) > FILES_MAX:
        raise UnsafePlanError(f"a bundle of {len(known)} files is over {FILES_MAX}", hint="name fewer, or archive them")
    for name in sorted(known):
        parts = name.split("/")
        if len(name) > NAME_MAX or len(parts) > DEPTH_MAX or not all(_PART.fullmatch(part) for part in parts):
            raise UnsafePlanError(f"bundle file {name[:200]!r}: not a plain relative name")
        for depth in range(1, len(parts)):
            if (above := "/".join(parts[:depth])) in known:
                raise UnsafePlanError(f"bundle file {name!r} lies below {above!r}, which is a file of the bundle too")
