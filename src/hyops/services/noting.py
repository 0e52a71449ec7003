"""What a stage writes of records that it does not act on: nothing else waits until that can be written (LOOP-1).

A refusal that closes a request or an execution is part of what is done with it, and is none of these.
"""

from __future__ import annotations

from collections.abc import Callable

from hyops.errors import HyopsError, StoreLostError, foreign, of_this_host


class Notes:
    """The notes of one pass. What kept one from being written is one more thing that the pass leaves open.

    After this host refused one (no room, another's folder) the others of the pass are not tried: each may wait for a
    lock, and they may be thousands. The next pass tries them again.
    """

    def __init__(self, left: list[HyopsError]) -> None:
        """`left`: what the pass leaves open; it grows."""
        self._left, self._refused = left, False

    def write(self, note: Callable[[], object]) -> None:
        """Write one now, or leave it.

        Raises:
            StoreLostError: no record can be written at all now.
        """
        if self._refused:
            return
        try:
            with foreign():
                note()
        except StoreLostError:
            raise
        except HyopsError as exc:
            self._left.append(exc)
            self._refused = of_this_host(exc)
