"""A PostgreSQL 15 pair: `onprem-db` primary, `cloud-db` streaming standby, both grown from the cluster in the image.

Each side is configured as a standby of the other; only the signal file says which one is. A slot named after its
consumer exists on both sides, so that a failover and the way back need no new configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS
from hyops_lab.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

PRIMARY, STANDBY = "onprem-db", "cloud-db"
SERVERS = (PRIMARY, STANDBY)
USERS = ("app", "replicator", "hyops")
UNIT = "postgresql@15-main.service"
PORT = 5432
DATA, ETC = "/var/lib/postgresql/15/main", "/etc/postgresql/15/main"
PASSFILE = "/var/lib/postgresql/.pgpass"

SETTINGS = """# PostgreSQL of the lab
listen_addresses = '*'
wal_level = replica
wal_log_hints = on
wal_keep_size = 64MB
max_slot_wal_keep_size = 512MB
max_wal_senders = 10
max_replication_slots = 10
hot_standby = on
wal_sender_timeout = 3s
wal_receiver_timeout = 3s
wal_retrieve_retry_interval = 200ms
wal_receiver_status_interval = 1s
max_connections = 100
superuser_reserved_connections = 5
shared_buffers = 64MB
max_wal_size = 256MB
jit = off
primary_conninfo = '{conninfo}'
primary_slot_name = '{slot}'
"""

HBA = """# database access of the lab: by socket as oneself, from other machines by password
local all all peer
host all all 127.0.0.1/32 scram-sha-256
host all all 10.77.0.0/16 scram-sha-256
host replication replicator 10.77.0.0/16 scram-sha-256
"""

# Debian's wrapper needs 2.2 s to notice that the server is up; the server itself tells systemd at once
DROP_IN = f"""[Service]
Type=notify
User=postgres
ExecStart=
ExecStart=/usr/lib/postgresql/15/bin/postgres -D {DATA} -c config_file={ETC}/postgresql.conf
ExecStop=
ExecReload=
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
KillSignal=SIGINT
PIDFile=
"""

SINGLE = [
    "setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups",
    "/usr/lib/postgresql/15/bin/postgres", "--single", "-D", DATA, "-c", f"config_file={ETC}/postgresql.conf",
    "postgres",
]  # fmt: skip


def peer(host: str) -> str:
    """The other server of the pair."""
    return STANDBY if host == PRIMARY else PRIMARY


def prepare(lab: Lab, host: str) -> None:
    """Configure a server; the primary gets this lab's passwords, the other one becomes its standby."""
    conninfo = (
        f"host={HOSTS[peer(host)].address} port={PORT} user=replicator application_name={host} "
        f"passfile={PASSFILE} connect_timeout=2 keepalives_idle=1 keepalives_interval=1 keepalives_count=3 "
        "tcp_user_timeout=3000"
    )
    settings = SETTINGS.format(conninfo=conninfo, slot=host.replace("-", "_"))
    lab.write(host, f"{ETC}/conf.d/lab.conf", settings.encode(), owner="postgres")
    lab.write(host, f"{ETC}/pg_hba.conf", HBA.encode(), 0o640, owner="postgres")
    passwords = f"*:*:*:replicator:{lab.secret('replicator')}\n"
    lab.write(host, PASSFILE, passwords.encode(), 0o600, owner="postgres")
    lab.write(host, f"/etc/systemd/system/{UNIT}.d/lab.conf", DROP_IN.encode())
    lab.enable(host, UNIT)
    if host == PRIMARY:
        _set_passwords(lab)
    else:
        lab.write(host, f"{DATA}/standby.signal", b"", 0o600, owner="postgres")


def ready(lab: Lab) -> None:
    """Return when the standby streams from the primary."""
    wait_streaming(lab, PRIMARY)


def wait_streaming(lab: Lab, primary: str) -> None:
    """Return when the other member streams from `primary`; a server that does not answer yet is asked again."""
    argv = _psql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "app")
    until(
        lambda: lab.exec(primary, argv, user="postgres", check=False).stdout.strip() == "1",
        what=f"{peer(primary)} to stream from {primary}", where=lab.log(primary), timeout_s=PATIENCE_S,
    )  # fmt: skip


def sql(lab: Lab, host: str, statement: str, database: str = "app") -> str:
    """Run one statement as the database's superuser; return rows as lines, columns joined by `|`."""
    return lab.exec(host, _psql(statement, database), user="postgres").stdout.strip()


def _psql(statement: str, database: str) -> list[str]:
    return ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]


def _set_passwords(lab: Lab) -> None:
    """Set passwords with the server's own single-user mode: the machine is not running yet."""
    statements = "".join(f"ALTER ROLE {user} PASSWORD '{lab.secret(user)}'\n" for user in USERS)
    done = lab.machine(PRIMARY).chroot(SINGLE, input=statements)
    if "ERROR" in done.stderr:
        raise LabError(f"cannot set the passwords on {PRIMARY}: {done.stderr}")
