"""Standing runners: one user, one way in for dispatch, jobs as units, and the few secrets that their drivers need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyops.services import runner_files
from hyops_lab import power
from hyops_lab.hosts import HOSTS
from hyops_lab.roles import client, dns, postgres
from hyops_lab.wiring import bastion, common, service
from hyops_lab.wiring.keys import RUNNERS, KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

CONFIG = runner_files.CONFIG
ROOT = "/var/lib/hyops/runner"
POWER_HEAD_START_S = service.LEASE_TTL_S + service.LEASE_MARGIN_S + 0.75  # where a lease will do, no power is cut
LEDGER_SCRIPT = "/usr/local/lib/hyops-lab/ledger_ranges.py"


def wire(lab: Lab, keys: KeyRing) -> None:
    """Prepare both runners, and the ledger's way in on the client."""
    for host in RUNNERS:
        common.add_users(lab, host, [common.HYOPS])
        lab.write(host, CONFIG, json.dumps(config(host), indent=2).encode())
        _secrets(lab, keys, host)
        lab.write(host, "/etc/hyops/trusted_keys.json", keys.trusted)
        lab.write(host, "/etc/hyops/allowed_signers", keys.allowed_signers)
        lab.write(host, "/etc/hyops/approvers.json", keys.approvers)
        lab.write(host, "/etc/hyops/known_hosts", common.known_hosts(lab, *postgres.SERVERS, client.HOST))
        for path, (text, mode) in runner_files.system(ROOT).items():
            lab.write(host, path, text.encode(), mode)
        common.entrance(lab, host, common.HYOPS, keys.public("dispatcher"), runner_files.SERVE)
        lab.enable(host, runner_files.RESUME_UNIT)
    _ledger(lab, keys)


def config(host: str) -> dict[str, Any]:
    """`/etc/hyops/runner.json` of one runner."""
    login = {"user": "hyops", "key_file": "/etc/hyops/target_key", "known_hosts": "/etc/hyops/known_hosts"}
    return {
        "runner_ref": host,
        "site": HOSTS[host].site,
        "root": ROOT,
        "signing_key": "/etc/hyops/runner.pem",
        "trusted_keys": "/etc/hyops/trusted_keys.json",
        "allowed_signers": "/etc/hyops/allowed_signers",
        "approvers": "/etc/hyops/approvers.json",
        "launcher": "systemd",
        "host_sites": {name: HOSTS[name].site for name in postgres.SERVERS},
        "approval": {"mode": "signed", "required": 1, "allow_standing": True},
        "options": {
            "targets": login,
            "tsig": [{"name": dns.KEY_NAME, "algorithm": dns.KEY_ALGORITHM, "secret_file": "/etc/hyops/tsig"}],
            "database": {"dbname": "app", "user": "hyops", "passfile": "/etc/hyops/pgpass"},
            "ledger": {"host": client.HOST, "address": HOSTS[client.HOST].address, "login": login},
            "access": bastion.access(),
            "power": {"url": power.URL, "token_file": "/etc/hyops/power", "head_start_s": POWER_HEAD_START_S},
        },
    }


def _secrets(lab: Lab, keys: KeyRing, host: str) -> None:
    for path, content in {
        "runner.pem": keys.private(host),
        "target_key": keys.private(f"{host}-target"),
        "tsig": lab.secret("tsig").encode(),
        "power": lab.secret("power").encode(),
        "pgpass": f"*:*:*:hyops:{lab.secret('hyops')}\n".encode(),
    }.items():
        lab.write(host, f"/etc/hyops/{path}", content, 0o600, "hyops")


def _ledger(lab: Lab, keys: KeyRing) -> None:
    """The runners may read the ledger on the client, and do nothing else there."""
    common.add_users(lab, client.HOST, [common.HYOPS])
    script = Path(__file__).parents[1] / "guest" / "ledger_ranges.py"
    lab.write(client.HOST, LEDGER_SCRIPT, script.read_bytes(), 0o755)
    for runner in RUNNERS:
        command = f"/usr/bin/python3 -IS {LEDGER_SCRIPT} {client.FOLDER}/ledger"
        common.entrance(lab, client.HOST, common.HYOPS, keys.public(f"{runner}-target"), command)
