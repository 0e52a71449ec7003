"""A site dies; from then on only the loop acts. What it claims is held against the client's ledger and the truth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hyops_lab import Lab, ledger
from hyops_lab.drill import Drills
from hyops_lab.hosts import ENDPOINT, HOSTS
from hyops_lab.wiring import everything
from lab.switch_lab import CLOUD, ONPREM, SwitchLab, handed_over

pytestmark = [pytest.mark.lab]

STRANGER = "witness"  # holds the bundle and public keys, and no record and no private key of the loop
BUNDLE = "/root/bundle"


@pytest.mark.req("INV-1", "INV-2", "INV-7", "DNS-2", "DNS-3", "EVD-1", "EVD-2", "FEN-2", "GEN-1", "UX-3")
@pytest.mark.fault(25, 28, 31)
def test_a_lost_site_is_recovered_proved_and_switched_back(wired: SwitchLab) -> None:
    """Killed site: recovered with the true loss counted; its old primary returns fenced and later takes over again."""
    wired.settle(ONPREM)
    lab, drills = wired.lab, Drills(wired.lab)
    generation = wired.told(ONPREM)["generation"]

    trial = drills.site_loss()

    print(f"first write {trial.first_ack_s:.2f} s, RTA {trial.rta_s} s, lost {trial.lost_here}, {trial.phases_s}")
    assert trial.outcome == "succeeded"
    assert trial.receipt_class == "lease-expired"  # nothing answers there any more
    assert trial.generation == generation + 1
    assert trial.truthful
    assert trial.verified
    assert wired.answer("client", ENDPOINT, "A") == HOSTS[CLOUD].address
    assert wired.answer("client", f"_gen.{ENDPOINT}", "TXT") == str(generation + 1)
    _verifies_for_a_stranger(lab, trial.evidence)
    _tampering_is_named(lab)

    promoted_ns = time.monotonic_ns()
    lab.power_on_site("onprem")
    returned = wired.told(ONPREM)
    assert (returned["edge"], returned["holds_lease"]) == ("closed", False)
    assert {e.address for e in ledger.entries(lab) if e.at_ns > promoted_ns} == {HOSTS[CLOUD].address}

    wired.rejoin()
    assert wired.told(ONPREM)["role"] == "standby"
    back = drills.switchover()
    assert (back.outcome, back.target) == ("succeeded", ONPREM)
    assert back.lost_here == 0
    assert handed_over(back.facts, CLOUD)
    assert back.generation == generation + 2


def _verifies_for_a_stranger(lab: Lab, bundle: Path) -> None:
    """On a host without any record or private key of the loop, `hyops evidence verify` says verified."""
    keys = everything.keyring(lab).folder
    for path in [p for p in bundle.rglob("*") if p.is_file()]:
        lab.write(STRANGER, f"{BUNDLE}/{path.relative_to(bundle)}", path.read_bytes())
    for name in ("trusted_keys.json", "allowed_signers", "approvers.json"):
        lab.write(STRANGER, f"/root/public/{name}", (keys / name).read_bytes())
    assert _verify(lab)[0] == 0


def _tampering_is_named(lab: Lab) -> None:
    """Each way of changing a bundle is found, with the line of the first bad record."""
    path = f"{BUNDLE}/evidence.jsonl"
    lines = lab.read(STRANGER, path).splitlines(keepends=True)
    ways: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
        "altered": (lambda r: [*r[:6], r[6].replace(b"a", b"b", 1), *r[7:]], 7),
        "dropped": (lambda r: [*r[:4], *r[5:]], 5),
        "reordered": (lambda r: [*r[:2], r[3], r[2], *r[4:]], 3),
        "repeated": (lambda r: [*r[:3], r[2], *r[3:]], 4),
        "truncated": (lambda r: [*r[:-1], r[-1][:100]], len(lines)),
        "unsealed": (lambda r: r[:-1], len(lines) - 1),  # the last one there is
    }
    for change, line in ways.values():
        lab.write(STRANGER, path, b"".join(change(lines)))
        code, error = _verify(lab)
        assert code == 41
        assert error["facts"]["line"] == str(line), error
    lab.write(STRANGER, path, b"".join(lines))
    assert _verify(lab)[0] == 0


def _verify(lab: Lab) -> tuple[int, dict[str, dict[str, str]]]:
    argv = ["hyops", "evidence", "verify", BUNDLE, "--keys", "/root/public/trusted_keys.json", "--json"]
    done = lab.exec(STRANGER, [*argv, "--allowed-signers", "/root/public/allowed_signers"], check=False)
    return done.returncode, json.loads(done.stdout)
