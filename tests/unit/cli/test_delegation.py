"""`hyops approval delegate|delegations`, `grant --for` and `withdraw` of a delegation, with real SSH keys (APR-1)."""

from __future__ import annotations

import json

import pytest

from unit.cli.test_loop_commands import Run, Site, run, site

__all__ = ["run", "site"]


def office(site: Site, *, allowed: bool = True) -> tuple[object, ...]:
    """Dan is a known signer without a role; the config's options."""
    site.enter("dan")
    site.approve_by(allow_delegation=allowed)
    return "--config", site.approval, "--yes"


def key(site: Site, who: str) -> tuple[object, ...]:
    """Somebody's key."""
    return "--key", site.root / who


@pytest.mark.req("APR-1", "UX-2")
def test_a_delegate_grants_until_it_is_taken_back(site: Site, run: Run) -> None:
    """Given, listed, acted under; taken back, and the request waits again."""
    asked = office(site)
    where = asked[:2]
    given = run("approval", "delegate", "dan", "--service", "pg", *key(site, "ada"), *asked, "--json")
    name = json.loads(given[1])["approval_id"]
    listed = run("approval", "delegations", *where)[1]
    granted = run("approval", "grant", site.waits(), "--for", "ada", *key(site, "dan"), *asked)
    ready = json.loads(run("approval", "list", *where, "--json")[1])[0]["state"]
    not_his = run("approval", "withdraw", name, *key(site, "dan"), *asked)
    back = run("approval", "withdraw", name, *key(site, "ada"), *asked)

    assert ("in force" in listed, "dan for ada" in listed) == (True, True)
    assert (granted[0], ready, not_his[0], back[0]) == (0, "ready", 2, 0)
    assert json.loads(run("approval", "list", *where, "--json")[1])[0]["state"] == "waiting"
    assert "taken back" in run("approval", "delegations", *where)[1]
    assert run("approval", "grant", site.waits(), "--for", "ada", *key(site, "dan"), *asked)[0] == 13


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "UX-1")
@pytest.mark.parametrize(
    ("words", "who", "code", "says"),
    [
        (("eve",), "ada", 13, "not an allowed signer"),
        (("ada",), "ada", 2, "somebody else"),
        (("ada",), "dan", 13, "no role"),
        (("dan", "--days", "15"), "ada", 13, "the policy allows 14.0"),
        (("dan", "--days", "0"), "ada", 2, "--days"),
        (("dan", "--from", "2026-07-01T08:00"), "ada", 2, "which zone"),
        (("dan", "--from", "soon"), "ada", 2, "not a time"),
        (("dan", "--from", "2001-07-01T08:00Z"), "ada", 2, "over already"),
    ],
)
def test_what_could_never_count_is_not_signed(
    words: tuple[str, ...], who: str, code: int, says: str, site: Site, run: Run
) -> None:
    """The reason and the mend, and nothing written."""
    asked = office(site)
    done = run("approval", "delegate", *words, "--service", "pg", *key(site, who), *asked)

    assert (done[0], says in done[2]) == (code, True)
    assert site.approvals() == []


@pytest.mark.req("APR-1", "APR-4")
def test_nobody_acts_without_a_delegation_or_breaks_glass_for_another(site: Site, run: Run) -> None:
    """13 with the reason, 2 for what cannot be asked; and where the policy takes none, none is given."""
    asked = office(site, allowed=False)
    glass = ("--break-glass", "--accepted-loss", "x", "--note", "y")

    assert run("approval", "grant", site.waits(), "--for", "ada", *key(site, "dan"), *asked)[0] == 13
    assert run("approval", "grant", site.waits(), "--for", "ada", *glass, *key(site, "dan"), *asked)[0] == 2
    assert run("approval", "delegate", "dan", "--service", "pg", *key(site, "ada"), *asked)[0] == 13
    assert site.approvals() == []
