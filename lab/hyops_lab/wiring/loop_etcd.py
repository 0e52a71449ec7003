"""The loop's own etcd: a member on each control host, mutual TLS everywhere, and one user of etcd's for each stage.

It is another cluster than the database's quorum, on other ports: either may be lost without the other.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hyops_lab.hosts import HOSTS
from hyops_lab.waiting import PATIENCE_S, until
from hyops_lab.wiring import common, service
from hyops_lab.wiring.tls import Authority

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

ENV = service.ENV
CLIENT_PORT, PEER_PORT = 2479, 2480
UNIT = "hyops-loop-etcd.service"
FOLDER = "/etc/hyops/etcd"
SETTINGS = "/etc/default/hyops-loop-etcd"
CA, CERTIFICATE, KEY, MEMBER_KEY = (f"{FOLDER}/{name}" for name in ("ca.pem", "host.pem", "host.key", "member.key"))
ROOT_PASSWORD, PASSWORDS = f"{FOLDER}/root.password", f"{FOLDER}/passwords"
ADMIN, PERSON = f"{FOLDER}/root.json", "/etc/hyops/control.json"
Json = dict[str, Any]


def url(host: str) -> str:
    """Where clients reach the member on `host`."""
    return f"https://{HOSTS[host].address}:{CLIENT_PORT}"


def start(lab: Lab, hosts: Iterable[str]) -> None:
    """A cluster with a member on each of these hosts, which run; it takes writes when this returns."""
    members, authority = list(hosts), Authority("the loop's etcd")
    for host in members:
        identity = authority.issue(HOSTS[host].address)
        lab.write(host, CA, authority.certificate)
        lab.write(host, CERTIFICATE, identity.certificate)
        lab.write(host, MEMBER_KEY, identity.key, 0o600, "etcd")
        lab.write(host, KEY, identity.key, 0o640, "root:hyops-loop")
        text = "".join(f'ETCD_{key}="{value}"\n' for key, value in _settings(lab, host, members).items())
        lab.write(host, SETTINGS, text.encode())
        lab.write(host, f"/etc/systemd/system/{UNIT}", _UNIT)
        lab.exec(host, ["systemctl", "enable", UNIT])
        lab.exec(host, ["systemctl", "start", "--no-block", UNIT])
    ready(lab, members)


def ready(lab: Lab, hosts: Iterable[str]) -> None:
    """Return when each of these members answers and knows a leader."""
    for host in hosts:
        argv = ["curl", "-sf", "--max-time", "2", "--cacert", CA, "--cert", CERTIFICATE, "--key", KEY]
        until(
            lambda: '"health":"true"' in lab.exec(host, [*argv, f"{url(host)}/health"], check=False).stdout,  # noqa: B023
            what="the loop's etcd", where=f"journalctl -u {UNIT} on {host}", timeout_s=PATIENCE_S,
        )  # fmt: skip


def make_users(lab: Lab, hosts: list[str], admin: str) -> None:
    """A user for each stage by the command of the how-to, given on `admin`; each password goes where it is used."""
    lab.write(admin, ROOT_PASSWORD, secrets.token_urlsafe(24).encode(), 0o600)
    lab.write(admin, ADMIN, _control(hosts, "root", ROOT_PASSWORD), 0o600)
    lab.exec(admin, ["hyops", "control", "etcd-roles", "--config", ADMIN, "--passwords", PASSWORDS])
    for stage in (*common.STAGE_USERS, "control"):
        password = lab.read(admin, f"{PASSWORDS}/{_user(stage)}.password")
        owner = common.STAGE_USERS[stage].name if stage in common.STAGE_USERS else "root"
        for host in hosts:
            lab.write(host, _password_file(stage), password, 0o600, owner)
    for host in hosts:
        lab.write(host, PERSON, _control(hosts, _user("control"), _password_file("control")), 0o600)


def ctl(lab: Lab, host: str, *words: str) -> list[str]:
    """`etcdctl` at the member on `host`, as the person who may read everything of the loop."""
    password = lab.read(host, _password_file("control")).decode().strip()
    env = ["env", "ETCDCTL_API=3", f"ETCDCTL_USER={_user('control')}:{password}"]
    return [
        *env,
        "etcdctl",
        f"--endpoints={url(host)}",
        f"--cacert={CA}",
        f"--cert={CERTIFICATE}",
        f"--key={KEY}",
        *words,
    ]


def leads(lab: Lab, host: str) -> bool:
    """Whether the member on `host` leads the cluster."""
    (told,) = json.loads(lab.exec(host, ctl(lab, host, "endpoint", "status", "-w=json")).stdout)
    return bool(told["Status"]["leader"] == told["Status"]["header"]["member_id"])


def store(hosts: list[str], stage: str) -> Json:
    """`store` of a stage's configuration; the operator's commands enter as the decision stage."""
    stage = stage if stage in common.STAGE_USERS else "decision"
    return _store(hosts, _user(stage), _password_file(stage))


def _store(hosts: list[str], user: str, password_file: str) -> Json:
    files = {"ca_file": CA, "cert_file": CERTIFICATE, "key_file": KEY}
    return {
        "etcd": {
            "endpoints": [url(h) for h in hosts],
            "env": ENV,
            **files,
            "user": user,
            "password_file": password_file,
        }
    }


def _control(hosts: list[str], user: str, password_file: str) -> bytes:
    value = {"api_version": "hybridops/v1", "kind": "Control", "store": _store(hosts, user, password_file)}
    return json.dumps(value, indent=2).encode()


def _user(stage: str) -> str:
    return f"hyops-{ENV}-{stage}"


def _password_file(stage: str) -> str:
    return f"{FOLDER}/{stage}.password"


def _settings(lab: Lab, host: str, members: list[str]) -> dict[str, str]:
    peers = {member: f"https://{HOSTS[member].address}:{PEER_PORT}" for member in members}
    settings = {
        "NAME": host,
        "DATA_DIR": "/var/lib/hyops-loop-etcd",
        "LISTEN_CLIENT_URLS": url(host),
        "ADVERTISE_CLIENT_URLS": url(host),
        "LISTEN_PEER_URLS": peers[host],
        "INITIAL_ADVERTISE_PEER_URLS": peers[host],
        "INITIAL_CLUSTER": ",".join(f"{member}={peer}" for member, peer in peers.items()),
        "INITIAL_CLUSTER_TOKEN": f"{lab.names.lab_id}-loop",
        "INITIAL_CLUSTER_STATE": "new",
        "HEARTBEAT_INTERVAL": "50",
        "ELECTION_TIMEOUT": "500",
        "BCRYPT_COST": "4",  # passwords of 32 random bytes; the default is a tenth of a second of a core for each login
    }
    for prefix in ("", "PEER_"):
        settings |= {
            f"{prefix}TRUSTED_CA_FILE": CA,
            f"{prefix}CERT_FILE": CERTIFICATE,
            f"{prefix}KEY_FILE": MEMBER_KEY,
            f"{prefix}CLIENT_CERT_AUTH": "true",
        }
    return settings


# Type=simple: a member that boots alone waits for its peers, and its machine must count as booted meanwhile
_UNIT = common.unit(
    "hyops: a member of the loop's etcd",
    service=[
        "Type=simple",
        "User=etcd",
        "StateDirectory=hyops-loop-etcd",
        "StateDirectoryMode=0700",
        f"EnvironmentFile={SETTINGS}",
        "ExecStart=/usr/bin/etcd",
        "Restart=always",
        "RestartSec=200ms",
    ],
)
