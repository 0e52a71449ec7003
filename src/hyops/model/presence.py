"""What a security key (FIDO) says of the person in front of it (APR-1).

It signs that itself, together with the bytes: whether it was touched, and whether it asked for its PIN or a
fingerprint. Any other key says nothing of the kind, so nothing is known of who was there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Presence:
    """Of one signature. `counter`: how often the key signed; some leave it at 0, so nothing is concluded from it."""

    touched: bool
    verified: bool
    counter: int = 0


def unseen(presence: Presence | None, *, touch: bool, pin: bool) -> str | None:
    """Why a signature does not show the person that a policy wants to see; None when it does, or none is wanted."""
    if not (touch or pin):
        return None
    if presence is None:
        return "it was not signed with a security key, which the policy requires"
    if touch and not presence.touched:
        return "its security key was not touched for it, which the policy requires"
    if pin and not presence.verified:
        return "its security key did not ask for the PIN, which the policy requires"
    return None
