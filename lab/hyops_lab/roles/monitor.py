"""Monitoring on the witness: Prometheus, a TCP probe of both databases, and the PostgreSQL exporter beside each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hyops_lab.hosts import HOSTS
from hyops_lab.roles import postgres
from hyops_lab.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

SERVER = "witness"
PROMETHEUS_PORT, BLACKBOX_PORT, EXPORTER_PORT = 9090, 9115, 9187
ARGUMENTS = f"--web.listen-address=0.0.0.0:{PROMETHEUS_PORT} --storage.tsdb.retention.time=6h"

BLACKBOX = {"modules": {"tcp": {"prober": "tcp", "timeout": "900ms", "tcp": {"preferred_ip_protocol": "ip4"}}}}

EXPORTER = """[Service]
User=postgres
"""
DEFAULTS = """DATA_SOURCE_NAME='user=postgres host=/var/run/postgresql dbname=postgres'
ARGS='--disable-default-metrics --disable-settings-metrics --no-collector.database --no-collector.bgwriter \
--extend.query-path=/etc/hyops-lab/queries.json --log.level=error'
"""

# The exporter's own queries write errors into a standby's log at each scrape
STANDING = """
SELECT pg_is_in_recovery()::int AS in_recovery,
       (SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming') AS receiving,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
       coalesce(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 0) AS replay_age_seconds,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                            ELSE pg_current_wal_lsn() END, '0/0') AS wal_bytes
"""
SENDERS = """
SELECT application_name, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) AS lag_bytes
FROM pg_stat_replication WHERE NOT pg_is_in_recovery()
"""


def _gauge(name: str) -> dict[str, dict[str, str]]:
    return {name: {"usage": "GAUGE", "description": name}}


QUERIES = {
    "pg_standing": {
        "query": STANDING,
        "metrics": [
            _gauge(name) for name in ("in_recovery", "receiving", "timeline", "replay_age_seconds", "wal_bytes")
        ],
    },
    "pg_sender": {
        "query": SENDERS,
        "metrics": [{"application_name": {"usage": "LABEL", "description": "standby"}}, _gauge("lag_bytes")],
    },
}


def prepare(lab: Lab, host: str) -> None:
    """Configure the server or an exporter; JSON is YAML, so that is what is written."""
    if host == SERVER:
        _prepare_server(lab)
        return
    lab.write(host, "/etc/hyops-lab/queries.json", json.dumps(QUERIES).encode())
    lab.write(host, "/etc/default/prometheus-postgres-exporter", DEFAULTS.encode())
    lab.write(host, "/etc/systemd/system/prometheus-postgres-exporter.service.d/lab.conf", EXPORTER.encode())
    lab.enable(host, "prometheus-postgres-exporter.service")


def _prepare_server(lab: Lab) -> None:
    lab.write(SERVER, "/etc/prometheus/prometheus.yml", json.dumps(_scrapes(), indent=2).encode())
    lab.write(SERVER, "/etc/prometheus/blackbox.yml", json.dumps(BLACKBOX, indent=2).encode())
    lab.write(SERVER, "/etc/default/prometheus", f'ARGS="{ARGUMENTS}"\n'.encode())
    lab.enable(SERVER, "prometheus.service", "prometheus-blackbox-exporter.service")


def ready(lab: Lab) -> None:
    """Return when Prometheus answers; its first samples come about 5 s later, see `wait_samples`."""
    argv = ["curl", "-sf", "--max-time", "2", f"http://127.0.0.1:{PROMETHEUS_PORT}/-/ready"]
    until(
        lambda: lab.exec(SERVER, argv, check=False).returncode == 0,
        what="Prometheus to answer", where=lab.log(SERVER), timeout_s=PATIENCE_S,
    )  # fmt: skip


def wait_samples(lab: Lab) -> None:
    """Return when Prometheus has seen both databases answer."""
    until(
        lambda: query(lab, "sum(probe_success) + sum(pg_up)") == [4.0],
        what="Prometheus to see both databases", where=lab.log(SERVER), timeout_s=PATIENCE_S,
    )  # fmt: skip


def query(lab: Lab, expression: str) -> list[float]:
    """Return the values of an instant query, empty when there are no series."""
    url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query"
    argv = ["curl", "-sSf", "--max-time", "5", "--data-urlencode", f"query={expression}", url]
    reply = json.loads(lab.exec(SERVER, argv).stdout)
    return [float(sample["value"][1]) for sample in reply["data"]["result"]]


def _scrapes() -> dict[str, object]:
    databases = [
        {"targets": [f"{HOSTS[host].address}:{postgres.PORT}"], "labels": {"host": host}} for host in postgres.SERVERS
    ]
    exporters = [
        {"targets": [f"{HOSTS[host].address}:{EXPORTER_PORT}"], "labels": {"host": host}} for host in postgres.SERVERS
    ]
    through_blackbox = [
        {"source_labels": ["__address__"], "target_label": "__param_target"},
        {"source_labels": ["__param_target"], "target_label": "instance"},
        {"target_label": "__address__", "replacement": f"127.0.0.1:{BLACKBOX_PORT}"},
    ]
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "950ms", "evaluation_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "postgres-tcp",
                "metrics_path": "/probe",
                "params": {"module": ["tcp"]},
                "static_configs": databases,
                "relabel_configs": through_blackbox,
            },
            {"job_name": "postgres", "static_configs": exporters},
        ],
    }
