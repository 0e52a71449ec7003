"""All of hyops on all hosts of a lab: `Lab.up(wire=everything.wire)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hyops_lab.wiring import control, database, runner, service, vantage
from hyops_lab.wiring.keys import KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab


def keyring(lab: Lab) -> KeyRing:
    """The keys of a lab, made when they are not there yet."""
    keys = KeyRing(lab.names.state / "ring")
    keys.make()
    return keys


def wire(lab: Lab) -> None:
    """Prepare every host."""
    accepting(service.RECEIPTS)(lab)


def accepting(receipts: Sequence[str]) -> Callable[[Lab], None]:
    """`wire` for a service whose policy takes these classes of fence receipts."""

    def wire(lab: Lab) -> None:
        keys = keyring(lab)
        database.wire(lab, keys, receipts)
        vantage.wire(lab, keys)
        runner.wire(lab, keys)
        control.wire(lab, keys, receipts)

    return wire
