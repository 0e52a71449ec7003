"""The four stages on a bare host of the lab by the commands of the how-to, and away again without a trace (LOOP-4)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from fault_size import FULL
from hyops_lab.hosts import HOSTS
from hyops_lab.waiting import until
from hyops_lab.wiring import service
from lab.switch_lab import LIMIT_S, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("LOOP-4", "MOD-2", "CAT-3")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "install-the-loop.md"
HOST, ADMIN, TOP = "witness", "ada", "/opt/hybridops"
STAGES = ("service", "dispatcher", "consumer", "executor")
SAID = subprocess.CompletedProcess[str]
STATE = [f"{TOP}/decision-{stage}/state" for stage in ("service", "dispatcher")]


def block(title: str) -> str:
    """The commands of the page under this title."""
    found = re.search(rf'( *)```sh title="{title}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert found is not None
    return "".join(line.removeprefix(found[1]) for line in found[2].splitlines(keepends=True))


class Desk:
    """Where somebody administrates: a folder, an environment, and a way into the lab's network."""

    def __init__(self, wired: SwitchLab, folder: Path) -> None:
        self.lab, self.folder = wired.lab, folder
        (folder / ".hybridops" / "envs" / "prod").mkdir(parents=True)

    def set_up(self) -> None:
        """An administrator of a host on which hyops never was, and the inputs of all four stages."""
        lab = self.lab
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "admin_key")], check=True
        )
        lab.exec(HOST, ["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", ADMIN])
        public = (self.folder / "admin_key.pub").read_bytes()
        for path in (f"/etc/ssh/authorized_keys.d/{ADMIN}", f"/home/{ADMIN}/.ssh/authorized_keys"):
            lab.write(HOST, path, public, 0o644)  # whichever this lab's sshd reads
        lab.exec(HOST, ["chown", "-R", ADMIN, f"/home/{ADMIN}/.ssh"])
        lab.write(HOST, f"/etc/sudoers.d/{ADMIN}", f"{ADMIN} ALL=(ALL) NOPASSWD: ALL\n".encode(), 0o440)
        lab.exec(HOST, ["sh", "-c", "mv /usr/bin/hyops /usr/bin/hyops.kept; mv /opt/hyops /opt/hyops.kept"])
        (self.folder / "control.pub").write_bytes(lab.read(HOST, "/etc/ssh/ssh_host_ed25519_key.pub"))
        (self.folder / "allowed_signers").write_bytes(b"")
        (self.folder / "approvers.json").write_text(json.dumps({"approvers": []}))
        (self.folder / "dispatcher_key").write_text("a key that opens nothing")
        (self.folder / "dispatcher_key").chmod(0o600)
        for stage in STAGES:
            self.write(stage, self.config(stage))

    def clear(self) -> None:
        """As it was, however far the test came."""
        undone = (
            "systemctl stop 'hyops-decision-*.service'; rm -rf /opt/hybridops /etc/systemd/system/hyops-decision-*; "
            "rm -f /etc/systemd/system/multi-user.target.wants/hyops-decision-*; "
            "for u in decision dispatcher consumer executor; do userdel hyops-$u; done; groupdel hyops-loop; "
            f"rm -f /etc/sudoers.d/{ADMIN} /etc/ssh/authorized_keys.d/{ADMIN}; userdel -r {ADMIN}; "
            "mv /usr/bin/hyops.kept /usr/bin/hyops; mv /opt/hyops.kept /opt/hyops; systemctl daemon-reload; true"
        )
        self.lab.exec(HOST, ["sh", "-c", undone])

    def write(self, stage: str, config: dict[str, Any]) -> None:
        """One file of inputs."""
        files: dict[str, Any] = {
            "consumer": {name: {"from": name} for name in ("allowed_signers", "approvers.json")},
            "executor": {
                "dispatcher_key": {"from": "dispatcher_key", "private": True},
                "known_hosts": {"from": "known_hosts"},
            },
        }
        trust = {"service": ["executor"], "dispatcher": ["service"], "consumer": ["dispatcher"]}
        value = {
            "target": {"name": "control", "address": HOSTS[HOST].address, "user": ADMIN, "key_file": "admin_key",
                       "known_hosts": "known_hosts"},
            "config": config,
            "files": files.get(stage, {}),
            "trust": [f"platform/network/decision-{one}" for one in trust.get(stage, STAGES[:3])],
        }  # fmt: skip
        (self.folder / f"decision-{stage}.inputs.yml").write_text(yaml.safe_dump(value))

    def config(self, stage: str) -> dict[str, Any]:
        """What an operator writes."""
        own = f"{TOP}/decision-{stage}/config"
        quiet = {"name": "none", "source": "prometheus", "url": "http://127.0.0.1:9", "query": "up", "interval_s": 3600}
        protected = {"policy": {**service.policy(), "env": "prod", "signals": [quiet], "quorum": 1, "level": "monitor"}}
        route = {"target_ref": "core/noop@v1", "target_env": "prod", "execution_plane": "runner-local"}
        routes = {"env": "prod", "dispatcher_routes": {"failover": {**route, "runner_ref": "cloud-runner"}}}
        runner = {"address": HOSTS["cloud-runner"].address, "user": "hyops"}
        runner |= {"key_file": f"{own}/dispatcher_key", "known_hosts": f"{own}/known_hosts"}
        return {
            "service": {"protected": protected, "vantages": {}},
            "dispatcher": {"services": [service.SERVICE], "routes": routes},
            "consumer": {
                "policy": {"mode": "signed", "required": 1},
                "allowed_signers": f"{own}/allowed_signers",
                "approvers": f"{own}/approvers.json",
            },
            "executor": {"mode": "dry-run", "protected": [protected], "runners": {"cloud-runner": runner}},
        }[stage]

    def here(self, text: str, *, check: bool = True) -> SAID:
        """Type commands where somebody administrates."""
        env = {"HOME": str(self.folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        words = ["ip", "netns", "exec", self.lab.names.switch, "sh", "-ec", text]
        done = subprocess.run(
            words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=4 * LIMIT_S, check=False
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def at_once(self, title: str, about: str = "") -> list[SAID]:
        """The commands of a block, each of its own shell; modules wait for nobody but themselves."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.here, [line for line in block(title).splitlines() if about in line]))

    def there(self, text: str, *, check: bool = True) -> SAID:
        """Type commands on the host, as root."""
        return self.lab.exec(HOST, ["sh", "-ec", text], check=check)

    def inventory(self) -> str:
        """Accounts, units, and every name where something could be left."""
        looked = (
            "cat /etc/passwd /etc/group; systemctl list-units --all --plain --no-legend 'hyops-decision*'; "
            "find /opt /etc /root /var/tmp /usr/lib/hyops -not -name '*-' -not -name '.pwd.lock' "
            "-not -path '*/systemd-private-*' 2>/dev/null | sort"
        )
        return self.there(looked, check=False).stdout


@pytest.fixture
def desk(wired: SwitchLab, tmp_path: Path) -> Iterator[Desk]:
    """A bare host, and whoever administrates it."""
    made = Desk(wired, tmp_path)
    made.set_up()
    try:
        yield made
    finally:
        made.clear()


@pytest.mark.req("DSP-3", "MOD-1", "ROOT-3", "UX-1")
def test_the_loop_is_installed_checked_and_removed_by_the_page(desk: Desk) -> None:
    """Four services stand, a second time changes nothing, the synthetic check waits for approval, a bad configuration
    leaves the old one running, and at the end the host is as it was."""
    before = desk.inventory()
    desk.here(block("pin"))
    desk.here(block("install"))
    assert "changed" in desk.here(block("trust")).stdout
    again = desk.at_once("again", "" if FULL else "dispatcher")
    assert sum("nothing to change" in done.stdout for done in again) == (len(STAGES) if FULL else 1)
    state = json.loads(again[-1].stdout)
    assert state["status"] == "ok"
    assert state["outputs"]["cap.control.decision_dispatcher"] == "ready"
    assert state["outputs"]["decision_dispatcher.status"] == "ready"
    assert state["outputs"]["decision_dispatcher.execution_mode"] == "record-only"

    _synthetic_check(desk)
    _a_bad_configuration(desk)

    assert all("destroyed" in done.stdout for done in desk.at_once("remove"))
    assert desk.inventory() == before


def _synthetic_check(desk: Desk) -> None:
    tree = f"find {' '.join(STATE)} -type f -not -name .lock | sort"
    before = desk.there(tree).stdout
    desk.there(block("synthetic check"))
    until(
        lambda: desk.there(block("see the request"), check=False).returncode == 0,
        what="a request that waits", where=STATE[1], timeout_s=LIMIT_S,
    )  # fmt: skip
    desk.there(block("remove the check"))
    assert desk.there(tree).stdout == before


def _a_bad_configuration(desk: Desk) -> None:
    """What only the host can see is wrong there: the blueprint that the catalogue of its hyops does not have."""
    running = "systemctl show -P MainPID hyops-decision-dispatcher.service"
    before = desk.there(running).stdout
    bad = desk.config("dispatcher")
    bad["routes"]["dispatcher_routes"]["failover"]["target_ref"] = "core/nope@v1"
    desk.write("dispatcher", bad)
    done = desk.here("hyops apply --env prod --module platform/network/decision-dispatcher", check=False)
    assert done.returncode == 11, done.stdout + done.stderr
    assert "core/nope@v1" in done.stderr
    assert "nothing was touched" in done.stderr
    assert desk.there(running).stdout == before
    state = json.loads(desk.here("hyops state show --env prod platform/network/decision-dispatcher").stdout)
    assert state["status"] == "ok"
    desk.write("dispatcher", desk.config("dispatcher"))
