"""DNS authorities as the switch needs them (DNS-1, DNS-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hyops.model.policy import Endpoint


@dataclass(frozen=True)
class EndpointRecord:
    """What one authority answers: the addresses and the generation stored beside them."""

    authority: str
    addresses: tuple[str, ...]
    generation: int | None
    ttl_s: int | None


class DnsAuthority(Protocol):
    """RFC 2136 with TSIG; a stale writer is refused by the server itself."""

    async def ask(self, endpoint: Endpoint, authority: str) -> EndpointRecord:
        """What this authority answers now; raises TargetError when it does not answer."""

    async def switch(self, endpoint: Endpoint, *, address: str, expected: int, generation: int) -> None:
        """Point the endpoint at `address` and raise its generation, if and only if it is `expected`.

        Raises:
            StaleGenerationError: the prerequisite failed; nothing was changed.
            TargetError: refused for another reason. DeadlineError: no answer, effect unknown.
        """
