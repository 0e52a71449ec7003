"""Loading a package that looks for shared libraries, without the search: for each one Python runs ldconfig, and where
that does not know it, gcc and ld. Ten processes for a connection, or whatever those names lead to in the caller's PATH.
"""

from __future__ import annotations

import contextlib
import ctypes.util
from collections.abc import Iterator


@contextlib.contextmanager
def unsearched() -> Iterator[None]:
    """Within, no library is found by its name. What the process is linked with anyway is there as ever."""
    search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None
    try:
        yield
    finally:
        ctypes.util.find_library = search
