"""Whatever bytes lie where a record is expected: a record that says the same again, or the one error that names it.

Every kind of the registry is tried, so none can be forgotten. `HYOPS_FUZZ` is the number of mutants of each kind,
`HYOPS_SEED` where they begin; by default the loop's kinds get 10^5 each and the others a sample.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import resource
import time
from collections.abc import Iterator
from importlib import import_module

import pytest

import hyops.model
from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.base import Part, Record, build_all
from hyops.model.schemas import TYPES, type_of
from json_mutants import Mutants
from record_examples import examples

LOOP = ("decision", "request", "approval", "execution", "attempt", "outcome", "refusal", "hold", "told")
"""What the stages of the loop read of each other's."""
SEED = int(os.environ.get("HYOPS_SEED", "1"))
ASKED = os.environ.get("HYOPS_FUZZ")
OF_THE_LOOP = 100_000
PARTS = 4
"""A kind of the loop is tried in so many tests, so that two cores share the slow ones."""
OTHERS_BYTES = 600_000
"""A kind that is not the loop's: as many mutants as make this many bytes."""
CPU_MAX_S = 1.0
MEMORY_MAX_KB = 100 * 1024
SOURCE = "requests/a.json"
EXAMPLES = {name: canonical.encode(value) for name, value in examples().items()}


def cases(name: str) -> int:
    """How many mutants of a kind are tried in one part."""
    if name in LOOP:
        return int(ASKED or OF_THE_LOOP) // PARTS
    return int(ASKED or OTHERS_BYTES // len(EXAMPLES[name]))


def kinds_below(kind: type[Part]) -> Iterator[type[Part]]:
    """Every class of records that there is."""
    for below in kind.__subclasses__():
        yield below
        yield from kinds_below(below)


@pytest.mark.req("LOOP-2")
def test_every_kind_of_record_is_fuzzed() -> None:
    """A new kind is in the registry, and one in the registry has an example here that its parser takes."""
    for module in pkgutil.iter_modules(hyops.model.__path__):
        import_module(f"hyops.model.{module.name}")
    registered = {type_of(name) for name in TYPES}
    kept = {kind for kind in kinds_below(Record) if not inspect.isabstract(kind)}
    assert kept <= registered, {kind.__name__ for kind in kept - registered}
    assert sorted(EXAMPLES) == sorted(TYPES)
    for name, data in EXAMPLES.items():
        type_of(name).read(data, source=name)


def taken(kind: type[Part], data: bytes, which: str) -> bool:
    """Whether it is a record; AssertionError for what is neither one nor refused as it should be."""
    told = f"{which}: {data[:2000]!r}"
    try:
        record = kind.read(data, source=SOURCE)
    except RecordError as exc:
        place = exc.message.removeprefix(f"{SOURCE}: ")
        if place in ("", exc.message):
            raise AssertionError(f"{told}: {exc.message!r} names no place") from exc
        return False
    except BaseException as exc:
        raise AssertionError(told) from exc
    written = canonical.encode(record.body())
    again = kind.read(written, source="again")
    assert again == record, told
    assert canonical.encode(again.body()) == written, told
    return True


@pytest.mark.req("LOOP-2", "INV-5", "INV-7")
@pytest.mark.parametrize(("name", "part"), [(n, p) for n in TYPES for p in range(PARTS if n in LOOP else 1)])
def test_any_bytes_are_a_record_or_an_error_that_names_them(name: str, part: int) -> None:
    """Accepted means: written again it is the same record in the same bytes. Refused: source and place are told."""
    kind, mutants, count = type_of(name), Mutants(EXAMPLES[name], SEED * PARTS + part), cases(name)
    build_all()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted, slowest_s = 0, 0.0
    for number in range(count):
        data = mutants.next()
        began_s = time.thread_time()
        accepted += taken(kind, data, f"mutant {number} of {name}, part {part}, HYOPS_SEED={SEED}")
        slowest_s = max(slowest_s, time.thread_time() - began_s)
    assert slowest_s < CPU_MAX_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MEMORY_MAX_KB
    if count >= 500:  # mutants are neither all broken nor all harmless
        assert count / 50 < accepted < count * 0.9, accepted


@pytest.mark.req("LOOP-2", "INV-5")
@pytest.mark.parametrize("status", [{}, [], ["degraded"], None, 7, True])
def test_a_status_that_is_no_word_is_refused_with_its_place(status: object) -> None:
    """A fuzzed decision stopped the dispatcher with a bug once: the older spellings were looked up with a mapping."""
    body = examples()["decision"]
    checks = [{**body["checks"][0], "status": status}]
    with pytest.raises(RecordError, match=r"^a\.json: checks\.0\.status: "):
        type_of("decision").read(canonical.encode({**body, "checks": checks}), source="a.json")


@pytest.mark.req("LOOP-2", "INV-5")
@pytest.mark.parametrize("pattern", ["a{1,99999999999999999999}", "[a--b]", "[[a]", "(" * 400, "(?P<a>"])
def test_a_pattern_that_is_none_is_refused_with_its_place(pattern: str) -> None:
    """Whatever the library says of it, in whichever way, is the specification's error."""
    body = examples()["module-spec"]
    inputs = {"a": {"type": "text", "about": "a", "pattern": pattern}}
    with pytest.raises(RecordError, match=r"^spec\.yml: inputs\.a: .*pattern: "):
        type_of("module-spec").of({**body, "inputs": inputs}, source="spec.yml")
