"""What people type into `hyops approval` and `hyops hold` before they sign: odd words are refused by name (UX-1)."""

from __future__ import annotations

import pytest

from unit.cli.test_loop_commands import Run, Site, run, site

__all__ = ["run", "site"]
LONG, TORN = "a" * 4097, "a\udce4b"
GLASS = ("--break-glass", "--accepted-loss")
STAND = ("standing", "--plan", "PLAN", "--service")
ODD: list[tuple[tuple[str, ...], int, str]] = [
    (("grant", "ID", "--note", LONG), 2, "--note"),
    (("grant", "ID", "--note", TORN), 2, "--note"),
    (("grant", "ID", "--note", " "), 2, "--note"),
    (("reject", "ID", "--note", LONG), 2, "--note"),
    (("withdraw", "ID", "--note", TORN), 2, "--note"),
    (("grant", "ID", *GLASS, LONG, "--note", "x"), 2, "--accepted-loss"),
    (("grant", "ID", *GLASS, " ", "--note", "x"), 2, "--accepted-loss"),
    (("grant", "ID", *GLASS, "x", "--note", "\t"), 2, "--note"),
    (("grant", "ID", "--approver", "a" * 257), 2, "--approver"),
    (("reject", "ID", "--approver", TORN), 2, "--approver"),
    (("grant", "ID", "--for", LONG), 13, "cannot act for"),
    (("grant", "ID", "--for", TORN), 13, "cannot act for"),
    (("grant", TORN), 2, "0 requests end with"),
    (("delegate", TORN, "--service", "pg"), 2, "the delegate's name"),
    (("delegate", "bob", "--service", TORN), 2, "is no name"),
    (("standing", "--plan", TORN, "--service", "pg"), 16, "missing or damaged"),
    (("grant", ""), 2, "the id of the request is empty"),
    (("reject", " "), 2, "the id of the request is empty"),
    (("withdraw", ""), 2, "the id of the request is empty"),
    (("delegate", "bob", "--service", "a b"), 2, "--service 'a b' is no name"),
    (("delegate", "bob", "--service", ""), 2, "--service '' is no name"),
    (("delegate", "a" * 257, "--service", "pg"), 2, "the delegate's name"),
    (("delegate", "bob", "--service", "pg", "--from", "9999-12-31T23:59Z"), 2, "mend --from or --days"),
    (("delegate", "bob", "--service", "pg", "--from", "0001-01-01T00:00+14:00"), 2, "--from"),
    (("delegate", "bob", "--service", "pg", "--days", "1e-20"), 2, "over already"),
    (("delegate", "bob", "--service", "pg", "--days", "1e-20", "--from", "9000-01-01T00:00Z"), 2, "over already"),
    (("delegate", "bob", "--service", "pg", "--note", LONG), 2, "--note"),
    (("delegate", "bob", "--service", "pg", "--approver", TORN), 2, "--approver"),
    (("delegate", "bob", *("--service", "pg") * 101), 2, "100 at most"),
    ((*STAND, "a b"), 2, "--service 'a b' is no name"),
    ((*STAND, "pg", "--note", LONG), 2, "--note"),
    ((*STAND, "pg", "--approver", TORN), 2, "--approver"),
    ((*STAND, "mail"), 13, "is for failover of pg"),
    ((*STAND, "pg", "--type", "failback"), 13, "is for failover of pg"),
    (("withdraw", "approval-x"), 2, "no delegation and no standing approval"),
]


@pytest.mark.fault(10)
@pytest.mark.req("UX-1", "APR-1", "APR-4")
def test_an_odd_word_is_refused_by_name(site: Site, run: Run) -> None:
    """Each says which word, none is a bug of ours (30), and nothing is signed."""
    site.enter("bob")
    site.approve_by(allow_delegation=True)
    said = {"ID": site.waits(), "PLAN": site.plan()}
    signed = ("--key", site.root / "ada", "--config", site.approval, "--yes")
    wrong = []
    for words, code, names in ODD:
        done = run("approval", *(said.get(word, word) for word in words), *signed)
        if (done[0], names in done[2]) != (code, True):
            wrong.append((words, done[0], done[2][-300:]))

    assert wrong == []
    assert site.approvals() == []


@pytest.mark.req("UX-1", "APR-1")
def test_a_list_of_people_that_is_no_text_is_no_bug_of_ours(site: Site, run: Run) -> None:
    """A comment in another encoding keeps nobody from granting or delegating, as OpenSSH has it; in a list of garbage
    nobody is found (11, with its name), nor in a public key of garbage (12)."""
    site.enter("bob")
    site.approve_by(allow_delegation=True)
    signed = ("--key", site.root / "ada", "--config", site.approval, "--yes")
    grant, delegate = ("grant", site.waits()), ("delegate", "bob", "--service", "pg")
    people = (site.root / "allowed").read_bytes()
    (site.root / "allowed").write_bytes("# Jürgen hört zu\n".encode("latin-1") + people)
    read = [run("approval", *words, *signed)[0] for words in (grant, delegate)]
    known = len(site.approvals())
    (site.root / "allowed").write_bytes(b"\xff\xfe\x00garbage\n")
    lists = run("approval", *grant, *signed)
    unlisted = run("approval", *delegate, "--approver", "ada", *signed)
    (site.root / "allowed").write_bytes(people)
    (site.root / "ada.pub").write_bytes(b"ssh-ed25519 \xff\xfe")
    own = run("approval", *grant, *signed)

    assert (read, known, len(site.approvals())) == ([0, 0], 2, 2)
    assert (lists[0], f"0 principals in {site.root / 'allowed'}" in lists[2]) == (11, True)
    assert (unlisted[0], "not an allowed signer" in unlisted[2]) == (13, True)
    assert (own[0], "pass --approver" in own[2]) == (12, True)


@pytest.mark.req("UX-1", "DEC-6")
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_id_ends_no_hold(site: Site, run: Run, empty: str) -> None:
    """An unset variable is not the only hold that stands: exit 2, and it stands."""
    signed = ("--key", site.root / "ada", "--config", site.decision, "--yes")
    run("hold", "add", "pg", "--reason", "upgrade", "--for", "4h", *signed)
    holds = list((site.root / "decision-home/state/holds").glob("*.json"))
    code, _, err = run("hold", "end", "pg", empty, "--reason", "over", *signed)

    assert (code, "the id of the hold is empty" in err, len(holds)) == (2, True, 1)
    assert list((site.root / "decision-home/state/holds").glob("*.json")) == holds


@pytest.mark.req("APR-1", "UX-1")
def test_show_of_an_empty_id_says_what_is_wrong(site: Site, run: Run) -> None:
    """As the commands that sign."""
    code, _, err = run("approval", "show", "", "--config", site.approval)

    assert (code, "is a variable not set?" in err) == (2, True)
