"""The application's stand-in: writes through the DNS name and keeps a ledger of what was acknowledged.

Two units, both started on demand: one that follows DNS, and one that keeps its connection to the first address that
it was told and ignores DNS (an application with a pool and no TTL).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hyops_lab.hosts import ENDPOINT, HOSTS

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

HOST = "client"
UNIT, OLD_UNIT = "hyops-lab-client.service", "hyops-lab-client-old.service"
FOLDER, OLD_FOLDER = "/var/lib/hyops-client", "/var/lib/hyops-client-old"
SCRIPT = "/usr/local/lib/hyops-lab/client.py"
INTERVAL_S = 0.005
OLD_FIRST_ID = 1_000_000_000_000  # the two clients never write the same id

SERVICE = """[Unit]
Description=Writes one row at a time and records what was acknowledged

[Service]
Environment=PYTHONPATH=/opt/hyops/site
ExecStart=/usr/bin/python3 -S {script} {config}
"""


def prepare(lab: Lab, host: str) -> None:
    """Write the script, and a configuration and a unit per mode."""
    lab.write(host, SCRIPT, Path(__file__).parents[1].joinpath("guest", "client.py").read_bytes())
    common = {
        "endpoint": ENDPOINT,
        "nameserver": HOSTS["dns"].address,
        "password": lab.secret("app"),
        "interval_s": INTERVAL_S,
    }
    for unit, folder, address, first_id in (
        (UNIT, FOLDER, None, 1),
        (OLD_UNIT, OLD_FOLDER, HOSTS["onprem-db"].address, OLD_FIRST_ID),
    ):
        config = f"/etc/hyops-lab/{unit.removesuffix('.service')}.json"
        content = {**common, "folder": folder, "address": address, "first_id": first_id}
        lab.write(host, config, json.dumps(content).encode(), 0o600)
        lab.write(host, f"/etc/systemd/system/{unit}", SERVICE.format(script=SCRIPT, config=config).encode())


def ready(lab: Lab) -> None:
    """Nothing to wait for: the clients start on demand."""
