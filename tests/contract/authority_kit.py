"""The conformance kit of authorities (SEC-1): every adapter keeps it against a fake of its service over real sockets.

An adapter's test gives a `Place`: how to write and delete secrets there, and how to make the authority that reads them.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.server import FLOOD_BYTES, FakeServer, authority_files
from hyops.errors import ConfigError, PrerequisiteError
from hyops.ports.authority import Answer, Authority, Fetched, Refused, Trouble
from waiting import PATIENCE_S

CANARY = "c4nary-upstream-9d1e"
LIMIT_S = PATIENCE_S
HOSTILE = [b"[" * 400_000, b'{"data":' * 100_000, b"9" * 10_000, b"\xff", b"[]", b"5", b"null", b'"text"', b""]


class Place:
    """One service with secrets in it. Names are plain words; `ref` turns one into a reference."""

    server: FakeServer

    @abstractmethod
    def put(self, name: str, value: str) -> None:
        """A new version."""

    @abstractmethod
    def put_bytes(self, name: str, value: bytes) -> None:
        """A value that is no text."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Gone, as an administrator deletes it."""

    @abstractmethod
    def deny(self, name: str) -> None:
        """Nobody may read this one."""

    @abstractmethod
    def authority(self, *, limit_s: float = LIMIT_S, ca: Path | None = None, login: str = "good") -> Authority:
        """`login`: good, bad (refused by the service), absent (nothing to log in with). `ca`: whom to trust."""

    @abstractmethod
    def own_secrets(self) -> list[str]:
        """What the login is made with, which must show nowhere."""

    def ref(self, name: str) -> str:
        """The reference of a name."""
        return name


class AuthorityKit:
    """Subclass, give `place`, and name what differs."""

    bad_refs: tuple[str, ...] = ()
    misplaced_ref: str | None = None
    has_seal = True
    has_versions = True
    absent_login_is_denied = False

    @abstractmethod
    @contextmanager
    def opened(self, folder: Path, *, tls: bool = True) -> Iterator[Place]:
        """The service, serving."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Place]:
        """The service with two secrets."""
        with self.opened(tmp_path) as place:
            place.put("alpha", CANARY)
            place.put("beta", "two\nlines 'of' \"it\" ä")
            yield place

    def read(self, place: Place, *names: str, authority: Authority | None = None) -> dict[str, Answer]:
        """Name -> answer; what is said shows no secret."""
        asked = authority or place.authority(ca=authority_files()[0])
        answers = asyncio.run(asked.read([place.ref(name) for name in names]))
        shown = repr(answers)
        for secret in (CANARY, *place.own_secrets()):
            assert secret not in shown
        return {name: answers[place.ref(name)] for name in names}

    def trouble(self, place: Place, name: str = "alpha", authority: Authority | None = None) -> Trouble:
        """The trouble of one secret that was asked for alone."""
        answer = self.read(place, name, authority=authority)[name]
        assert isinstance(answer, Refused), answer
        return answer.trouble

    @pytest.mark.req("SEC-1")
    def test_it_reads_many_at_once(self, place: Place) -> None:
        """Every ref has its own value, lines and quotes as they are."""
        answers = self.read(place, "alpha", "beta")

        values = {name: one.value.reveal() for name, one in answers.items() if isinstance(one, Fetched)}
        assert values == {"alpha": CANARY, "beta": "two\nlines 'of' \"it\" ä"}

    def test_nothing_asked_is_nothing_answered(self, place: Place) -> None:
        """An empty list is no error."""
        assert asyncio.run(place.authority(ca=authority_files()[0]).read([])) == {}

    @pytest.mark.req("SEC-1")
    def test_it_reads_what_is_there_now(self, place: Place) -> None:
        """A rotated value is seen at once, with another version."""
        first = self.read(place, "alpha")["alpha"]
        place.put("alpha", "rotated")
        second = self.read(place, "alpha")["alpha"]

        assert isinstance(first, Fetched)
        assert isinstance(second, Fetched)
        assert second.value.reveal() == "rotated"
        assert (second.version != first.version) is self.has_versions

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_what_never_was_and_what_was_deleted_is_missing(self, place: Place) -> None:
        """Only these two are certain to be gone; the others of the same read are answered."""
        place.put("gone", "x")
        place.delete("gone")
        answers = self.read(place, "alpha", "gone", "never")

        assert isinstance(answers["alpha"], Fetched)
        assert [a.trouble for a in answers.values() if isinstance(a, Refused)] == [Trouble.MISSING, Trouble.MISSING]

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_what_we_may_not_read_is_denied_not_missing(self, place: Place) -> None:
        """A right that was taken away takes no key out of the cache."""
        place.deny("beta")
        answers = self.read(place, "alpha", "beta")

        assert isinstance(answers["alpha"], Fetched)
        assert isinstance(answers["beta"], Refused)
        assert answers["beta"].trouble is Trouble.DENIED

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_a_refused_login_denies_everything(self, place: Place) -> None:
        """Every ref says so; none is missing."""
        asked = place.authority(ca=authority_files()[0], login="bad")
        answers = self.read(place, "alpha", "never", authority=asked)

        assert {a.trouble for a in answers.values() if isinstance(a, Refused)} == {Trouble.DENIED}
        assert len(answers) == 2

    @pytest.mark.req("SEC-1")
    def test_without_a_login_nobody_is_asked(self, place: Place) -> None:
        """A credential that is not there is said before anything is sent."""
        asked = place.authority(ca=authority_files()[0], login="absent")
        if self.absent_login_is_denied:
            assert self.trouble(place, authority=asked) is Trouble.DENIED
        else:
            with pytest.raises(PrerequisiteError):
                asyncio.run(asked.read([place.ref("alpha")]))
        assert place.server.seen == []

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_a_sealed_authority_says_so(self, place: Place) -> None:
        """Sealed is neither missing nor broken."""
        if not self.has_seal:
            pytest.skip("this service has no seal and no key service that its API shows")
        place.server.be("sealed")

        assert self.trouble(place) is Trouble.SEALED

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_a_throttled_authority_is_asked_again_and_then_given_up(self, place: Place) -> None:
        """One refusal is waited out; when it goes on, or lasts longer than the limit, that is the trouble."""
        place.server.be("throttled 0", turns=1)
        assert isinstance(self.read(place, "alpha")["alpha"], Fetched)

        place.server.be("throttled 3600")
        assert self.trouble(place) is Trouble.THROTTLED

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    @pytest.mark.parametrize("mode", ["hang", "drip"])
    def test_an_authority_that_keeps_silent_is_unreachable_in_time(self, place: Place, mode: str) -> None:
        """The limit bounds the whole read, also when a byte comes now and then."""
        place.server.be(mode)

        asked = place.authority(ca=authority_files()[0], limit_s=0.3)
        began = time.monotonic()
        answers = self.read(place, "alpha", "beta", authority=asked)
        assert time.monotonic() - began < 25  # the fake gives up after 30
        assert {a.trouble for a in answers.values() if isinstance(a, Refused)} == {Trouble.UNREACHABLE}

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_an_authority_that_is_down_is_unreachable(self, tmp_path: Path) -> None:
        """Nobody listens: every ref is unreachable, and nothing is taken for missing."""
        with self.opened(tmp_path) as place:
            asked = place.authority(ca=authority_files()[0])

        assert self.trouble(place, authority=asked) is Trouble.UNREACHABLE

    @pytest.mark.req("SEC-1", "SEC-2")
    @pytest.mark.fault(21)
    def test_a_certificate_that_is_not_trusted_gets_nothing(self, place: Place) -> None:
        """Another CA: no request, no login and no token is sent."""
        asked = place.authority(ca=authority_files()[2])

        assert self.trouble(place, authority=asked) is Trouble.UNREACHABLE
        assert place.server.seen == []

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    @pytest.mark.parametrize("mode", ["cut", "garbage", "html", "broken", "elsewhere"])
    def test_half_an_answer_or_somebody_elses_is_never_missing(self, place: Place, mode: str) -> None:
        """Cut bodies, broken JSON, a proxy's page, an inner error, a redirect: an error each, and no key would go."""
        place.server.be(mode)

        assert self.trouble(place) in {Trouble.MALFORMED, Trouble.MISPLACED, Trouble.UNREACHABLE, Trouble.DENIED}
        assert not [seen for seen in place.server.seen if seen.path.startswith("/elsewhere")]

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    @pytest.mark.parametrize("mode", ["flood", "flood 400", "flood 500"])
    def test_an_answer_without_an_end_is_read_no_further_than_the_limit(self, place: Place, mode: str) -> None:
        """Of a value and of an error alike: the connection is closed on it, and nothing is taken for missing."""
        place.server.be(mode)

        assert self.trouble(place) is Trouble.MALFORMED
        assert len(place.server.seen) == 1
        assert place.server.flooded_bytes < FLOOD_BYTES

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    @pytest.mark.parametrize("said", HOSTILE, ids=lambda said: repr(said[:12]))
    def test_a_body_of_another_shape_is_no_answer(self, place: Place, said: bytes) -> None:
        """However deep, long or odd: a trouble of this one ref, and never a bug of ours."""
        place.server.be("raw")
        place.server.said = said

        assert self.trouble(place) in {Trouble.MALFORMED, Trouble.MISPLACED, Trouble.UNREACHABLE, Trouble.DENIED}

    @pytest.mark.req("SEC-1")
    def test_a_wrong_place_is_not_a_missing_secret(self, place: Place) -> None:
        """A mount, project or vault that is not there says nothing about the secret."""
        if self.misplaced_ref is None:
            pytest.skip("a wrong place of this service is another address")
        answers = asyncio.run(place.authority(ca=authority_files()[0]).read([self.misplaced_ref]))

        answer = answers[self.misplaced_ref]
        assert isinstance(answer, Refused)
        assert answer.trouble in {Trouble.MISPLACED, Trouble.DENIED}

    @pytest.mark.req("SEC-1")
    def test_a_value_that_is_no_text_is_refused(self, place: Place) -> None:
        """Bytes, numbers, lists: an environment could not carry them."""
        place.put_bytes("binary", b"\xff\xfe\x00")

        assert self.trouble(place, "binary") is Trouble.MALFORMED

    @pytest.mark.req("SEC-1")
    def test_a_reference_of_the_wrong_form_asks_nobody(self, place: Place) -> None:
        """One bad ref among good ones: a config error that names it."""
        for ref in self.bad_refs:
            with pytest.raises(ConfigError) as caught:
                asyncio.run(place.authority(ca=authority_files()[0]).read([place.ref("alpha"), ref]))
            assert ref in caught.value.message
        assert place.server.seen == []

    @pytest.mark.req("SEC-2", "INV-10")
    @pytest.mark.fault(21)
    @pytest.mark.parametrize("mode", ["truth", "cut", "garbage", "broken"])
    def test_errors_and_tracebacks_show_no_secret(self, place: Place, mode: str) -> None:
        """Neither values nor what we log in with, in answers, their causes, or a URL that was asked."""
        place.server.be(mode)
        asked = place.authority(ca=authority_files()[0])
        try:
            shown = repr(asyncio.run(asked.read([place.ref("alpha"), place.ref("never")])))
        except (ConfigError, PrerequisiteError) as exc:
            shown = "".join(traceback.format_exception(exc))

        lines = [seen.path for seen in place.server.seen]
        for secret in (CANARY, *place.own_secrets()):
            assert secret not in shown
            assert not [line for line in lines if secret in line]
