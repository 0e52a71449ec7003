"""`hyops decision request`: who asks is proved by a key or only typed, and nobody approves alone what he asked for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from control_site import Run, run
from hyops.compose_operator import offline_verifiers
from hyops.model.asking import statement_of
from hyops.model.decision import Decision
from hyops.model.observed import DecisionInputs
from loop_site import LoopSite

pytestmark = [pytest.mark.req("APR-1", "UX-1"), pytest.mark.fault(10)]
__all__ = ["Run", "run"]
ASK = ["decision", "request", "--service", "pg", "--type", "failover"]
KNOWN = {"policy": {"required": 1, "require_known_requester": True}}
LONE = "\udcff"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopSite:
    """Ada may approve, eve is known and may not; two people approve what nobody signed."""
    made = LoopSite(tmp_path / "site", approval=KNOWN)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def fingerprint(site: LoopSite, who: str) -> str:
    """As OpenSSH prints it."""
    command = ["ssh-keygen", "-l", "-f", str(site.root / f"{who}.pub")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]


def waiting(site: LoopSite, run: Run, *who: str) -> dict[str, Any]:
    """Where the one request stands after these people have granted it."""
    site.serve("dispatch", lambda: bool(site.read("dispatch", "requests")), "a request")
    (request,) = site.read("dispatch", "requests")
    for one in who:
        code, _, err = run("approval", "grant", request["dispatch_id"], "--key", site.root / one, "--yes")
        assert code == 0, err
    _, told, _ = run("approval", "list", "--all", "--json")
    (found,) = json.loads(told)
    assert isinstance(found, dict)
    return found


def both_approve(site: LoopSite) -> None:
    """Eve is given the role too."""
    (site.root / "approvers.json").write_text('{"roles": {"ada": ["approver"], "eve": ["approver"]}}')


def test_who_asks_is_whose_key_signs(site: LoopSite, run: Run) -> None:
    """The principal of the key; the signature lies in the recorded inputs, where anybody can verify it."""
    code, said, err = run(*ASK, "--rationale", "rehearsal", "--key", site.root / "eve", "--json")
    assert code == 0, err
    (made,) = (Decision.of(one) for one in site.read("decision", "records"))
    known = DecisionInputs.of(site.read("decision", "inputs")[0])
    asked = known.asked

    assert made.decision_id == json.loads(said)["decision_id"]
    assert (made.requested_by, made.requester_key) == ("eve", fingerprint(site, "eve"))
    assert asked is not None
    assert asked.proof is not None
    statement = statement_of(asked, service="pg", env="lab", signed_at=asked.proof.signed_at)
    people = offline_verifiers(
        site.root / "trusted_keys.json", site.root / "allowed_signers", site.root / "approvers.json"
    )
    assert people[1] is not None
    who = people[1].verify("eve", statement.signed_bytes(), asked.proof.ssh_signature, asked.proof.signed_at)
    assert who.key_fingerprint == made.requester_key
    file = next((site.root / "decision-home/state/records").glob("*.json"))
    assert run("decision", "replay", file)[0] == 0
    assert f"asked for by eve, proved by {made.requester_key}, planned" in run("decision", "explain", file)[1]


def test_one_who_signed_for_it_does_not_approve_alone(site: LoopSite, run: Run) -> None:
    """Ada asks and grants: it waits. Another person's grant carries it."""
    both_approve(site)
    assert run(*ASK, "--key", site.root / "ada")[0] == 0
    found = waiting(site, run, "ada")
    assert (found["state"], found["reason"]) == ("waiting", "ada asked for it and cannot be the only approver")
    assert waiting(site, run, "eve")["state"] == "ready"


def test_a_known_requester_needs_one_other_person(site: LoopSite, run: Run) -> None:
    """Eve signed what she asks for, so Ada is surely somebody else; the approver is told whose key it was."""
    assert run(*ASK, "--key", site.root / "eve")[0] == 0
    found = waiting(site, run)
    told = run("approval", "show", found["request"]["dispatch_id"])[1]
    assert f"asked     by eve, proved by {fingerprint(site, 'eve')}\n" in told

    assert waiting(site, run, "ada")["state"] == "ready"


@pytest.mark.parametrize("by", [(), ("--by", "bob"), ("--by", "eve")])
def test_a_typed_name_is_nobody_s(site: LoopSite, run: Run, by: tuple[str, ...]) -> None:
    """This host's user, a stranger, somebody else's name: one person does not carry it, and two do."""
    assert run(*ASK, *by)[0] == 0
    found = waiting(site, run, "ada")
    assert found["state"] == "waiting"
    assert "so two people must approve" in found["reason"]
    assert "a name that nobody proved\n" in run("approval", "show", found["request"]["dispatch_id"])[1]

    both_approve(site)
    assert waiting(site, run, "eve")["state"] == "ready"


def test_a_policy_that_does_not_ask_for_it_is_as_before(site: LoopSite, run: Run) -> None:
    """One approval carries what another name asked for, as `required: 1` says; the approver sees that it is a name."""
    site.configure(approval={"policy": {"required": 1}})
    assert run(*ASK, "--by", "bob")[0] == 0
    found = waiting(site, run, "ada")

    assert found["state"] == "ready"
    assert (
        "asked     by bob, a name that nobody proved\n" in run("approval", "show", found["request"]["dispatch_id"])[1]
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--by", "ada", "--key", "eve"], 2, "is eve's"),
        (["--key", "stranger"], 11, "0 principals in "),
        (["--key", "nosuch"], 12, "cannot tell whose key"),
        (["--by", ""], 2, "--by"),
        (["--by", " \t"], 2, "--by"),
        (["--by", "decision-service"], 2, "you are not the loop"),
        (["--by", "x" * 257], 2, "--by"),
        (["--by", LONE], 2, "--by"),
        (["--rationale", ""], 2, "--rationale"),
        (["--rationale", "x" * 4097], 2, "--rationale"),
        (["--rationale", f"why {LONE}"], 2, "--rationale"),
        (["--despite-hold", " "], 2, "--despite-hold"),
        (["--despite-hold", "x" * 4097], 2, "--despite-hold"),
        (["--despite-hold", LONE], 2, "--despite-hold"),
    ],
)
def test_what_cannot_be_asked_is_refused(site: LoopSite, run: Run, words: list[str], code: int, says: str) -> None:
    """The option is named, and nothing is recorded."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(site.root / "stranger")], check=True)
    words = [
        str(site.root / word) if before == "--key" else word for before, word in zip(["", *words], words, strict=False)
    ]
    ended, _, err = run(*ASK, *words)

    assert (ended, says in err) == (code, True), err
    assert site.read("decision", "records") == []
    assert site.read("decision", "inputs") == []


def test_a_key_that_was_revoked_asks_for_nothing(site: LoopSite, run: Run) -> None:
    """Exit 13: it stands among the allowed signers, and counts no more."""
    people = {"allowed_signers": str(site.root / "allowed_signers"), "approvers": str(site.root / "approvers.json")}
    site.configure(decision={"people": {**people, "revoked_signers": str(site.root / "eve.pub")}})
    ended, _, err = run(*ASK, "--key", site.root / "eve")

    assert (ended, "signature of eve" in err) == (13, True), err
    assert site.read("decision", "records") == []


def test_without_people_nobody_is_known(site: LoopSite, run: Run) -> None:
    """Exit 11, with the key and the mend; without `--key` it is asked for as before."""
    site.configure(decision={"people": None})
    ended, _, err = run(*ASK, "--key", site.root / "eve")

    assert (ended, "people: absent" in err) == (11, True), err
    assert run(*ASK)[0] == 0


def test_two_long_reasons_fit_into_one_rationale(site: LoopSite, run: Run) -> None:
    """A hold with a long reason, passed for a long reason: the decision is recorded, and the inputs have every word."""
    hold = [
        "hold",
        "add",
        "pg",
        "--for",
        "4h",
        "--key",
        site.root / "ada",
        "--yes",
        "--config",
        site.config("decision"),
    ]
    assert run(*hold, "--reason", "h" * 4096)[0] == 0
    assert run(*ASK, "--rationale", "r" * 4096, "--despite-hold", "d" * 4096)[0] == 0
    (asked,) = (one["asked"] for one in site.read("decision", "inputs"))

    assert (asked["rationale"], asked["despite_hold"]) == ("r" * 4096, "d" * 4096)
