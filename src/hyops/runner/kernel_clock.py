"""Whether the time service of this host keeps its clock, as the kernel was told last. Standard library only.

Whoever keeps the clock (chrony, timesyncd, ntpd) says so to the kernel; it forgets within hours when nobody does.
"""

from __future__ import annotations

TIMEX_BYTES = 512  # `struct timex` is smaller on every Linux; all zero, it only asks
TIME_ERROR = 5  # <sys/timex.h>: not synchronised


def synced() -> bool | None:
    """Whether it is synchronised; None where the kernel does not tell."""
    import ctypes

    try:
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))
    except (OSError, AttributeError):
        return None
    return state != TIME_ERROR if state >= 0 else None
