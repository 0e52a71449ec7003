"""`hyops approval` and `hold` with a security key in an agent, where the policy wants to see a person (APR-1)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import soft_key
from control_site import Run, run
from soft_key import KINDS, PIN, TOUCHED, Kind, SoftKey
from unit.cli.test_loop_commands import Site, site

__all__ = ["run", "site"]


@pytest.fixture
def key(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftKey]:
    """Sue is an approver with a security key; she and ada act for each other where that is allowed."""
    made = SoftKey()
    site.enter("sue", made.public)
    (site.root / "approvers.json").write_text('{"roles": {"ada": ["approver"], "sue": ["approver"]}}')
    with soft_key.agent(site.root / "agent", made) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield made


def by(site: Site, who: str) -> list[object]:
    """The options of a command that signs; a security key is named by its public half."""
    return ["--config", site.approval, "--key", site.root / (f"{who}.pub" if who == "sue" else who), "--yes"]


def state(site: Site, run: Run) -> str:
    """Of the one request."""
    (waiting,) = json.loads(run("approval", "list", "--all", "--config", site.approval, "--json")[1])
    return str(waiting["state"])


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("kind", KINDS)
def test_a_touched_key_grants(site: Site, run: Run, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both kinds, with touch and PIN required: signed, ready, and good when it is verified again."""
    made = SoftKey(kind, flags=TOUCHED | PIN)
    site.enter("ada-sk", made.public)
    (site.root / "approvers.json").write_text('{"roles": {"ada-sk": ["approver"]}}')
    site.approve_by(require_touch=True, require_pin=True)
    with soft_key.agent(site.root / "agent", made) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        words = ["--config", site.approval, "--key", site.root / "ada-sk.pub", "--yes"]
        code, said, _ = run("approval", "grant", site.waits(), *words, "--json")

    assert (code, json.loads(said)["approver"], state(site, run)) == (0, "ada-sk", "ready")
    assert run("approval", "verify", "--config", site.approval)[0] == 0


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "UX-1")
@pytest.mark.parametrize(
    ("who", "flags", "policy", "says"),
    [
        ("ada", 0, {"require_touch": True}, "not signed with a security key"),
        ("ada", 0, {"require_pin": True}, "not signed with a security key"),
        ("sue", 0, {"require_touch": True}, "was not touched"),
        ("sue", TOUCHED, {"require_pin": True}, "did not ask for the PIN"),
    ],
)
@pytest.mark.parametrize("words", [["grant", ""], ["delegate", "ada", "--service", "pg"]], ids=["grant", "delegate"])
def test_who_is_not_seen_writes_nothing(
    site: Site, run: Run, key: SoftKey, who: str, flags: int, policy: dict[str, bool], says: str, words: list[str]
) -> None:
    """A key in a file, a key that nobody touched, one without its PIN: exit code 13 with the mend, nothing written."""
    key.flags = flags
    site.approve_by(allow_delegation=True, **policy)
    words = ["delegate", "sue", *words[2:]] if words[0] == "delegate" and who == "ada" else words
    words = [word or site.waits() for word in words]
    code, _, err = run("approval", *words, *by(site, who))

    assert (code, says in err, "touch it when it blinks" in err, site.approvals()) == (13, True, True, [])


@pytest.mark.req("APR-1")
def test_a_grant_from_before_the_rule_counts_no_more(site: Site, run: Run, key: SoftKey) -> None:
    """Signed without a touch while nothing was required: the stage's own rule finds it unfit from then on; a touched
    one carries the request."""
    key.flags = 0
    run("approval", "grant", site.waits(), *by(site, "sue"))
    before = state(site, run)
    site.approve_by(require_touch=True)
    between = state(site, run)
    key.flags = TOUCHED
    run("approval", "grant", site.waits(), "--note", "again", *by(site, "sue"))

    assert (before, between, state(site, run)) == ("ready", "waiting", "ready")


@pytest.mark.req("APR-1")
def test_verify_names_a_yes_that_the_policy_does_not_count(site: Site, run: Run, key: SoftKey) -> None:
    """Good while nothing is required; then it says what is missing (exit 13). A no is good from any key."""
    key.flags = 0
    run("approval", "grant", site.waits(), *by(site, "sue"))
    words = ["approval", "verify", "--config", site.approval]
    before = run(*words)
    site.approve_by(require_touch=True)
    after = run(*words)
    no = run("approval", "reject", site.waits(), "--note", "no", *by(site, "ada"))

    assert (before[0], no[0]) == (0, 0)
    assert (after[0], "its security key was not touched for it" in after[1]) == (13, True)
    lines = run(*words)[1].splitlines()
    assert sorted(line.split("  ", 1)[1] == "good" for line in lines) == [False, True]


@pytest.mark.req("APR-1")
def test_a_no_is_taken_from_any_key(site: Site, run: Run) -> None:
    """Whoever has only a key in a file may reject, and take a delegation back."""
    site.approve_by(require_touch=True)

    assert run("approval", "reject", site.waits(), "--note", "no", *by(site, "ada"))[0] == 0
    assert state(site, run) == "refused"


@pytest.mark.req("APR-1")
def test_a_delegation_is_taken_back_with_any_key(site: Site, run: Run, key: SoftKey) -> None:
    """Given with the touched key, under the rule; ended with the same key untouched."""
    site.approve_by(require_touch=True, allow_delegation=True)
    given = run("approval", "delegate", "ada", "--service", "pg", *by(site, "sue"), "--json")
    key.flags = 0
    name = json.loads(given[1])["approval_id"]

    assert run("approval", "withdraw", name, *by(site, "sue"))[0] == 0
    assert "taken back" in run("approval", "delegations", "--config", site.approval)[1]


@pytest.mark.req("DEC-6")
def test_a_hold_is_signed_with_a_security_key(site: Site, run: Run, key: SoftKey) -> None:
    """As with any key: it stands."""
    words = ["--config", site.decision, "--key", site.root / "sue.pub", "--yes"]

    assert run("hold", "add", "pg", "--reason", "kernel", "--for", "4h", *words)[0] == 0
    assert "sue: kernel" in run("hold", "list", "pg", "--config", site.decision)[1]
