"""asyncssh without its search for liboqs and nettle: they bring post-quantum key exchanges of their own and UMAC, and
what a connection of ours may be made of stands in `model.ssh_algorithms`, which has neither.
"""

from __future__ import annotations

from hyops.adapters.unsearched import unsearched

with unsearched():
    import asyncssh

__all__ = ["asyncssh"]
