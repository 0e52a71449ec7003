"""Three control hosts over etcd: a lab that is up gets all four stages on each of them, and its records move there.

`wire` does what the how-to "Several control hosts over etcd" says, in its order. A lab is made of one control host
again by building it anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hyops_lab.wiring import common, control, loop_etcd
from hyops_lab.wiring.keys import KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

HOSTS = ["control", "witness", "cloud-runner"]
"""One on each site but on-prem, so that the loss of any one site leaves two; the first has the records before."""
STAGE_UNITS = [f"{unit}.service" for unit in control.UNITS.values()]


def wire(lab: Lab, keys: KeyRing) -> None:
    """Put the records of a lab that is up on etcd, and run the four stages on all of `HOSTS`."""
    first, *others = HOSTS
    for host in others:
        common.add_users(lab, host, list(common.STAGE_USERS.values()))
    loop_etcd.start(lab, HOSTS)
    loop_etcd.make_users(lab, HOSTS, first)
    lab.exec(first, ["systemctl", "stop", *STAGE_UNITS])
    lab.exec(first, ["hyops", "control", "migrate", "--config", loop_etcd.PERSON, "--from", "files", "--to", "etcd"])
    for host in HOSTS:
        control.write(lab, keys, host=host, store=lambda stage: loop_etcd.store(HOSTS, stage))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: _serve(lab, host), HOSTS))


def _serve(lab: Lab, host: str) -> None:
    lab.exec(host, ["systemd-tmpfiles", "--create", control.TMPFILES])
    lab.exec(host, ["systemctl", "enable", "--now", *STAGE_UNITS])
