"""What the compute API's answers become, on a fake that keeps to the published shapes; the fake is held to them too."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from access_hosts import Host, target
from access_kit import options, run_of
from fakes.gce import FakeGce
from hyops.access.circumstances import Target
from hyops.access.iap import IAP_RANGE, GcpIap
from hyops.access.mode import resolve
from hyops.adapters.access_gcp import ComputeApi
from hyops.adapters.access_probes import HostProbes
from hyops.adapters.clock_system import SystemClock
from hyops.errors import PrerequisiteError
from hyops.model.access import ResolvedAccess
from hyops.model.vocabulary import ExecutionPlane
from loopback import missing

pytestmark = pytest.mark.req("ACC-1")
P, Z = "dr-project", "europe-west1-b"


@pytest.fixture
def gce() -> Iterator[FakeGce]:
    """One instance, and four rules on two pages; the one that lets the proxy in stands on the second."""
    fake = FakeGce()
    fake.boot(P, Z, "db", "127.0.0.1", tags=["iap-ssh"])
    fake.rule(P, "web", targetTags=["web"], sourceRanges=["10.0.0.0/8"])
    fake.rule(P, "out", direction="EGRESS", destinationRanges=["0.0.0.0/0"])
    fake.rule(P, "iap", targetTags=["iap-ssh"], sourceRanges=[IAP_RANGE], allowed=[{"IPProtocol": "tcp"}])
    fake.rule(P, "tagged", deny=True, sourceTags=["x"], targetTags=["web"])
    with fake.serve(tls=False) as url:
        fake.url = url
        yield fake


def api(gce: FakeGce) -> ComputeApi:
    """Ask the fake, for the token too."""
    return ComputeApi(gce.url, gce.url)


def test_an_instance_and_every_page_of_rules_are_read(gce: FakeGce) -> None:
    """Ingress only, with sources other than ranges marked; another network's rules are left out."""
    gce.rule(P, "else", network="https://www.googleapis.com/compute/v1/projects/p/global/networks/other")

    seen = asyncio.run(api(gce).instance(P, Z, "db"))
    rules = asyncio.run(api(gce).firewalls(P, seen.network))

    assert (seen.status, seen.addresses, seen.tags, seen.network) == (
        "RUNNING",
        ("127.0.0.1",),
        ("iap-ssh",),
        "default",
    )
    assert [(rule.name, rule.allow, rule.other_sources) for rule in rules] == [
        ("web", True, False),
        ("iap", True, False),
        ("tagged", False, True),
    ]
    assert rules[1].protocols == (("tcp", ()),)


@pytest.mark.parametrize("mode", ["cut", "garbage", "html", "broken", "elsewhere", "away"])
def test_what_is_no_answer_tells_nothing(gce: FakeGce, mode: str) -> None:
    """Never an instance that is not there, and never a list that is empty by mistake."""
    gce.be(mode)

    with pytest.raises(PrerequisiteError):
        asyncio.run(api(gce).firewalls(P, "default"))


def test_a_runner_without_rights_or_identity_is_told(gce: FakeGce) -> None:
    """Denied, no service account, no such instance: each says what is missing."""
    gce.denied = True
    with pytest.raises(PrerequisiteError, match="HTTP 403") as caught:
        asyncio.run(api(gce).instance(P, Z, "db"))
    assert "compute.viewer" in caught.value.hint
    gce.denied = False
    with pytest.raises(PrerequisiteError, match="HTTP 404"):
        asyncio.run(api(gce).instance(P, Z, "other"))
    gce.on_a_vm = False
    with pytest.raises(PrerequisiteError, match="token: "):
        asyncio.run(api(gce).instance(P, Z, "db"))


@pytest.mark.parametrize("wrong", [{"allowed": [{"IPProtocol": "tcp", "ports": ["22-"]}]}, {"allowed": "tcp"}])
def test_a_rule_that_is_none_stops_the_reading(gce: FakeGce, wrong: dict[str, object]) -> None:
    """A rule that is skipped could be the one that decides."""
    gce.rule(P, "odd", **wrong)

    with pytest.raises(PrerequisiteError, match="a firewall rule that is none"):
        asyncio.run(api(gce).firewalls(P, "default"))


def test_the_fake_keeps_to_the_published_shapes(gce: FakeGce) -> None:
    """Token only with the flavor header, an error envelope with code and reason, pages that end without a token."""

    def got(path: str, **headers: str) -> dict[str, object]:
        request = urllib.request.Request(gce.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        with urllib.request.urlopen(request, timeout=5) as reply:
            body: dict[str, object] = json.loads(reply.read())
            return body

    with pytest.raises(urllib.error.HTTPError, match="403"):
        got("/computeMetadata/v1/instance/service-accounts/default/token")
    with pytest.raises(urllib.error.HTTPError, match="401") as caught:
        got(f"/compute/v1/projects/{P}/global/firewalls")
    assert json.loads(caught.value.read())["error"]["errors"][0]["reason"] == "authError"
    caught.value.close()
    first = got(f"/compute/v1/projects/{P}/global/firewalls", Authorization="Bearer t")
    second = got(
        f"/compute/v1/projects/{P}/global/firewalls?pageToken={first['nextPageToken']}", Authorization="Bearer t"
    )
    assert first["kind"] == "compute#firewallList"
    assert "nextPageToken" not in second
    assert "items" not in got("/compute/v1/projects/none/global/firewalls", Authorization="Bearer t")


GCLOUD = """#!{python}
import json, socket, sys, threading
open({log!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
if {refuses}:
    sys.exit("ERROR: (gcloud.compute.start-iap-tunnel) Error while connecting [4033: 'not authorized'].")
link = socket.create_connection(("127.0.0.1", {port}))
def up():
    while data := sys.stdin.buffer.raw.read(65536):
        link.sendall(data)
    link.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := link.recv(65536):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""


def through(
    gce: FakeGce, db: Host, folder: Path, *, refuses: bool = False, address: str = "127.0.0.1"
) -> ResolvedAccess:
    """Resolve gcp-iap with a `gcloud` that really carries the bytes, as the proxy does with `--listen-on-stdin`."""
    gcloud = folder / "gcloud"
    gcloud.write_text(GCLOUD.format(python=sys.executable, log=str(folder / "argv"), port=db.port, refuses=refuses))
    gcloud.chmod(stat.S_IRWXU)
    behind = {"project": P, "zone": Z, "instance": "db", "firewall_tag": "iap-ssh", "gcloud": str(gcloud)}
    mode = GcpIap(options(iap=behind, ready_wait_s=3.0), db.place, HostProbes(), cloud=api(gce))
    run = run_of(ExecutionPlane.GCP_IAP, targets=(Target("cloud-db", address, "cloud"),))
    return asyncio.run(resolve(mode, run, SystemClock()))


@pytest.mark.req("ACC-3")
@pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))
def test_a_target_is_entered_through_the_proxys_command(gce: FakeGce, tmp_path: Path) -> None:
    """A real SSH login over the command's standard input and output, with the argument vector as published."""
    db = target(tmp_path / "db")
    db.start()
    try:
        found = through(gce, db, tmp_path)

        assert [check.prerequisite for check in found.checks] == list(GcpIap.names)
        assert found.through == [f"iap to {P}/{Z}/db"]
        assert json.loads((tmp_path / "argv").read_text().splitlines()[0]) == [
            "compute", "start-iap-tunnel", "db", str(db.port), "--listen-on-stdin", f"--zone={Z}", f"--project={P}",
            "--quiet",
        ]  # fmt: skip
    finally:
        db.stop()


@pytest.mark.req("ACC-2", "GATE-3")
@pytest.mark.fault(20)
@pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))
def test_a_proxy_that_refuses_leaves_the_open_way_alone(gce: FakeGce, tmp_path: Path) -> None:
    """The target's port is open to the runner; a proxy that does not let it in is a refusal all the same."""
    db = target(tmp_path / "db")
    db.start()
    try:
        with pytest.raises(PrerequisiteError, match="access mode gcp-iap: target-answers"):
            through(gce, db, tmp_path, refuses=True)
        assert db.connections == 0
    finally:
        db.stop()
