"""The baseline of the switch: a shell script with the same effects and no orchestration, in the same kind of lab.

No decision, approval, runner, receipt, journal or evidence; it even knows beforehand which site will die. What hyops
adds to it is the price of being provably safe.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.measure import Series, series
from hyops_lab import Lab, LabError, ledger
from hyops_lab.hosts import ENDPOINT, HOSTS, ZONE
from hyops_lab.roles import dns, etcd, postgres

SCRIPT = Path(__file__).with_name("bare_switch.sh")
RUNNER = "cloud-runner"


def wire(lab: Lab, ttl_s: float) -> None:
    """The script, its SSH key, and a lease that lives as long as the primary's host; etcd counts whole seconds."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "bare"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        lab.write(RUNNER, "/root/.ssh/bare", key.read_bytes(), 0o600)
        allowed = key.with_suffix(".pub").read_bytes()
        lab.write(postgres.STANDBY, "/var/lib/postgresql/.ssh/authorized_keys", allowed, 0o600, "postgres")
    known = "".join(f"{HOSTS[h].address} {lab.host_key(h)}\n" for h in postgres.SERVERS)
    lab.write(RUNNER, "/root/.ssh/known_hosts", known.encode(), 0o600)
    lab.write(RUNNER, "/usr/local/bin/bare_switch", SCRIPT.read_bytes(), 0o755)
    endpoints = ",".join(map(etcd.client_url, etcd.MEMBERS))
    holder = (
        "#!/bin/sh\nset -e\nexport ETCDCTL_API=3\n"
        f"lease=$(etcdctl --endpoints={endpoints} lease grant {math.ceil(ttl_s)} | cut -d' ' -f2)\n"
        f'etcdctl --endpoints={endpoints} put --lease="$lease" /bare/holder onprem-db\n'
        f'exec etcdctl --endpoints={endpoints} lease keep-alive "$lease"\n'
    )
    lab.write(postgres.PRIMARY, "/usr/local/bin/bare_holder", holder.encode(), 0o755)


def site_loss(lab_id: str, count: int, ttl_s: float, margin_s: float) -> Series:
    """Seconds from the site's death to the first acknowledged write at the other site, `count` times."""
    found: list[float] = []
    for _ in range(count):
        lab = Lab(lab_id)
        try:
            lab.up(("etcd", "postgres", "dns", "client"), wire=lambda made: wire(made, ttl_s))
            found.append(_trial(lab, ttl_s, margin_s))
        finally:
            lab.down()
    return series(found)


def _trial(lab: Lab, ttl_s: float, margin_s: float) -> float:
    old, new = HOSTS[postgres.PRIMARY].address, HOSTS[postgres.STANDBY].address
    lab.popen(postgres.PRIMARY, ["/usr/local/bin/bare_holder"], stdout=subprocess.DEVNULL)
    ledger.start(lab)
    facts = {
        "OLD": old, "NEW": new, "ETCD": ",".join(map(etcd.client_url, etcd.MEMBERS)), "TTL": str(ttl_s),
        "MARGIN": str(margin_s), "DNS": HOSTS[dns.SERVER].address, "ZONE": ZONE, "NAME": ENDPOINT,
        "KEY_NAME": dns.KEY_NAME, "KEY": lab.secret("tsig"),
    }  # fmt: skip
    script = lab.popen(RUNNER, ["env", *(f"{k}={v}" for k, v in facts.items()), "/usr/local/bin/bare_switch"])
    ledger.wait_ack(lab, time.monotonic_ns() + 1_000_000_000)  # the script has looked at a healthy primary
    held = ["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={facts['ETCD']}", "get", "/bare/holder"]
    if not lab.exec(RUNNER, held).stdout:
        raise LabError("the primary of the baseline holds no lease, so nothing would wait for its end")
    killed_ns = time.monotonic_ns()
    lab.kill_site("onprem")
    try:
        entry = ledger.wait_ack(lab, killed_ns, new)
    finally:
        script.kill()
        script.wait()
    return (entry.at_ns - killed_ns) / 1e9


if __name__ == "__main__":
    print(site_loss(os.environ.get("HYOPS_LAB_ID", "bare"), 3, 2, 0.25))
