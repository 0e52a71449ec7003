"""The DNS authority: PowerDNS with an SQLite back end, dynamic updates only with the lab's TSIG key, no caches."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from hyops_lab.hosts import ENDPOINT, HOSTS, ZONE
from hyops_lab.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

SERVER = "dns"
KEY_NAME, KEY_ALGORITHM = "hyops-switch", "hmac-sha256"
TTL_S = 30
DATABASE = "/var/lib/powerdns/pdns.sqlite3"
SCHEMA = "/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql"

SETTINGS = f"""# PowerDNS of the lab
launch=gsqlite3
gsqlite3-database={DATABASE}
local-address={HOSTS[SERVER].address}
dnsupdate=yes
allow-dnsupdate-from=
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
only-notify=
disable-axfr=yes
security-poll-suffix=
webserver=no
"""


def prepare(lab: Lab, host: str) -> None:
    """Write the zone, the key and the server's configuration."""
    lab.write(host, "/etc/powerdns/pdns.conf", SETTINGS.encode(), 0o640, owner="root:pdns")
    lab.write(host, DATABASE, _database(lab), 0o640, owner="pdns:pdns")
    lab.enable(host, "pdns.service")


def ready(lab: Lab) -> None:
    """Return when the server answers for the endpoint."""
    argv = ["dig", "+short", "+time=1", "+tries=1", f"@{HOSTS[SERVER].address}", ENDPOINT, "A"]
    until(
        lambda: lab.exec(SERVER, argv, check=False).stdout.strip() == HOSTS["onprem-db"].address,
        what=f"the address of {ENDPOINT}", where=lab.log(SERVER), timeout_s=PATIENCE_S,
    )  # fmt: skip


def _database(lab: Lab) -> bytes:
    schema = lab.read(SERVER, SCHEMA).decode()
    address = HOSTS[SERVER].address
    records = [
        (ZONE, "SOA", f"ns.{ZONE} hostmaster.{ZONE} 1 60 30 600 0", 60),
        (ZONE, "NS", f"ns.{ZONE}", 60),
        (f"ns.{ZONE}", "A", address, 60),
        (ENDPOINT, "A", HOSTS["onprem-db"].address, TTL_S),
        (f"_gen.{ENDPOINT}", "TXT", '"1"', 0),
    ]
    metadata = [
        ("ALLOW-DNSUPDATE-FROM", "10.77.0.0/16"),
        ("TSIG-ALLOW-DNSUPDATE", KEY_NAME),
        ("SOA-EDIT-DNSUPDATE", "INCREASE"),
    ]
    with sqlite3.connect(":memory:") as made:
        made.executescript(schema)
        made.execute("INSERT INTO domains (id, name, type) VALUES (1, ?, 'NATIVE')", (ZONE,))
        made.executemany(
            "INSERT INTO records (domain_id, name, type, content, ttl, disabled, auth) VALUES (1, ?, ?, ?, ?, 0, 1)",
            records,
        )
        made.executemany("INSERT INTO domainmetadata (domain_id, kind, content) VALUES (1, ?, ?)", metadata)
        made.execute(
            "INSERT INTO tsigkeys (name, algorithm, secret) VALUES (?, ?, ?)",
            (KEY_NAME, KEY_ALGORITHM, lab.secret("tsig")),
        )
        made.commit()
        content = made.serialize()
    made.close()
    return content
