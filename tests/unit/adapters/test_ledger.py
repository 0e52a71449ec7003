"""A ledger as it arrives: ranges, or an error; never a guess."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.adapters.ledger import LEDGER_BYTES_MAX, RANGES_MAX, read_ranges
from hyops.errors import TargetError


@given(st.sets(st.integers(min_value=-(2**40), max_value=2**40), max_size=60))
def test_ranges_are_read_as_they_stand(starts: set[int]) -> None:
    """Ascending ranges that do not overlap come through unchanged, touching ones too."""
    edges = sorted(starts)
    ranges = list(zip(edges[::2], edges[1::2], strict=False))

    assert read_ranges(json.dumps({"ranges": ranges}).encode(), source="l") == ranges


@pytest.mark.req("EVD-1", "INV-5")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"[[1,2]]",
        b"{}",
        b'{"ranges":null}',
        b'{"ranges":{"1":2}}',
        b'{"ranges":"12"}',
        b'{"ranges":[1,2]}',
        b'{"ranges":[[1]]}',
        b'{"ranges":[[1,2,3]]}',
        b'{"ranges":[["1","2"]]}',
        b'{"ranges":[[1.0,2.0]]}',
        b'{"ranges":[[false,true]]}',
        b'{"ranges":[[2,1]]}',
        b'{"ranges":[[1,3],[3,4]]}',
        b'{"ranges":[[5,6],[1,2]]}',
        b'{"ranges":[[1,2],[1,2]]}',
        b'{"ranges":[[1,99999999999999999999]]}',
        b'{"ranges":[[1,1e999]]}',
        b'{"ranges":[[1,2]],"ranges":[]}',
        b'{"ranges":[[1,2]',
        b'{"ranges":' + b"[" * 5000,
        b'{"ranges":[]}' + b" " * LEDGER_BYTES_MAX,
        json.dumps({"ranges": [[2 * n, 2 * n] for n in range(RANGES_MAX + 1)]}).encode(),
    ],
    ids=range(26),
)
def test_what_is_not_a_ledger_is_an_error(data: bytes) -> None:
    """Another shape, order or size: TargetError, for then nothing can be said about the loss."""
    with pytest.raises(TargetError, match="the ledger"):
        read_ranges(data, source="the ledger")
