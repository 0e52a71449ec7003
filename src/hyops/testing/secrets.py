"""An authority and a cache in memory, for the tests of what stands between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from hyops.model.secret import Secret
from hyops.ports.authority import Answer, Fetched, Refused, Trouble


class MemoryAuthority:
    """Answers from `values` and `troubles`; what is in neither is missing. `asked` counts reads."""

    name = "vault"
    place = "https://vault.example"

    def __init__(self, **values: str) -> None:
        self.values = dict(values)
        self.troubles: dict[str, Trouble] = {}
        self.left_out: set[str] = set()
        self.before_answer: Callable[[], None] = lambda: None
        self.asked = 0

    async def read(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """See the port."""
        self.asked += 1
        taken = {ref: self._one(ref) for ref in refs if ref not in self.left_out}
        self.before_answer()
        return taken

    def _one(self, ref: str) -> Answer:
        if ref in self.troubles:
            return Refused(self.troubles[ref], "made up")
        if ref in self.values:
            return Fetched(Secret(self.values[ref]), "1")
        return Refused(Trouble.MISSING, "it has no such secret")


class MemorySecretCache:
    """`SecretCache` that counts its writes."""

    source = "memory cache"

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.writes = data, 0
        self._lock = threading.RLock()

    def read(self) -> bytes:
        """See the port."""
        return self.data

    def update(self, change: Callable[[bytes], bytes]) -> None:
        """See the port."""
        with self._lock:
            after = change(self.data)
            if after != self.data:
                self.data, self.writes = after, self.writes + 1
