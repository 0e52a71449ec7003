"""Each guard of CI's gate is taken out; what it keeps must then break, or the guard's tests prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci_site import CiSite, switch_now
from hyops.cli import ci, ci_case
from hyops.cli.main import main
from hyops.control import gate, selection
from hyops.model.dsse import sign_record
from hyops.ports.signer import ApproverSignature
from hyops.services import ci as service
from hyops.testing import evidence as seeds

Break = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: Any, **__: Any) -> None:
    """A guard that looks at nothing."""


def other_request(site: CiSite) -> list[str]:
    """The digest of another request."""
    return ["validate", "--request-digest", "sha256:" + "0" * 64]


def other_plan(site: CiSite) -> list[str]:
    """Another plan under the name of the one that was asked for."""
    (path,) = site.folder("dispatch", "plans").glob("*.json")
    path.write_text(path.read_text().replace('"target": "cloud-db"', '"target": "onprem-db"'))
    return ["validate"]


def forged_request(site: CiSite) -> list[str]:
    """A request that the approval stage's key signed."""
    path = site.folder("dispatch", "requests") / f"{site.dispatch_id}.json"
    path.write_bytes(sign_record(site.switch.request, seeds.STAGES["approval"]).encoded())
    return ["validate"]


def expired(site: CiSite) -> list[str]:
    """A request of half an hour ago."""
    site.__init__(site.root / "later", switch_now(ago_s=1800))  # type: ignore[misc]  # another one in its place
    site.ask()
    return ["validate"]


def failed_site(site: CiSite) -> list[str]:
    """The runner's site is lost."""
    return ["select", "--failed-site", "cloud"]


def other_evidence(site: CiSite) -> list[str]:
    """Good evidence of another request."""
    other = CiSite(site.root / "other", switch_now(ago_s=60)).ask()
    (site.trust / "allowed_signers").write_bytes((other.trust / "allowed_signers").read_bytes())
    return ["collect", "-o", str(site.root / "out"), "--bundle", str(other.bundle())]


def wrong_signer(site: CiSite) -> list[str]:
    """An approval by nobody's key."""
    (site.root / "x").mkdir()
    site.put(site.signed(key=CiSite(site.root / "x" / "y", site.switch).key))
    return ["enforce"]


class Believing:
    """An approval verifier that asks nobody."""

    def verify(self, principal: str, *_: Any) -> Any:
        """Whoever it says."""
        return ApproverSignature(principal, frozenset({"approver"}), "SHA256:x")


GUARDS: dict[str, tuple[Callable[[CiSite], list[str]], Break]] = {
    "the digest of the first step": (other_request, lambda p: p.setattr(ci_case.Asked, "_same", nothing)),
    "records that belong together": (other_plan, lambda p: p.setattr(gate, "_fits", nothing)),
    "the stage's own signature": (forged_request, lambda p: p.setattr(gate, "_signed", nothing)),
    "expiry": (expired, lambda p: p.setattr(gate, "_open", nothing)),
    "the failed site": (failed_site, lambda p: p.setattr(selection, "_outside", nothing)),
    "whose evidence it is": (other_evidence, lambda p: p.setattr(ci, "_about", nothing)),
}


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("name", GUARDS)
def test_without_a_guard_the_gate_opens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the command refuses, without it the same command says yes."""
    scenario, take_out = GUARDS[name]
    site = CiSite(tmp_path / "site").ask()
    words = scenario(site)

    def code() -> int:
        return main(
            ["ci", *words, "--store", str(site.store), "--trust", str(site.trust), "--dispatch-id", site.dispatch_id]
        )

    assert code() != 0
    take_out(monkeypatch)
    assert code() == 0


@pytest.mark.req("RUN-12", "APR-1")
def test_without_openssh_a_strangers_signature_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the verification out: a key that nobody listed approves."""
    site = CiSite(tmp_path / "site").ask()
    words = [*wrong_signer(site), "--store", str(site.store), "--trust", str(site.trust)]
    judged = service.judged

    assert main(["ci", *words, "--dispatch-id", site.dispatch_id]) == 13
    monkeypatch.setattr(service, "judged", lambda case, policy, _, now: judged(case, policy, Believing(), now))
    assert main(["ci", *words, "--dispatch-id", site.dispatch_id]) == 0
