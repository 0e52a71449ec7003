"""asyncinotify without its search for the C library, which the process has already."""

from __future__ import annotations

from hyops.adapters.unsearched import unsearched

with unsearched():
    from asyncinotify import Inotify, Mask

__all__ = ["Inotify", "Mask"]
