"""All of hyops on all hosts of a lab: `Lab.up(wire=everything.wire)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyops_lab.wiring import bastion, control, database, runner, service, vantage
from hyops_lab.wiring.keys import KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab


def keyring(lab: Lab) -> KeyRing:
    """The keys of a lab, made when they are not there yet."""
    keys = KeyRing(lab.names.state / "ring")
    keys.make()
    return keys


def export_public_keys(lab: Lab, folder: Path) -> None:
    """Copy what a stranger needs to verify this lab's evidence; nothing secret is among it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("trusted_keys.json", "allowed_signers", "approvers.json"):
        (folder / name).write_bytes((keyring(lab).folder / name).read_bytes())


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
        bastion.wire(lab, keys)
        control.wire(lab, keys, receipts)

    return wire
