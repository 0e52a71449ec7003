"""Vantage points: one user, one way in, and all it gets is the stream of what this host observes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyops_lab.wiring import common, service
from hyops_lab.wiring.keys import KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

PASSWORD_FILE = "/etc/hyops/probe-password"


def wire(lab: Lab, keys: KeyRing) -> None:
    """Prepare every vantage point."""
    for host in service.VANTAGES:
        common.add_users(lab, host, [common.PROBER])
        lab.write(host, PASSWORD_FILE, lab.secret("hyops").encode(), 0o600, "hyops-probe")
        command = f"/usr/bin/hyops probe stream --vantage {host} --password-file {PASSWORD_FILE}"
        common.entrance(lab, host, common.PROBER, keys.public("prober"), command)
