"""Whether a switch can prove what it must before it promotes, and whether there is one at all (INV-2, FEN-1, DEC-4)."""

from __future__ import annotations

from collections.abc import Iterator

from hyops.control.proof.rules import Finding
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import DrMode, ReceiptClass

OF_A_LOST_SITE = {ReceiptClass.LEASE_EXPIRED, ReceiptClass.POWERED_OFF}


def fences(policy: ServicePolicy) -> Iterator[Finding]:
    """Whether some accepted receipt can be had of a site that answers nothing, whether the way back is people's, and
    whether anything may be done at all."""
    if not obtainable(policy):
        accepted = ", ".join(policy.receipts)
        text = f"receipts {accepted}: none of them can be had of a host that does not answer"
        yield Finding("fence/unobtainable", ("receipts",), text, {policy.preferred: "lost with its site"})
    if policy.dr_mode is DrMode.DENY:
        text = f"dr_mode is {policy.dr_mode}: every switch of {policy.service} is decided, and then denied"
        yield Finding("mode/deny", ("dr_mode",), text, {policy.preferred: "lost"})
    option = policy.options.get("failback")
    if option is not None and option != "never":
        text = f"options.failback is {option!r}; only `never` means anything"
        yield Finding("failback/option", ("options", "failback"), text, {"mode": "away, both members stable"})


def obtainable(policy: ServicePolicy) -> set[ReceiptClass]:
    """The classes that the policy accepts and that a lost site can still give."""
    found = OF_A_LOST_SITE & set(policy.receipts)
    if policy.lease.on_loss == "stay" or not policy.lease.endpoints:
        found.discard(ReceiptClass.LEASE_EXPIRED)
    return found
