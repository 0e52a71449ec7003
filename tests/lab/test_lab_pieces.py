"""The parts of the lab that need no root: requirements, names, paths in a machine, mirrors, the ledger's figures."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyops.errors import UsageError
from hyops_lab import Lab, LabError, RequirementsError, ledger
from hyops_lab.cli import lab
from hyops_lab.errors import NotUpError
from hyops_lab.hosts import HOSTS, SITES, Names
from hyops_lab.image import KEYRING, debian_sources
from hyops_lab.ledger import Entry, first_ack_after, gap
from hyops_lab.loop import Json
from hyops_lab.machine import inside
from hyops_lab.requirements import cgroup_root, missing
from lab import traces
from lab.switch_lab import SwitchLab

pytestmark = pytest.mark.req("UX-3")


def test_one_error_lists_everything_that_is_missing() -> None:
    """A person who reads it can put all of it right at once."""
    found = missing([lambda: "root", lambda: None, lambda: "loop devices"])

    error = RequirementsError(found)

    assert error.missing == ("root", "loop devices")
    assert str(error) == "this machine cannot run the lab:\n  - root\n  - loop devices"


@pytest.mark.parametrize(
    ("mounts", "root"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "/sys/fs/cgroup"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0", "/sys/fs/cgroup/unified"),
    ],
)
def test_the_cgroup_hierarchy_is_found_in_each_layout(mounts: str, root: str) -> None:
    """Version 2 alone, or mounted beside version 1."""
    assert cgroup_root(mounts) == Path(root)


def test_a_machine_without_cgroup_version_2_is_refused() -> None:
    """Version 1 alone cannot kill a machine at once."""
    with pytest.raises(LabError, match="version 2"):
        cgroup_root("cgroup /sys/fs/cgroup/memory cgroup rw 0 0")


@pytest.mark.parametrize("lab_id", ["", "a-b", "A", "1a", "../x", "a" * 17])
def test_lab_ids_that_could_touch_another_labs_names_are_refused(lab_id: str) -> None:
    """No id is empty, a path, or such that its names begin like another's."""
    with pytest.raises(UsageError, match="lab id"):
        Names(lab_id)


def test_every_host_stands_in_its_sites_network_under_a_name_that_fits_an_interface() -> None:
    """Addresses are unique, and Linux allows 15 characters for `v-HOST`."""
    assert len({host.address for host in HOSTS.values()}) == len(HOSTS)
    for host in HOSTS.values():
        assert host.address.startswith(f"{SITES[host.site]}.")
        assert len(f"v-{host.name}") <= 15


def test_paths_are_resolved_inside_the_machines_root(tmp_path: Path) -> None:
    """Absolute links, relative links and `..` never lead out of the machine."""
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "var/up").symlink_to("../../../etc")

    assert inside(tmp_path, "/var/run/x") == tmp_path / "run/x"
    assert inside(tmp_path, "/var/up/passwd") == tmp_path / "etc/passwd"
    assert inside(tmp_path, "/../../x") == tmp_path / "x"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    """A machine's files cannot keep the lab busy for ever."""
    (tmp_path / "a").symlink_to("/b")
    (tmp_path / "b").symlink_to("/a")

    with pytest.raises(LabError, match="too many links"):
        inside(tmp_path, "/a")


def test_the_image_comes_from_the_hosts_debian_mirror_and_no_third_party(tmp_path: Path) -> None:
    """Other vendors' archives also end in `/debian`; their signer or components tell them apart."""
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(
        "# mirror\nTypes: deb\nURIs: http://mirror.test/debian\nSuites: trixie trixie-updates\nComponents: main\n"
        f"Signed-By: {KEYRING}\n\nTypes: deb\nURIs: http://mirror.test/debian-security/\nSuites: trixie-security\n"
        "Components: main\n"
    )
    (parts / "vendor.list").write_text(
        "deb [arch=amd64 signed-by=/etc/apt/keyrings/v.gpg] https://vendor.test/linux/debian trixie main\n"
        "deb https://other.test/debian trixie stable\n"
    )

    lines = debian_sources(tmp_path).splitlines()

    assert lines == [
        f"deb [signed-by={KEYRING}] http://mirror.test/debian bookworm main",
        f"deb [signed-by={KEYRING}] http://mirror.test/debian bookworm-updates main",
        f"deb [signed-by={KEYRING}] http://mirror.test/debian-security bookworm-security main",
    ]


def test_a_host_without_debian_mirrors_uses_the_public_ones(tmp_path: Path) -> None:
    """On Ubuntu the image is Debian's all the same."""
    (tmp_path / "sources.list").write_text("deb http://archive.ubuntu.com/ubuntu noble main universe\n")

    assert "http://deb.debian.org/debian bookworm main" in debian_sources(tmp_path)


def test_the_gap_is_the_longest_time_between_acknowledgements() -> None:
    """And the first acknowledgement after a moment can be asked for by address."""
    acknowledged = [(1, "a"), (2, "a"), (5, "b"), (6, "b")]
    ledger = [Entry(at, at * 10**9, 0, address) for at, address in acknowledged]

    assert gap(ledger).seconds == 3.0
    assert gap(ledger).after.address == "b"
    assert first_ack_after(ledger, 10**9) == ledger[1]
    assert first_ack_after(ledger, 10**9, "b") == ledger[2]
    assert first_ack_after(ledger, 6 * 10**9) is None
    with pytest.raises(LabError):
        gap(ledger[:1])


def test_the_command_line_says_when_a_lab_is_not_up() -> None:
    """`status` reports it, and a fault is refused before anything is touched."""
    status = CliRunner().invoke(lab, ["--lab", "neverup", "status", "--json"])
    fault = CliRunner().invoke(lab, ["--lab", "neverup", "fail", "kill", "dns"]).exception

    assert json.loads(status.stdout) == {"lab": "neverup", "up": False, "hosts": {}, "faults": []}
    assert isinstance(fault, NotUpError)
    assert (fault.exit_code, str(fault)) == (12, "lab neverup is not up")


ANSWERS: list[Json] = [
    {},
    {"edge": "unknown", "role": "primary", "facts": {"database": "answers"}, "at": 1},
    {"edge": "open", "role": "unknown", "facts": {"database": "answers"}, "at": 2},
    {"edge": "open", "role": "primary", "facts": {"database": "DeadlineError: not within 2 s"}, "at": 3},
    {"edge": "open", "role": "primary", "facts": {"database": "answers"}, "at": 4},
    {"edge": "closed", "role": "stopped", "facts": {"database": "answers"}, "at": 5},
    {},
]


class Talking(SwitchLab):
    """Its agent says another thing each time."""

    def __init__(self) -> None:
        super().__init__(Lab("none"))
        self.rest = list(ANSWERS)

    def status(self, host: str) -> Json:
        """The next answer."""
        return self.rest.pop(0)


def test_what_an_agent_tells_is_whole_and_is_what_was_waited_for() -> None:
    """Nothing, half an answer and unread parts are asked again; the answer that matched is the one that is used."""
    assert Talking().told("cloud-db")["at"] == 4
    assert Talking().told("cloud-db", lambda said: said.get("role") == "stopped")["at"] == 5


def test_the_acknowledgement_that_was_waited_for_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is read once after it has the entry: another look may find less."""
    looks = iter([[], [Entry(1, 5, 0, "a"), Entry(2, 9, 0, "b")], []])
    monkeypatch.setattr(ledger, "entries", lambda lab, *, old: next(looks))

    assert ledger.wait_ack(Lab("none"), 4, "b").row_id == 2


@pytest.mark.parametrize("before", [0, 10, 63, 64, 65, 200])
def test_a_secret_is_found_wherever_it_lies_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Also across the border of two parts that are read one after the other, and in an empty file there is none."""
    monkeypatch.setattr(traces, "PART_BYTES", 64)
    (tmp_path / "kept").write_bytes(b"x" * before + traces.MARK.encode() + b"y" * 100)
    (tmp_path / "empty").touch()
    search = traces.Traces(Lab("none"), ())

    assert search._has(tmp_path / "kept")
    assert not search._has(tmp_path / "empty")
    assert not search._has(tmp_path / "gone")
