"""The quorum: three etcd members on three sites, so that losing one site leaves two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyops_lab.hosts import HOSTS
from hyops_lab.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

MEMBERS = ("control", "witness", "cloud-runner")
SCHEME = "http"
CLIENT_PORT, PEER_PORT = 2379, 2380

# Type=simple: a member that boots alone waits for its peers, and its machine must count as booted meanwhile
DROP_IN = """[Service]
Type=simple
Restart=always
RestartSec=200ms
"""


def client_url(host: str) -> str:
    """URL at which clients reach the member on `host`."""
    return f"{SCHEME}://{HOSTS[host].address}:{CLIENT_PORT}"


def prepare(lab: Lab, host: str) -> None:
    """Write a member's configuration for a new cluster."""
    peers = {member: f"{SCHEME}://{HOSTS[member].address}:{PEER_PORT}" for member in MEMBERS}
    settings = {
        "NAME": host,
        "LISTEN_CLIENT_URLS": f"{client_url(host)},{SCHEME}://127.0.0.1:{CLIENT_PORT}",
        "ADVERTISE_CLIENT_URLS": client_url(host),
        "LISTEN_PEER_URLS": peers[host],
        "INITIAL_ADVERTISE_PEER_URLS": peers[host],
        "INITIAL_CLUSTER": ",".join(f"{member}={url}" for member, url in peers.items()),
        "INITIAL_CLUSTER_TOKEN": lab.names.lab_id,
        "INITIAL_CLUSTER_STATE": "new",
        "HEARTBEAT_INTERVAL": "50",
        "ELECTION_TIMEOUT": "500",
    }
    text = "".join(f'ETCD_{key}="{value}"\n' for key, value in settings.items())
    lab.write(host, "/etc/default/etcd", text.encode())
    lab.write(host, "/etc/systemd/system/etcd.service.d/lab.conf", DROP_IN.encode())
    lab.enable(host, "etcd.service")


def ready(lab: Lab) -> None:
    """Return when a member says that the cluster takes writes."""
    argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", client_url(MEMBERS[0]), "--dial-timeout=1s",
            "--command-timeout=2s", "endpoint", "health"]  # fmt: skip
    until(
        lambda: lab.exec(MEMBERS[0], argv, check=False).returncode == 0,
        what="etcd to have a leader", where=f"{lab.log(MEMBERS[0])}", timeout_s=PATIENCE_S,
    )  # fmt: skip
