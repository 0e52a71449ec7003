"""The lab keeps its promises: real hosts that serve, break as told, heal, and leave nothing behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fault_size import FULL
from hyops_lab import Lab, LabError, RequirementsError, WaitError, ledger, power, requirements
from hyops_lab.hosts import ENDPOINT, HOSTS, ZONE
from hyops_lab.roles import etcd, monitor, postgres
from hyops_lab.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.lab, pytest.mark.req("UX-3")]

RUN = f"t{os.getpid()}"  # one per worker
KEYSCAN = ["ssh-keyscan", "-T", f"{PATIENCE_S:.0f}", "-t", "ed25519"]


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """One lab for the module, with a file and a unit of our own wired in before boot."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    try:
        requirements.ensure(print)
    except RequirementsError as error:
        pytest.skip(str(error))
    lab = Lab(RUN, say=print)

    def wire(lab: Lab) -> None:
        lab.chroot("control", ["useradd", "--create-home", "wired"])
        lab.write("control", "/etc/wired", b"before boot\n", 0o640, owner="wired:pdns")
        lab.write("control", "/etc/systemd/system/wired.service", WIRED_UNIT)
        lab.enable("control", "wired.service")

    try:
        lab.up(wire=wire)
        yield lab
    finally:
        lab.down()


WIRED_UNIT = b"""[Service]
Type=oneshot
ExecStart=/bin/cp /etc/wired /run/wired
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    """The lab as `up` left it: a test's faults are undone and its dead machines are switched on."""
    yield running
    running.power_switch_mode("truth")
    running.heal()
    for host in HOSTS:
        running.power_on(host)


def reaches(lab: Lab, source: str, target: str) -> bool:
    """Whether a ping from `source` is answered by `target`."""
    argv = ["ping", "-q", "-c", "2", "-i", "0.1", "-W", "0.5", HOSTS[target].address]
    return lab.exec(source, argv, check=False).returncode == 0


def nsupdate(lab: Lab, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Move the endpoint to `address` from the control host."""
    change = f"update delete {ENDPOINT} A\nupdate add {ENDPOINT} 30 A {address}\n"
    script = f"server {HOSTS['dns'].address}\nzone {ZONE}\n{change}send\n"
    return lab.exec("control", ["nsupdate", *options], input=script, check=False)


def endpoint(lab: Lab) -> str:
    """The address that a client is told."""
    return lab.exec("client", ["dig", "+short", ENDPOINT, "A"]).stdout.strip()


def test_every_host_runs_systemd_and_answers_ssh_with_its_pinned_key(lab: Lab) -> None:
    """Eight hosts are fully booted, without a failed unit, and show the key that `up` gave them."""
    for name in HOSTS:
        lab.wait_ssh(name)
    addresses = [host.address for host in HOSTS.values()]
    shown = lab.exec("control", [*KEYSCAN, *addresses]).stdout.splitlines()
    keys = dict(line.split(" ", 1) for line in shown)

    assert len(HOSTS) == 8
    for name, host in HOSTS.items():
        assert keys[host.address] == lab.host_key(name)
        assert lab.exec(name, ["systemctl", "is-system-running", "--wait"], check=False).stdout.strip() == "running"
        assert lab.exec(name, ["hostname"]).stdout.strip() == name


def test_wiring_reaches_machines_before_they_boot(lab: Lab) -> None:
    """A file written by `wire` has its mode and owner, and a unit that it enabled ran at boot."""
    assert lab.exec("control", ["stat", "-c", "%a %U %G", "/etc/wired"]).stdout.strip() == "640 wired pdns"
    assert lab.read("control", "/run/wired") == b"before boot\n"


def test_files_of_a_running_machine_are_read_and_written_where_the_machine_sees_them(lab: Lab) -> None:
    """Also where the machine has mounted something over its root, and through its own absolute links."""
    lab.exec("control", ["ln", "-sfn", "/run", "/var/tmp/link"])
    lab.write("control", "/var/tmp/link/made", b"x")

    assert lab.exec("control", ["cat", "/run/made"]).stdout == "x"


def test_the_standby_streams_from_the_primary(lab: Lab) -> None:
    """A row of the application arrives on the standby, which refuses writes."""
    postgres.sql(lab, "onprem-db", "INSERT INTO ledger (id, via) VALUES (-1, 'test') ON CONFLICT DO NOTHING")
    until(
        lambda: postgres.sql(lab, "cloud-db", "SELECT count(*) FROM ledger WHERE id = -1") == "1",
        what="the row", where=lab.log("cloud-db"), timeout_s=PATIENCE_S,
    )  # fmt: skip

    refused = lab.exec("cloud-db", ["psql", "-c", "CREATE TABLE t ()", "app"], user="postgres", check=False)
    assert "read-only" in refused.stderr


def test_dns_updates_need_the_key(lab: Lab) -> None:
    """With TSIG the endpoint moves at once, without or with a wrong key it stays."""
    key = f"hmac-sha256:hyops-switch:{lab.secret('tsig')}"
    wrong = f"hmac-sha256:hyops-switch:{lab.secret('app')}"

    assert nsupdate(lab, "10.77.9.9").returncode != 0
    assert nsupdate(lab, "10.77.9.9", "-y", wrong).returncode != 0
    assert endpoint(lab) == "10.77.1.10"
    assert nsupdate(lab, "10.77.2.10", "-y", key).returncode == 0
    assert endpoint(lab) == "10.77.2.10"
    nsupdate(lab, "10.77.1.10", "-y", key)


def test_etcd_keeps_its_quorum_without_one_member(lab: Lab) -> None:
    """Two of three members go on taking writes, one alone does not."""
    put = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", etcd.client_url("witness"), "--command-timeout=3s"]

    def takes_writes() -> bool:
        return lab.exec("witness", [*put, "put", "key", "value"], check=False).returncode == 0

    lab.kill("control")
    until(takes_writes, what="a leader among two", where=lab.log("witness"), timeout_s=PATIENCE_S)
    lab.kill("cloud-runner")
    assert not takes_writes()


def test_monitoring_sees_a_database_die(lab: Lab) -> None:
    """Both databases are up in Prometheus; a killed one turns to 0."""
    monitor.wait_samples(lab)
    until(  # a scrape that came too late on a busy machine leaves a hole
        lambda: monitor.query(lab, "sum(pg_standing_in_recovery)") == [1.0],
        what="one of them to be a standby", where=lab.log("witness"), timeout_s=PATIENCE_S,
    )  # fmt: skip

    lab.kill("cloud-db")

    until(
        lambda: monitor.query(lab, 'probe_success{host="cloud-db"}') == [0.0],
        what="the probe to fail", where=lab.log("witness"), timeout_s=PATIENCE_S,
    )  # fmt: skip


def test_kill_is_proven_and_the_disk_survives(lab: Lab) -> None:
    """A killed machine has no process left, stays off, and comes back with what it had written."""
    lab.exec("onprem-runner", ["sh", "-c", "echo kept > /var/tmp/kept"])

    lab.kill("onprem-runner")

    assert lab.status()["onprem-runner"]["power"] == "off"
    assert not reaches(lab, "control", "onprem-runner")
    with pytest.raises(LabError, match="onprem-runner is off"):
        lab.exec("onprem-runner", ["true"])
    lab.power_on("onprem-runner")
    lab.wait_ssh("onprem-runner")
    assert lab.read("onprem-runner", "/var/tmp/kept") == b"kept\n"


def test_a_machine_that_reboots_itself_comes_back(lab: Lab) -> None:
    """A reboot in good order brings a new boot of the same disk."""
    boot_id = lab.exec("onprem-runner", ["systemctl", "show", "-p", "UserspaceTimestampMonotonic"]).stdout

    lab.reboot("onprem-runner")

    assert lab.exec("onprem-runner", ["systemctl", "show", "-p", "UserspaceTimestampMonotonic"]).stdout != boot_id
    lab.wait_ssh("onprem-runner")


def test_a_paused_machine_does_nothing_until_resumed(lab: Lab) -> None:
    """Its processes stand still, commands into it time out, and it then goes on."""
    lab.pause("cloud-runner")

    assert lab.status()["cloud-runner"]["power"] == "paused"
    assert lab.faults() == ["pause cloud-runner"]
    with pytest.raises(WaitError, match="cloud-runner"):
        lab.exec("cloud-runner", ["true"], timeout_s=0.3)
    lab.resume("cloud-runner")
    lab.exec("cloud-runner", ["true"])


def test_reset_gives_an_empty_disk_and_the_same_identity(lab: Lab) -> None:
    """What was written is gone, the host key is not."""
    lab.write("dns", "/var/tmp/written", b"")

    lab.reset("dns")

    assert lab.exec("dns", ["test", "-e", "/var/tmp/written"], check=False).returncode == 1
    assert lab.exec("control", [*KEYSCAN, "dns"]).stdout.strip() == f"dns {lab.host_key('dns')}"
    assert endpoint(lab) == "10.77.1.10"


def test_cuts_cut_what_they_say_and_heal_undoes_them(lab: Lab) -> None:
    """A site cut leaves the site itself whole; a pair is cut for both, others reach them; healed, all is as before."""
    lab.cut_site("onprem")
    assert not reaches(lab, "control", "onprem-db")
    assert not reaches(lab, "onprem-db", "control")
    assert reaches(lab, "onprem-db", "onprem-runner")
    lab.heal()
    lab.cut_pair("onprem-db", "onprem-runner")
    assert not reaches(lab, "onprem-db", "onprem-runner")
    assert reaches(lab, "control", "onprem-db")
    assert reaches(lab, "control", "onprem-runner")
    assert lab.faults() == ["cut onprem-db to onprem-runner", "cut onprem-runner to onprem-db"]
    lab.heal()
    lab.heal()
    assert reaches(lab, "onprem-db", "onprem-runner")
    assert lab.faults() == []


def test_a_one_way_cut_lets_the_other_direction_through(lab: Lab) -> None:
    """Datagrams still arrive from the side that is not cut."""
    lab.cut_one_way("client", "control")

    def received(source: str, target: str) -> int:
        before = _icmp_echos_in(lab, target)
        lab.exec(source, ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "0.2", HOSTS[target].address], check=False)
        return _icmp_echos_in(lab, target) - before

    assert received("client", "control") == 0
    assert received("control", "client") == 3


def _icmp_echos_in(lab: Lab, host: str) -> int:
    names, values = [
        line.split() for line in lab.exec(host, ["cat", "/proc/net/snmp"]).stdout.splitlines() if "Icmp:" in line
    ]
    return int(values[names.index("InEchos")])


def test_loss_delay_and_slow_links_are_felt(lab: Lab) -> None:
    """Of packets that meet 30 % loss each way about half return; delay and rate show in round trip and throughput."""
    ping = ["ping", "-q", "-i", "0.005", "-W", "0.2", HOSTS["control"].address]
    lab.lose("client", 30)
    output = lab.exec("client", [*ping, "-c", "300"], check=False).stdout
    lost = float(output.split("% packet loss")[0].split()[-1])
    lab.heal()
    lab.delay("client", 20)
    rtt_ms = float(lab.exec("client", [*ping, "-c", "5"]).stdout.split("= ")[1].split("/")[0])
    lab.heal()
    lab.slow("client", 400)
    copy = ["curl", "-s", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", "http://witness:9090/metrics"]
    size, taken = map(float, lab.exec("client", copy).stdout.split())
    lab.heal()

    assert 35 < lost < 67  # 51 % expected, 3 sigma = 9
    assert 40 <= rtt_ms < 400  # a busy machine adds to it, and takes nothing away
    assert size > 30_000
    assert size * 8 / taken < 800_000  # a burst of 10 kB passes at full speed
    assert lab.faults() == []


def test_a_full_disk_refuses_writes_until_healed(lab: Lab) -> None:
    """Nothing more fits, and everything fits again after heal."""
    write = ["sh", "-c", "head -c 1000000 /dev/zero > /var/tmp/fill"]
    lab.fill_disk("control")

    refused = lab.exec("control", write, check=False)

    assert "No space left on device" in refused.stderr
    assert lab.faults() == ["fill disk control"]
    lab.heal()
    lab.exec("control", write)


def test_the_power_switch_cuts_power_and_can_be_told_to_misbehave(lab: Lab) -> None:
    """Truthful it kills and boots; without the token it refuses; told to lie it says off while the machine runs."""

    def ask(method: str, path: str, token: str, *, timeout_s: int = int(PATIENCE_S)) -> str:
        header = f"Authorization: Bearer {token}"
        argv = ["curl", "-s", "-m", str(timeout_s), "-X", method, "-H", header, f"{power.URL}{path}"]
        return lab.exec("control", argv, check=False, timeout_s=2 * PATIENCE_S).stdout

    token = lab.secret("power")
    assert "wrong or no token" in ask("POST", "/hosts/cloud-runner/off", "guess")
    assert lab.status()["cloud-runner"]["power"] == "on"
    assert '"power": "off"' in ask("POST", "/hosts/cloud-runner/off", token)
    assert lab.status()["cloud-runner"]["power"] == "off"
    assert '"power": "on"' in ask("POST", "/hosts/cloud-runner/on", token)
    lab.power_switch_mode("lie")
    assert '"power": "off"' in ask("POST", "/hosts/cloud-runner/off", token)
    assert lab.status()["cloud-runner"]["power"] == "on"
    lab.power_switch_mode("fail")
    assert "failed" in ask("POST", "/hosts/cloud-runner/off", token)
    lab.power_switch_mode("hang")
    assert ask("GET", "/hosts/cloud-runner", token, timeout_s=1) == ""


def test_the_ledger_counts_acknowledged_writes_that_an_unfenced_primary_lost(lab: Lab) -> None:
    """After a promotion next to a live primary, the client that ignores DNS has rows that the new primary lacks."""
    lab.reset(*postgres.SERVERS)
    ledger.start(lab)
    ledger.start(lab, old=True)

    promoted_ns = time.monotonic_ns()
    promote = ["/usr/lib/postgresql/15/bin/pg_ctl", "-D", postgres.DATA, "-w", "promote"]
    lab.exec("cloud-db", promote, user="postgres")
    nsupdate(lab, "10.77.2.10", "-y", f"hmac-sha256:hyops-switch:{lab.secret('tsig')}")
    lab.kill("onprem-db")
    first = ledger.wait_ack(lab, promoted_ns, "10.77.2.10")
    lab.power_on("onprem-db")
    ledger.wait_ack(lab, time.monotonic_ns(), "10.77.1.10", old=True)
    ledger.stop(lab)
    ledger.stop(lab, old=True)

    loss = ledger.count_loss(lab, "cloud-db", old=True)
    assert loss.lost
    assert loss.acknowledged == loss.surviving + len(loss.lost)
    since_ns = promoted_ns - 1_000_000_000
    gap = ledger.gap([entry for entry in ledger.entries(lab) if since_ns < entry.at_ns <= first.at_ns])
    assert gap.after == first
    assert 0 < gap.seconds < (first.at_ns - since_ns) / 1e9


def test_up_again_is_a_no_op_and_two_labs_coexist(lab: Lab) -> None:
    """A second `up` of the same id changes nothing; a second id has hosts of its own, and its `down` leaves nothing."""
    leader = lab.machine("dns").leader()
    lab.up()
    assert lab.machine("dns").leader() == leader

    other = Lab(f"{RUN}b")
    with other:
        other.kill("dns")
        assert lab.status()["dns"]["power"] == "on"
        kinds = {item.split(":")[0] for item in other.inventory().items()}
        assert kinds == {"processes", "cgroups", "namespaces", "mounts", "loop_devices", "files"}

    assert other.inventory().items() == []
    assert endpoint(lab)


@pytest.mark.parametrize("moment", ["wiring", "booting"] if FULL else ["wiring"])
def test_an_up_that_was_killed_half_way_is_cleaned_by_down(lab: Lab, moment: str) -> None:
    """Killed with file systems mounted, or with machines booting: `up` refuses what is there, `down` removes all."""
    half = f"{RUN}c"
    script = (
        "import os, sys, hyops_lab\n"
        "lab = hyops_lab.Lab(sys.argv[1])\n"
        "die = lambda *args: os.kill(os.getpid(), 9)\n"
        "if sys.argv[2] == 'booting': lab.machine('dns').__class__.wait_started = die\n"
        "lab.up(wire=die if sys.argv[2] == 'wiring' else None)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, half, moment], check=False, timeout=4 * PATIENCE_S)
    assert killed.returncode == -9
    assert Lab(half).inventory().items() != []
    with pytest.raises(LabError, match="run down first"):
        Lab(half).up()

    Lab(half).down()

    assert Lab(half).inventory().items() == []
