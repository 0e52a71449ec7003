"""CSV maps say which secret becomes which key; what is wrong in one is named with its line."""

from __future__ import annotations

import pytest

from hyops.errors import ConfigError
from hyops.secretsync.mapping import Row, parse_map

MAP = b"""\xef\xbb\xbfscope,ENV_KEY,REF
# the database
db, DB_PASSWORD , kv/{env}/{scope}/db#password

dns,PDNS_API_KEY,"hyops-{env}-{env_key_slug}"
"""


@pytest.mark.req("SEC-1")
def test_a_map_is_read_with_its_placeholders_filled() -> None:
    """Header, comments, blanks and a byte order mark are no rows."""
    assert parse_map(MAP, env="prod", source="map") == [
        Row("db", "DB_PASSWORD", "kv/prod/db/db#password"),
        Row("dns", "PDNS_API_KEY", "hyops-prod-pdns-api-key"),
    ]


@pytest.mark.req("SEC-1")
def test_a_scope_selects_its_rows() -> None:
    """Only what is asked for is synced; two scopes may fill one key, but not at once."""
    data = b"a,K,one\nb,K,two\n"

    assert parse_map(data, env="e", source="map", scopes=["b"]) == [Row("b", "K", "two")]
    with pytest.raises(ConfigError, match="map:2: K: stands twice"):
        parse_map(data, env="e", source="map")


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 rows"),
        (b"db,K\n", "map:1: 2 columns"),
        (b"db,K,a,b\n", "map:1: 4 columns"),
        (b"\ndb,1K,a\n", "map:2: '1K' is no name"),
        (b"-x,K,a\n", "map:1: scope '-x'"),
        (b"db,K,{who}\n", "no placeholder {who}"),
        (b"db,K,{env\n", "no authority knows"),
        (b"db,K,a b\n", "no authority knows"),
        (b"db,K,\n", "is empty"),
        (b"db,K,a\x07\n", "does not belong into a map"),
        (b"db,K," + b"a" * 513 + b"\n", "too long"),
        (b'db,K,"a\n', "map:1:"),
        (b"\xff", "not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "more than"),
        (b"".join(b"db,K%d,a\n" % n for n in range(1001)), "1001 rows"),
    ],
)
def test_a_wrong_map_is_refused_with_its_line(data: bytes, why: str) -> None:
    """Nothing is synced from a map that holds one fault."""
    with pytest.raises(ConfigError) as caught:
        parse_map(data, env="prod", source="map")

    assert why in caught.value.message
    assert caught.value.exit_code == 11


def test_all_faults_are_told_at_once_and_an_unknown_scope_is_one() -> None:
    """A person mends a map in one go."""
    with pytest.raises(ConfigError) as caught:
        parse_map(b"db,1,a\ndb,2,a\ndb,K,a\n", env="e", source="map", scopes=["db", "dbs"])

    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == [
        "1",
        "2",
        " no row has the scope 'dbs'",
    ]


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("character", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\0", "\x1b", "\x9b"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_character_that_nobody_sees_ends_no_row(character: str, end: str) -> None:
    """A second row behind one of them would be seen by hyops alone; the line is told as an editor counts it."""
    data = f"a,K,kv/x#f{end}b,L,kv/y{character}c,M,kv/z#f{end}"
    with pytest.raises(ConfigError, match=r"map.csv:2: character '.+' does not belong into a map"):
        parse_map(data.encode(), env="prod", source="map.csv")


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_end_is_one(end: str) -> None:
    """As editors of every system write them."""
    rows = parse_map(f"a,K,kv/x#f{end}b,L,kv/y#f{end}".encode(), env="prod", source="map.csv")
    assert [row.key for row in rows] == ["K", "L"]
