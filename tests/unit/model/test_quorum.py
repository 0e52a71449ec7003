"""How many people said yes: by name and by key, with and without a break-glass, and never the requester alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.errors import NotApprovedError
from hyops.model.quorum import Yes, carriers

ADA, BOB, CY, ME = Yes("1", "ada", "k1"), Yes("2", "bob", "k2"), Yes("3", "cy", "k3"), Yes("4", "me", "k4")
ADA_AGAIN, ADA_AS_EVE = Yes("5", "ada", "k5"), Yes("6", "eve", "k1")
GLASS, MY_GLASS = Yes("7", "glass", "k7", break_glass=True), Yes("8", "me", "k4", break_glass=True)
ME_AS_EVE = Yes("0", "eve", "k4")
TABLE: list[tuple[list[Yes], dict[int, str]]] = [
    ([], {1: "0 of 1", 2: "0 of 2", 3: "0 of 3"}),
    ([ADA], {1: "1", 2: "1 of 2", 3: "1 of 3"}),
    ([ADA, BOB], {1: "1 2", 2: "1 2", 3: "2 of 3"}),
    ([CY, BOB, ADA], {1: "1 2 3", 2: "1 2 3", 3: "1 2 3"}),
    ([ADA, ADA_AGAIN], {1: "1", 2: "1 of 2", 3: "1 of 3"}),
    ([ADA, ADA_AS_EVE], {1: "1", 2: "1 of 2", 3: "1 of 3"}),
    ([ADA_AS_EVE, ADA_AGAIN, ADA], {1: "1", 2: "1 of 2", 3: "1 of 3"}),
    ([ADA, ADA_AGAIN, BOB], {1: "1 2", 2: "1 2", 3: "2 of 3"}),
    ([ME], {1: "only approver", 2: "1 of 2", 3: "1 of 3"}),
    ([ME, ME_AS_EVE], {1: "only approver", 2: "1 of 2", 3: "1 of 3"}),
    ([ME, ADA], {1: "1 4", 2: "1 4", 3: "2 of 3"}),
    ([GLASS], {1: "7", 2: "7", 3: "7"}),
    ([GLASS, ADA, BOB, CY], {1: "7", 2: "7", 3: "7"}),
    ([MY_GLASS], {1: "only approver", 2: "only approver", 3: "only approver"}),
    ([MY_GLASS, ME_AS_EVE], {1: "only approver", 2: "only approver", 3: "only approver"}),
    ([MY_GLASS, ADA, BOB], {1: "1 8", 2: "1 8", 3: "1 8"}),
    ([MY_GLASS, GLASS], {1: "7", 2: "7", 3: "7"}),
]


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.parametrize("required", [1, 2, 3])
@pytest.mark.parametrize("row", TABLE, ids=["+".join(f"{y.principal}.{y.approval_id}" for y in r[0]) for r in TABLE])
def test_who_carries_a_request(row: tuple[list[Yes], dict[int, str]], required: int) -> None:
    """People are counted, not signatures; a break-glass replaces the number, never the second pair of eyes."""
    said, wanted = row
    answer = wanted[required]
    if not answer.replace(" ", "").isdigit():
        with pytest.raises(NotApprovedError, match=answer):
            carriers(said, required=required, requester="me")
    else:
        assert " ".join(yes.approval_id for yes in carriers(said, required=required, requester="me")) == answer


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ([ADA], "only approver"),
        ([ADA_AS_EVE], "only approver"),
        ([ADA, ADA_AGAIN], "only approver"),
        ([BOB], "2"),
        ([ADA_AS_EVE, BOB], "2 6"),
        ([Yes("9", "eve", "k1", break_glass=True)], "only approver"),
        ([Yes("9", "eve", "k1", break_glass=True), BOB], "2 9"),
    ],
)
def test_whose_key_asked_is_who_asked(said: list[Yes], answer: str) -> None:
    """The key that proved who asked is known again under every name that signs with it."""
    if not answer.replace(" ", "").isdigit():
        with pytest.raises(NotApprovedError, match=answer):
            carriers(said, required=1, requester="somebody", key="k1")
    else:
        found = carriers(said, required=1, requester="somebody", key="k1")
        assert " ".join(yes.approval_id for yes in found) == answer


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ([ADA], "two people must approve"),
        ([ADA, ADA_AS_EVE], "two people must approve"),
        ([ADA, ADA_AGAIN], "two people must approve"),
        ([GLASS], "two people must approve"),
        ([ADA, BOB], "1 2"),
        ([ADA, BOB, CY], "1 2 3"),
        ([GLASS, ADA], "1 7"),
        ([GLASS, MY_GLASS], "7 8"),
        ([MY_GLASS, GLASS, ADA], "1 7"),
        ([ME, ADA], "1 4"),
    ],
)
def test_of_two_people_one_did_not_ask(said: list[Yes], answer: str) -> None:
    """Nobody proved who asked: one person never carries it, nor does a break-glass, and two do."""
    if not answer.replace(" ", "").isdigit():
        with pytest.raises(NotApprovedError, match=answer):
            carriers(said, required=1, requester="root", unknown=True)
    else:
        found = carriers(said, required=1, requester="root", unknown=True)
        assert " ".join(yes.approval_id for yes in found) == answer


YES = st.builds(
    Yes,
    st.uuids().map(str),
    st.sampled_from(["ada", "bob", "cy", "me"]),
    st.sampled_from(["k1", "k2", "k3", "k4"]),
    break_glass=st.booleans(),
)


@pytest.mark.req("APR-1")
@given(said=st.lists(YES, max_size=6), required=st.integers(1, 3), data=st.data())
def test_the_order_of_approvals_does_not_matter(said: list[Yes], required: int, data: st.DataObject) -> None:
    """Whatever the order in which they came, the same ones carry; and what carries, carries by itself."""

    def outcome(some: list[Yes]) -> list[Yes] | str:
        try:
            return carriers(some, required=required, requester="me")
        except NotApprovedError as exc:
            return exc.message

    found = outcome(said)
    assert outcome(data.draw(st.permutations(said))) == found
    if not isinstance(found, str):
        assert not isinstance(outcome(found), str)
        assert any(yes.principal != "me" for yes in found)
        assert len(found) >= required or any(yes.break_glass for yes in found)
        assert len({y.principal for y in found}) == len({y.key_fingerprint for y in found}) == len(found)
