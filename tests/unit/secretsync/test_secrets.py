"""A sync changes everything or nothing, keys go only when they are certainly gone, and writers lose nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.errors import ConfigError, Effect, SecretsError, UnsafePlanError
from hyops.model.secret import Secret
from hyops.ports.authority import Trouble
from hyops.secretsync.document import parse
from hyops.secretsync.mapping import Row
from hyops.secretsync.plan import HINTS, Synced
from hyops.services.secrets import Secrets
from hyops.testing.clock import FakeClock
from hyops.testing.secrets import MemoryAuthority, MemorySecretCache

START = datetime(2026, 3, 14, 3, tzinfo=UTC)
ROWS = [Row("db", key, key.lower()) for key in ("A", "B", "C", "D")]
CANARY = "c4nary-in-memory"


class Site:
    """One cache, one authority, one clock."""

    def __init__(self, **values: str) -> None:
        self.clock = FakeClock(START)
        self.cache = MemorySecretCache()
        self.authority = MemoryAuthority(**values)
        self.secrets = Secrets(self.cache, self.clock)

    def sync(self, rows: list[Row] = ROWS, **more: Any) -> Synced:
        """One sync."""
        return asyncio.run(self.secrets.sync(self.authority, rows, **more))

    def values(self) -> dict[str, str]:
        """What the cache holds."""
        return {key: secret.reveal() for key, secret in self.secrets.cache().values().items()}

    def pass_time(self, seconds: float) -> None:
        """Time goes by."""
        self.clock.advance(seconds)


@pytest.fixture
def site() -> Site:
    """Four secrets upstream, none here."""
    return Site(a="1", b="2", c="3", d="4")


@pytest.mark.req("SEC-1")
def test_a_sync_fills_the_cache_and_says_only_names(site: Site) -> None:
    """First added, then the same, then replaced; the report shows no value."""
    assert site.sync().added == ("A", "B", "C", "D")
    assert site.sync().same == ("A", "B", "C", "D")
    site.authority.values["b"] = CANARY
    done = site.sync()

    assert (done.replaced, done.same) == (("B",), ("A", "C", "D"))
    assert CANARY not in repr(done)
    assert site.values() == {"A": "1", "B": CANARY, "C": "3", "D": "4"}


@pytest.mark.req("SEC-1")
def test_each_key_knows_where_it_came_from_and_when(site: Site) -> None:
    """Age counts from when the authority was asked; a sync that finds the same makes it young again."""
    site.sync()
    site.pass_time(90)
    about = site.secrets.about("A")
    assert (about.origin.authority, about.origin.place, about.origin.ref, about.origin.scope, about.origin.version) == (
        "vault",
        "https://vault.example",
        "a",
        "db",
        "1",
    )
    assert about.age_s == 90

    site.sync()
    assert site.secrets.about("A").age_s == 0


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@pytest.mark.parametrize("trouble", list(Trouble))
def test_one_uncertain_answer_leaves_the_cache_untouched(site: Site, trouble: Trouble) -> None:
    """Whatever the trouble: exit 21, nothing touched, the key and what to do are named; good answers change nothing."""
    site.sync(ROWS[:3])
    site.authority.values |= {"a": "new", "b": "new", "c": "new"}
    site.authority.troubles["d"] = trouble
    before, writes = site.cache.data, site.cache.writes

    with pytest.raises(SecretsError) as caught:
        site.sync()

    error = caught.value
    assert (error.exit_code, error.effect, error.hint) == (21, Effect.NONE, HINTS[trouble])
    assert f"D (d): {trouble}" in error.message
    assert (site.cache.data, site.cache.writes) == (before, writes)


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
def test_an_answer_that_leaves_a_key_out_is_half_an_answer(site: Site) -> None:
    """What was asked for and not answered is not missing."""
    site.sync()
    site.authority.left_out = {"c"}
    with pytest.raises(SecretsError, match=r"C \(c\): malformed"):
        site.sync()

    assert site.values()["C"] == "3"


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
def test_a_value_that_no_environment_can_carry_is_refused(site: Site) -> None:
    """A NUL would end the value early."""
    site.authority.values["a"] = f"{CANARY}\0rest"
    with pytest.raises(SecretsError, match="NUL") as caught:
        site.sync()

    assert CANARY not in caught.value.message
    assert site.values() == {}


@pytest.mark.req("SEC-1")
def test_a_key_that_is_gone_upstream_goes_here_and_stays_gone(site: Site) -> None:
    """It goes once, is not an error the next time, and comes back when it is there again."""
    site.sync()
    del site.authority.values["b"]

    assert site.sync().removed == ("B",)
    assert "B" not in site.values()
    assert site.secrets.about("B").state == "gone"
    assert site.sync().still_gone == ("B",)
    site.authority.values["b"] = "again"
    assert site.sync().added == ("B",)


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("other", ["by hand", "another place", "another ref"])
def test_only_its_own_authority_can_take_a_key_away(site: Site, other: str) -> None:
    """A secret that another Vault, another ref or a person gave is not gone because this one lacks it."""
    rows = ROWS
    if other == "by hand":
        site.sync(ROWS[1:])
        site.secrets.put("A", Secret("by hand"))
    else:
        site.sync()
    if other == "another place":
        site.authority.place = "https://empty-vault.example"
    if other == "another ref":
        rows = [Row("db", "A", "moved"), *ROWS[1:]]
    site.authority.values.pop("a")

    with pytest.raises(SecretsError, match="missing"):
        site.sync(rows)
    assert "A" in site.values()


@pytest.mark.req("SEC-1")
def test_many_keys_do_not_go_without_a_persons_word(site: Site) -> None:
    """An authority that was emptied by mistake does not empty the cache before a recovery."""
    site.sync()
    for ref in ("a", "b", "c"):
        del site.authority.values[ref]

    with pytest.raises(UnsafePlanError, match="3 of 4 keys would go: A, B, C"):
        site.sync()
    assert len(site.values()) == 4
    assert site.sync(accept_removals=True).removed == ("A", "B", "C")


def test_half_of_the_keys_may_go(site: Site) -> None:
    """The limit is where it is said to be."""
    site.sync()
    del site.authority.values["a"], site.authority.values["b"]

    assert site.sync().removed == ("A", "B")


def test_a_dry_run_asks_and_writes_nothing(site: Site) -> None:
    """What would change is told; refusals are the same."""
    assert site.sync(dry_run=True).added == ("A", "B", "C", "D")
    assert site.cache.writes == 0
    site.authority.troubles["a"] = Trouble.DENIED
    with pytest.raises(SecretsError):
        site.sync(dry_run=True)


@pytest.mark.req("SEC-2", "ROOT-5")
def test_a_sync_that_was_overtaken_asks_again(site: Site) -> None:
    """Another writer changed a key after the authority had answered: the older answer does not win."""
    turns: list[int] = []

    def rotated() -> None:
        turns.append(1)
        if len(turns) == 1:
            site.authority.values["a"] = "rotated"
            Secrets(site.cache, site.clock).put("A", Secret("rotated"))

    site.authority.before_answer = rotated
    site.sync()

    assert len(turns) == 2
    assert site.values()["A"] == "rotated"
    assert site.secrets.about("A").origin.authority == "vault"


@pytest.mark.req("SEC-2", "ROOT-5")
def test_what_others_write_beside_a_sync_stays(site: Site) -> None:
    """Other keys of the same moment are neither lost nor a reason to ask again."""
    site.authority.before_answer = lambda: (site.secrets.put("OTHER", Secret("x")), None)[1]
    site.sync()

    assert site.values() == {"A": "1", "B": "2", "C": "3", "D": "4", "OTHER": "x"}
    assert site.authority.asked == 1


@pytest.mark.req("SEC-2")
def test_a_sync_among_busy_writers_gives_up_with_an_error(site: Site) -> None:
    """It does not go on for ever, and overwrites nobody."""
    count = iter(range(100))
    site.authority.before_answer = lambda: (site.secrets.put("A", Secret(f"hand {next(count)}")), None)[1]

    with pytest.raises(SecretsError, match="others keep writing") as caught:
        site.sync()
    assert caught.value.effect is Effect.NONE
    assert site.authority.asked == 3
    assert site.values() == {"A": "hand 2"}


@pytest.mark.req("SEC-1")
def test_ensure_proves_presence_and_age(site: Site) -> None:
    """Absent, gone, too old and of unknown age are all named; nothing is made up then."""
    site.sync()
    site.cache.update(lambda text: text + b"FOREIGN=x\n")
    site.pass_time(100)
    site.secrets.ensure(["A", "B"], age_max_s=100)

    with pytest.raises(SecretsError) as caught:
        site.secrets.ensure(["A", "FOREIGN", "NEVER"], generate=True, age_max_s=99)
    for word in ("A: 100 s old", "FOREIGN: of unknown age"):
        assert word in caught.value.message
    assert "NEVER" not in site.values()
    with pytest.raises(SecretsError, match="NEVER: absent"):
        site.secrets.ensure(["NEVER"])
    with pytest.raises(ConfigError):
        site.secrets.ensure(["not a name"], generate=True)


@pytest.mark.req("SEC-1")
def test_an_age_from_the_future_proves_nothing(site: Site) -> None:
    """A clock that was set back does not make an old value young."""
    site.sync()
    site.clock.jump_wall(-86400)

    with pytest.raises(SecretsError):
        site.secrets.ensure(["A"], age_max_s=1e9)


@pytest.mark.req("SEC-1")
def test_ensure_makes_up_what_is_absent_and_never_what_is_there(site: Site) -> None:
    """Long, different, and marked as generated."""
    site.secrets.put("OURS", Secret("kept"))

    assert site.secrets.ensure(["OURS", "X", "Y"], generate=True) == ["X", "Y"]
    values = site.values()
    assert values["OURS"] == "kept"
    assert len(values["X"]) >= 40
    assert values["X"] != values["Y"]
    assert site.secrets.about("X").origin.authority == "generated"
    assert site.secrets.ensure(["X"], generate=True) == []
    assert site.values() == values


@pytest.mark.req("SEC-2")
def test_only_named_keys_come_out(site: Site) -> None:
    """An environment holds what was asked for; an absent key is an error that names it."""
    site.sync()

    assert set(site.secrets.environment(["A", "C"])) == {"A", "C"}
    with pytest.raises(SecretsError, match="no value for NEVER"):
        site.secrets.environment(["A", "NEVER"])


def test_a_value_that_cannot_be_kept_is_refused(site: Site) -> None:
    """By hand as from an authority."""
    with pytest.raises(ConfigError):
        site.secrets.put("A", Secret("a\0b"))
    assert site.cache.writes == 0


STATES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1", "2", *Trouble]), max_size=4)


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@given(states=st.lists(STATES, min_size=1, max_size=6))
def test_the_cache_is_always_what_some_whole_sync_left(states: list[dict[str, str]]) -> None:
    """Any history of rotations, deletions and troubles: a sync ends with upstream's values, or with the old cache."""
    site = Site()
    for state in states:
        site.authority.troubles = {ref: Trouble(word) for ref, word in state.items() if word in list(Trouble)}
        site.authority.values = {ref: word for ref, word in state.items() if word not in list(Trouble)}
        before = site.cache.data
        try:
            site.sync()
        except (SecretsError, UnsafePlanError):
            assert site.cache.data == before
        else:
            assert site.values() == {ref.upper(): value for ref, value in site.authority.values.items()}
            assert parse(site.cache.data, source="cache").revision > parse(before, source="cache").revision
