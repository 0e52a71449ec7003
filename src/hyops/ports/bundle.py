"""The files of a bundle as the dispatching side has them: known by digest and size, read only when they are shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class BundleFile:
    """One file. `open` gives its bytes from the start each time; they may have changed since the digest was taken."""

    digest: str
    size_bytes: int
    open: Callable[[], BinaryIO]
