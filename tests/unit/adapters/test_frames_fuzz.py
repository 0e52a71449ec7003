"""A runner that answers slowly, never, or with garbage: nothing hangs past its limits, nothing becomes a success.

Every case is one verb on one link, answered by a mutated answer. Time is the loop's own and only moves when everybody
waits, so a limit of a minute costs nothing. `HYOPS_FUZZ` is the number of cases, `HYOPS_SEED` where they begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import resource
import selectors
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest

from hyops._version import __version__
from hyops.adapters import runner_session
from hyops.adapters.runner_link import EndedError
from hyops.adapters.runner_session import CACHE_FACTS, CALL_LIMIT_S, SILENCE_S, FramedSession
from hyops.cli.run_view import RunView
from hyops.errors import HyopsError, RunnerUnreachableError
from hyops.model import wire
from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from hyops.ports.transport import RunReturn
from hyops.testing.evidence import VERIFIER, failover
from hyops.testing.runs import bundle_of, noop_plan, spec_of

CASES = int(os.environ.get("HYOPS_FUZZ", "100000"))
SEED = int(os.environ.get("HYOPS_SEED", "1"))
MEMORY_MAX_KB = 200 * 1024
HOME = failover().run_return
RUN = HOME.result.run_id
SPEC = spec_of(noop_plan())
RETURN = HOME.result.encoded(), HOME.journal, b"log"
STATUS = {"run_id": RUN, "state": "running", "epoch": 3, "outcome": None, "facts": {"service": "pg"}}
GOOD: dict[str, tuple[dict[str, Any], bytes]] = {
    "hello": (
        {
            "ok": True,
            "runner_ref": "cloud-runner",
            "site": "cloud",
            "hyops_version": "0",
            "protocol_min": PROTOCOL_MIN,
            "protocol_max": PROTOCOL_MAX,
            "disk_free_bytes": 1,
            "open_runs": [RUN],
        },
        b"",
    ),
    "offer": ({"ok": True, "missing": []}, b""),
    "ship": ({"ok": True, "files": 1}, b""),
    "start": ({"ok": True, "started": "started"}, b""),
    "status": ({"ok": True, "status": STATUS}, b""),
    "jobs": ({"ok": True, "jobs": [STATUS]}, b""),
    "resume": ({"ok": True, "status": STATUS}, b""),
    "cancel": ({"ok": True, "status": STATUS}, b""),
    "gc": (
        {"ok": True, "runs": [{"run_id": RUN, "goes": True, "why": "old"}], "cache": dict.fromkeys(CACHE_FACTS, 1)},
        b"",
    ),
    "attach": ({"ok": True, "event": {"stream": "end", "offset": 7, "body": {"state": "finished"}}}, b""),
    "collect": (
        {"ok": True, "result_bytes": len(RETURN[0]), "journal_bytes": len(RETURN[1])},
        b"".join(RETURN),
    ),
    "collected": ({"ok": True}, b""),
}
FRAMES = {verb: wire.encode(*answer) for verb, answer in GOOD.items()}
FINISHED = wire.encode({"ok": True, "status": {**STATUS, "state": "finished"}})
REFUSED = {"error": "PrerequisiteError", "message": "no", "exit_code": 12, "effect": "none", "hint": "h", "facts": {}}
VERB_ASKED = re.compile(rb'"verb":\s*"([a-z-]+)"')
ODD: list[Any] = [None, True, -1, 2**70, 1.5, "", "\x00", "x" * 300, [], [[]], {}, {"a": [1]}, [None], "status", 1e308]
BROKEN = [b"", b"\n", b"{}\n", b"[]\n", b"null\n", b"NaN\n", b"[" * 3000 + b"\n", b"\xff\xfe\n", b'{"ok":true}\n']
BROKEN += [b'{"ok":false}\n', b'{"ok":true,"bytes":-1}\n', b'{"ok":true,"bytes":1e9}\n', b"9" * 5000 + b"\n", b"{" * 40]


class Loop(asyncio.SelectorEventLoop):
    """Time stands still while somebody works, and jumps to the next timer when nobody does."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.at = 0.0

    def time(self) -> float:
        """Seconds since the start, all of them jumped."""
        return self.at


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits, and nothing has a limit"
        self._loop.at += max(timeout, 0.0) + (1e-6 if timeout > 0 else 0.0)
        return []


class Link:
    """`Link` and `Pipe` in one: bytes that were made before, at the pace of `slow_s` a read, then `after`."""

    carries_link = False

    def __init__(self, answers: Callable[[str], bytes], slow_s: float, after: str) -> None:
        self._answers, self._slow_s, self._after = answers, slow_s, after
        self._data = b""

    async def open(self) -> Link:
        """Each pipe has its own bytes."""
        return Link(self._answers, self._slow_s, self._after)

    async def drop(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is kept."""

    async def write(self, data: bytes) -> None:
        """Whatever was asked, the answer is what the case says; a piece of a stream asks nothing."""
        if data.startswith(b"{"):
            self._data += self._answers(VERB_ASKED.findall(data.partition(b"\n")[0])[-1].decode())

    async def read_line(self) -> bytes:
        """As an adapter does it."""
        end = self._data.find(b"\n") + 1
        return await self._take(end if 0 < end <= wire.HEADER_MAX else wire.HEADER_MAX + 2)

    async def read_exactly(self, count: int) -> bytes:
        """As an adapter does it."""
        return await self._take(count)

    async def _take(self, count: int) -> bytes:
        if self._slow_s:
            await asyncio.sleep(self._slow_s)
        if len(self._data) < count:
            if self._after == "silence":
                await asyncio.Event().wait()
            raise EndedError(0) if self._after == "status 0" else ConnectionError("reset")
        data, self._data = self._data[:count], self._data[count:]
        return data


def mutated(rng: random.Random, header: dict[str, Any], payload: bytes) -> bytes:
    """One answer that is not what was said: a field, a byte, a length, the order, or all of it."""
    how = rng.randrange(9)
    if how == 0:
        return rng.choice(BROKEN)
    if how == 1:
        return rng.randbytes(rng.randrange(64)) + rng.choice([b"", b"\n"])
    if how == 2:
        error = {**REFUSED, rng.choice(list(REFUSED)): rng.choice(ODD)}
        return wire.encode({"ok": rng.choice([False, None, 1, "true"]), "error": rng.choice([error, error, *ODD])})
    if how in (3, 4, 5):
        header = _field(rng, header)
    whole = bytearray(wire.encode(header, payload))
    if how in (5, 6):
        for _ in range(rng.randrange(1, 4)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
    if how == 7:
        del whole[rng.randrange(len(whole)) :]
    if how == 8:
        verb = rng.choice(list(GOOD))
        return FRAMES[verb] + bytes(whole)
    return bytes(whole)


def _field(rng: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    """Another value, or none, somewhere in a header."""
    copy = deepcopy(header)
    place = copy
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            break
        place = inner
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(ODD)
    return dict(copy)


GREETED_SHARE = 0.75
"""Of the cases with a good greeting so many begin after it: it is the same each time, and half of the work."""
SPOKEN = {"protocol": PROTOCOL_MAX, "hyops_version": __version__}
FILES = bundle_of({"a": b"x"})
VERBS: dict[str, Callable[[FramedSession], Awaitable[Any]]] = {
    "hello": lambda s: s.hello(),
    "stage": lambda s: s.stage(RUN, FILES),
    "start": lambda s: s.start(SPEC, {"K": "v"}),
    "status": lambda s: s.status(RUN),
    "jobs": lambda s: s.jobs(),
    "resume": lambda s: s.resume(RUN, 1),
    "cancel": lambda s: s.cancel(RUN, 1, "why"),
    "gc": lambda s: s.gc(dry_run=True),
    "attach": lambda s: _followed(s),
    "collect": lambda s: s.collect(RUN),
}


async def _followed(session: FramedSession) -> None:
    async for _ in session.attach(RUN):
        pass


async def one(rng: random.Random, loop: Loop) -> tuple[str, Any]:
    """One case: the verb, and what came of it. Raises whatever no caller is told to expect."""
    verb = rng.choice(list(VERBS))
    bad = verb if verb != "stage" else "offer"
    good_first = rng.random() < 0.8

    def answers(asked: str) -> bytes:
        if verb == "attach" and asked == "status":  # one that runs on is followed for ever, and rightly
            return FINISHED
        if asked == bad or not good_first:
            return mutated(rng, *GOOD[asked])
        return FRAMES[asked]

    slow_s = rng.choice([0.0] * 8 + [1.0, 200.0])
    after = rng.choice(["reset", "reset", "status 0", "silence"])
    began = loop.time()
    session = FramedSession(Link(answers, slow_s, after), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
    if good_first and verb != "hello" and rng.random() < GREETED_SHARE:
        session._spoken = SPOKEN
    try:
        found: Any = await VERBS[verb](session)
    except HyopsError as exc:
        found = exc
    took_s = loop.time() - began
    assert took_s <= 3 * CALL_LIMIT_S + 2 * SILENCE_S + 210.0, (verb, took_s)
    assert session._room._value == runner_session.CHANNELS_MAX, verb
    return verb, found


@contextmanager
def virtual() -> Iterator[Loop]:
    """The loop of a test."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.req("RUN-11", "RUN-6", "INV-5", "INV-7")
@pytest.mark.fault(14, 33)
def test_whatever_a_runner_answers_is_an_answer_or_a_known_error() -> None:
    """Each verb ends within its limits, with a typed answer or an error of the tree; a return is the signed one."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    returns = errors = 0

    async def all_of_them(loop: Loop) -> None:
        nonlocal returns, errors
        for number in range(SEED, SEED + CASES):
            try:
                verb, found = await one(random.Random(number), loop)
            except Exception:
                print(f"case {number}: HYOPS_SEED={number} HYOPS_FUZZ=1")
                raise
            errors += isinstance(found, HyopsError)
            if verb == "collect" and isinstance(found, RunReturn):
                assert (found.result, found.journal) == (HOME.result, HOME.journal), number
                returns += 1

    with virtual() as loop:
        loop.run_until_complete(all_of_them(loop))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MEMORY_MAX_KB
    if CASES >= 1000:  # the cases are neither all broken nor all harmless
        assert CASES / 2 < errors < CASES * 0.98
        assert returns > CASES / 2000


@pytest.mark.req("RUN-11", "RUN-5")
@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("states", "after_s"),
    [(["running", "running", "finished"], 4 * SILENCE_S), (["interrupted"], 2 * SILENCE_S), ([None], SILENCE_S)],
    ids=["runs-and-ends", "died", "no-answer"],
)
def test_a_follow_that_stays_silent_is_given_up_once_the_run_no_longer_runs(
    states: list[str | None], after_s: float
) -> None:
    """The server of the follow hangs though the link lives: another channel tells, and the link counts as lost."""
    said = list(states)

    def answers(asked: str) -> bytes:
        if asked == "hello":
            return wire.encode(*GOOD[asked])
        if asked != "status":
            return b""
        state = said.pop(0) if len(said) > 1 else said[0]
        return wire.encode({"ok": True, "status": {**STATUS, "state": state}}) if state else b""

    async def body(loop: Loop) -> float:
        session = FramedSession(Link(answers, 0.0, "silence"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        with pytest.raises(HyopsError, match="link is lost"):
            await _followed(session)
        return loop.time()

    with virtual() as loop:
        took_s = loop.run_until_complete(body(loop))
    assert after_s <= took_s <= after_s + CALL_LIMIT_S + 1.0


@pytest.mark.req("RUN-11")
def test_a_run_that_says_nothing_for_a_day_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the runner says that it runs, silence is no fault (the guard against giving up too early)."""

    def answers(asked: str) -> bytes:
        return wire.encode(*GOOD[asked]) if asked in ("hello", "status") else b""

    async def body() -> None:
        session = FramedSession(Link(answers, 0.0, "silence"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_followed(session), 86400.0)

    with virtual() as loop:
        loop.run_until_complete(body())
        assert loop.time() >= 86400.0


class Narrow(Link):
    """A link with so many bytes a second, that goes silent once `until` bytes of a payload have come."""

    per_s, until = 100 * 1024, 1 << 40

    async def open(self) -> Link:
        """One more of the same width."""
        return type(self)(self._answers, self._slow_s, self._after)

    async def read_exactly(self, count: int) -> bytes:
        """Byte by byte, as far as the reader can tell."""
        if count > self.until:
            await asyncio.Event().wait()
        self.until -= count
        self._slow_s = count / self.per_s
        return await self._take(count)


def large(asked: str) -> bytes:
    """Good answers; a return brings a log of 9 MiB."""
    header, payload = GOOD[asked]
    return wire.encode(header, payload + b"x" * (9 << 20) if asked == "collect" else payload)


@pytest.mark.req("RUN-11", "RUN-6")
def test_a_large_return_may_take_longer_than_a_minute() -> None:
    """9 MiB over 0.8 Mbit/s: a minute and a half, in which something comes all the time; the return is whole."""

    async def body() -> RunReturn:
        return await FramedSession(Narrow(large, 0.0, "reset"), "cloud-runner", VERIFIER).collect(RUN)  # type: ignore[arg-type]

    with virtual() as loop:
        home = loop.run_until_complete(body())
        assert loop.time() > 1.5 * CALL_LIMIT_S
    assert (home.result, home.journal, len(home.log)) == (HOME.result, HOME.journal, 3 + (9 << 20))


@pytest.mark.req("RUN-11", "RUN-6")
@pytest.mark.parametrize(
    ("until", "told"),
    [
        (3 << 20, r"3145728 of \d+ bytes of the answer to collect came, then less than 262144 more within"),
        (0, "no answer"),
    ],
    ids=["in-the-middle", "no-answer"],
)
def test_a_return_that_stops_coming_is_given_up_with_the_limit(
    monkeypatch: pytest.MonkeyPatch, until: int, told: str
) -> None:
    """The link lives and brings nothing more: given up a minute later, and the error says how far it came."""
    monkeypatch.setattr(Narrow, "until", until)
    answers = large if until else lambda asked: b"" if asked == "collect" else large(asked)

    async def body(loop: Loop) -> float:
        session = FramedSession(Narrow(answers, 0.0, "silence"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        with pytest.raises(RunnerUnreachableError, match=f"{told}.* 60 s"):
            await session.collect(RUN)
        return loop.time()

    with virtual() as loop:
        took_s = loop.run_until_complete(body(loop))
    assert took_s <= until / Narrow.per_s + CALL_LIMIT_S + 1.0


@pytest.mark.req("RUN-11", "INV-5")
@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_runner_answers_to_a_stream_is_an_answer_or_a_known_error(seed: int) -> None:
    """It asks for the file, and says garbage when it is shipped; files are read in threads, so in real time."""
    rng = random.Random(seed)
    wanted = {"ok": True, "missing": [FILES["a"].digest]}

    def answers(asked: str) -> bytes:
        if asked == "ship":
            return mutated(rng, *GOOD["ship"])
        return wire.encode(wanted, b"") if asked == "offer" else wire.encode(*GOOD[asked])

    async def staged() -> None:
        session = FramedSession(Link(answers, 0.0, "reset"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        with contextlib.suppress(HyopsError):
            assert (await session.stage(RUN, FILES)).shipped_files == 1
        assert session._room._value == runner_session.CHANNELS_MAX

    asyncio.run(staged())


@pytest.mark.req("RUN-11", "INV-5")
@pytest.mark.parametrize(("verb", "asked", "lacks"), [("jobs", "jobs", "jobs"), ("stage", "offer", "missing")])
def test_an_answer_without_its_list_is_no_empty_list(verb: str, asked: str, lacks: str) -> None:
    """A bare `ok` says neither that there are no runs nor that nothing is to be shipped: exit 22, not 0."""

    def answers(said: str) -> bytes:
        return wire.encode({"ok": True}) if said == asked else wire.encode(*GOOD[said])

    async def body() -> None:
        session = FramedSession(Link(answers, 0.0, "reset"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        with pytest.raises(RunnerUnreachableError, match=f"answered with no {lacks}") as caught:
            await VERBS[verb](session)
        assert caught.value.exit_code == 22

    with virtual() as loop:
        loop.run_until_complete(body())


@pytest.mark.req("RUN-11", "INV-8")
def test_what_a_runner_tells_of_a_run_is_shown_as_text() -> None:
    """No escape of a terminal comes through an event or a verdict of `gc`, and so to no line that is shown."""
    evil = "\x1b]0;pwn\x07\x1b[2J\u202e\r\n"
    step = {"id": evil, "phase": evil, "title": evil, "module_ref": evil}
    opened = {"runner_ref": evil, "service": evil, "generation": 1, "steps": [step], "access": {"plane": evil}}
    journal = [
        {"kind": "run-opened", "at": "2026-03-14T03:00:07.000000Z", "t": 0.0, "body": opened},
        {"kind": "note", "at": evil, "t": 0.1, "body": {"preflight": evil, "faults": [evil]}},
        {"kind": "outcome", "at": evil, "t": 0.2, "body": {"step": evil, "outcome": evil, "reason": evil}},
        {"kind": "run-closed", "at": evil, "t": 0.3, "body": {"outcome": evil, "reason": evil, evil: evil}},
    ]
    told = [("journal", body) for body in journal] + [("log", {"line": evil}), ("end", {"state": evil})]
    frames = b"".join(
        wire.encode({"ok": True, "event": {"stream": stream, "offset": n, "body": body}})
        for n, (stream, body) in enumerate(told)
    )
    verdict = {"run_id": evil, "goes": False, "why": evil}

    def answers(said: str) -> bytes:
        if said == "gc":
            return wire.encode({**GOOD["gc"][0], "runs": [verdict]})
        return frames if said == "attach" else wire.encode(*GOOD[said])

    async def body() -> None:
        session = FramedSession(Link(answers, 0.0, "reset"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        view, lines = RunView(RUN), []
        async for event in session.attach(RUN):
            assert all(text.isprintable() for text in texts_in(event.body))
            lines.append(view.take(event) or "")
        (found,) = (await session.gc(dry_run=True)).runs
        lines += [found.run_id, found.why, *view.log]
        assert all(line.isprintable() for line in lines)
        assert sum("\\x1b]0;pwn\\x07" in line for line in lines) >= 6

    with virtual() as loop:
        loop.run_until_complete(body())


def texts_in(value: Any) -> list[str]:
    """Every text of a JSON value, names included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts_in(part)]
    if isinstance(value, list):
        return [text for item in value for text in texts_in(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.req("RUN-11", "INV-8")
def test_what_a_runner_says_of_itself_and_its_runs_is_shown_as_text() -> None:
    """No escape of a terminal comes through hello or a status; numbers stay numbers."""
    evil = "\x1b[2J\u202e"
    facts = {"service": evil, evil: 1, "epoch_seen": 7, "odd": [evil]}

    def answers(said: str) -> bytes:
        if said == "hello":
            return wire.encode({**GOOD["hello"][0], "site": evil, "hyops_version": evil, "open_runs": [evil]})
        return wire.encode({"ok": True, "jobs": [{**STATUS, "run_id": evil, "outcome": evil, "facts": facts}]})

    async def body() -> None:
        session = FramedSession(Link(answers, 0.0, "reset"), "cloud-runner", VERIFIER)  # type: ignore[arg-type]
        hello, (job,) = await session.hello(), await session.jobs()
        told = [hello.site, hello.hyops_version, *hello.open_runs, job.run_id, str(job.outcome), *job.facts]
        assert all(word.isprintable() for word in [*told, *map(str, job.facts.values())])
        assert job.facts["epoch_seen"] == 7

    with virtual() as loop:
        loop.run_until_complete(body())
