"""A runner keeps the orders that its stages sealed, and nothing that comes over the link pushes one of them out."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hyops.adapters.signer_ed25519 import Ed25519Signer
from hyops.errors import HyopsError, PrerequisiteError, RecordError, StaleGenerationError, UnsafePlanError
from hyops.model import protocol, wire
from hyops.model.dsse import sign_record
from hyops.model.observed import Mode
from hyops.model.takeover import StandbyOrder
from hyops.model.vocabulary import RequestStatus
from hyops.runner import orders
from hyops.services.takeover_trust import refuse_unsealed
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.evidence import STAGES, VERIFIER, SeedSigner, SeedVerifier
from takeover_kit import GENERATION, JUDGE, SOURCE, Survivor, later, order_for, plan_for, resigned

pytestmark = [pytest.mark.req("INV-9", "INV-8")]

ORDER = order_for(EPOCH)
STRANGER = SeedSigner("stranger")


def _of(generation: int, at_s: float = 0.0) -> StandbyOrder:
    return order_for(later(EPOCH, at_s), mode=Mode(generation=generation, primary=SOURCE))


def _under(order: StandbyOrder, signer: SeedSigner, *parts: str) -> StandbyOrder:
    """The same with the signature of another under some of its records."""
    change = {part: sign_record(getattr(order, part), signer) for part in parts}
    return order.model_copy(update=change)


def _spelt_otherwise(data: bytes) -> bytes:
    """One signature with other bits at its end, which stand for no byte: it verifies as before."""
    sig = json.loads(data)["request"]["signature"]["sig"]
    other = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="
    assert base64.b64decode(other, validate=True) == base64.b64decode(sig, validate=True)
    return data.replace(sig.encode(), other.encode())


FORGED: dict[str, tuple[Callable[[], bytes], type[HyopsError], str]] = {
    "unsigned": (
        lambda: ORDER.model_copy(
            update={"request": ORDER.request.model_copy(update={"signature": None})}
        ).encoded(),
        RecordError,
        "unsigned",
    ),
    "a stranger decides": (lambda: _under(ORDER, STRANGER, "decision").encoded(), RecordError, "not trusted"),
    "a stranger asks": (lambda: _under(ORDER, STRANGER, "request").encoded(), RecordError, "not trusted"),
    "the executor asks": (
        lambda: _under(ORDER, STAGES["execution"], "request").encoded(), RecordError, "may not sign as dispatch"
    ),
    "the dispatcher decides": (
        lambda: _under(ORDER, STAGES["dispatch"], "decision").encoded(), RecordError, "may not sign as decision"
    ),
    "edited": (lambda: ORDER.encoded().replace(b"are lost", b"are gone"), UnsafePlanError, "another decision"),
    "an edited request": (
        lambda: ORDER.model_copy(
            update={"request": ORDER.request.model_copy(update={"rationale": "another"})}
        ).encoded(),
        RecordError,
        "not over these bytes",
    ),
    "another plan": (
        lambda: ORDER.model_copy(update={"plan": plan_for("cloud-runner", "x")}).encoded(), UnsafePlanError, "the plan"
    ),
    "other inputs": (
        lambda: ORDER.model_copy(
            update={"inputs": ORDER.inputs.model_copy(update={"now_s": 1.0})}
        ).encoded(),
        UnsafePlanError,
        "other inputs",
    ),
    "a denied request": (
        lambda: resigned(ORDER, "request", status=RequestStatus.DENIED, reason="no").encoded(),
        UnsafePlanError,
        "denied",
    ),
    "an order of the loop": (
        lambda: resigned(ORDER, "request", condition=None).encoded(), UnsafePlanError, "not for a takeover"
    ),
    "a dispatcher's own generation": (
        lambda: resigned(ORDER, "request", generation=GENERATION + 9).encoded(), UnsafePlanError, "what was decided"
    ),
    "a dispatcher's own service": (
        lambda: resigned(ORDER, "request", service="other").encoded(), UnsafePlanError, "what was decided"
    ),
    "spread over lines": (
        lambda: json.dumps(json.loads(ORDER.encoded()), indent=1).encode(), RecordError, "form in which it was sealed"
    ),
    "a signature spelt otherwise": (lambda: _spelt_otherwise(ORDER.encoded()), RecordError, "not base64"),
    "torn": (lambda: ORDER.encoded()[:-30], RecordError, "no standby order"),
    "empty": (lambda: b"", RecordError, "no standby order"),
    "no order": (lambda: b"{}", RecordError, "no standby order"),
    "for another runner": (
        lambda: order_for(EPOCH, runner_ref="other-runner").encoded(), UnsafePlanError, "other-runner"
    ),
    "a bundle that is not here": (
        lambda: order_for(EPOCH, plan=plan_for().model_copy(update={"bundle": {"a": "sha256:" + "2" * 64}})).encoded(),
        PrerequisiteError,
        "not staged",
    ),
}  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path) -> Survivor:
    """A runner in the other site."""
    return Survivor(tmp_path, FakeClock(EPOCH))


def _files(runner: Survivor) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in runner.folders.orders.iterdir()}


@pytest.mark.req("INV-4", "LOOP-2")
@pytest.mark.parametrize("name", FORGED)
def test_what_the_stages_did_not_seal_is_not_kept(runner: Survivor, name: str) -> None:
    """Whatever it says of itself: refused before a byte of it is written, and what lies there stays."""
    make, kind, why = FORGED[name]
    runner.hold(_of(GENERATION - 1))
    before = _files(runner)

    with pytest.raises(kind, match=why):
        orders.keep(runner.config, runner.folders, make(), JUDGE)
    assert _files(runner) == before


def test_forgeries_push_no_genuine_order_out(runner: Survivor) -> None:
    """Nine of a higher generation, signed by nobody who may: the genuine one is still what a takeover would run."""
    runner.hold(ORDER)
    for number in range(9):
        forged = _under(_of(GENERATION + 1 + number, number), STRANGER, "decision", "request")
        with pytest.raises(HyopsError):
            runner.hold(forged)

    assert list(_files(runner)) == [f"{ORDER.order_id}.json"]


def test_an_id_is_given_once(runner: Survivor) -> None:
    """Another genuine order with the id of one that lies here is refused; the same bytes are as good as kept."""
    runner.hold(ORDER)
    other = resigned(ORDER, "request", rationale="another")
    assert other.order_id == ORDER.order_id

    with pytest.raises(UnsafePlanError, match="with other bytes"):
        runner.hold(other)
    runner.hold(ORDER)
    assert _files(runner) == {f"{ORDER.order_id}.json": ORDER.encoded()}


@pytest.mark.parametrize("damaged", [b"", ORDER.encoded()[:-9], ORDER.encoded().replace(b"are lost", b"are gone")])
def test_what_a_disk_has_damaged_is_brought_anew(runner: Survivor, damaged: bytes) -> None:
    """The place of an order that verifies no more belongs to the one that does."""
    runner.folders.orders.joinpath(f"{ORDER.order_id}.json").write_bytes(damaged)

    runner.hold(ORDER)
    assert _files(runner) == {f"{ORDER.order_id}.json": ORDER.encoded()}


@pytest.mark.req("GEN-1")
def test_the_oldest_generation_goes_first_and_then_the_oldest_order(runner: Survivor) -> None:
    """A few are kept to look at: by generation, and within one by when they were sealed."""
    runner.hold(*(_of(n) for n in (3, 4, 5, 6)))
    runner.hold(_of(6, 60))
    assert _generations(runner) == [4, 5, 6, 6]
    runner.hold(_of(6, 120), _of(6, 180), _of(6, 240))

    assert _generations(runner) == [6, 6, 6, 6]
    assert f"{_of(6).order_id}.json" not in _files(runner)


@pytest.mark.req("GEN-1")
def test_a_replayed_order_of_old_is_refused_and_moves_nothing(runner: Survivor) -> None:
    """Genuine once, and older than all that lies here: it takes nobody's place, and whoever brings it is told."""
    runner.hold(*(_of(n) for n in (4, 5, 6, 7)))
    before = _files(runner)

    for old in (_of(3), _of(4, -60)):
        with pytest.raises(StaleGenerationError, match="older than the 4 that are kept"):
            runner.hold(old)
    assert _files(runner) == before


def test_one_signer_pushes_no_others_orders_out(runner: Survivor) -> None:
    """A second dispatcher's key that is trusted, and stolen, fills its own few places and no more."""
    second = SeedSigner("second dispatcher")
    known = {signer.public: VERIFIER.roles(signer.keyid) for signer in STAGES.values()}
    judge = partial(refuse_unsealed, verifier=SeedVerifier({**known, second.public: frozenset({"dispatch"})}))
    runner.hold(ORDER)

    for number in range(6):
        theirs = _under(_of(GENERATION, 60 + number), second, "request")
        orders.keep(runner.config, runner.folders, theirs.encoded(), judge)

    assert f"{ORDER.order_id}.json" in _files(runner)
    assert len(_files(runner)) == 1 + orders.KEPT


def test_what_lies_here_unverified_counts_for_nothing(runner: Survivor) -> None:
    """Planted beside them with high generations and genuine keys' names: a genuine one is kept all the same."""
    for number in range(orders.KEPT + 1):
        sealed = _of(50 + number)
        request = sealed.request.model_copy(update={"rationale": "edited after it was signed"})
        runner.plant(sealed.model_copy(update={"request": request}))

    runner.hold(ORDER)
    assert f"{ORDER.order_id}.json" in _files(runner)
    assert len(_files(runner)) == orders.KEPT + 2


def _generations(runner: Survivor) -> list[int]:
    return sorted(told["generation"] for told in orders.held(runner.folders))


@pytest.mark.req("INV-10")
def test_what_is_told_of_an_order_is_as_before(runner: Survivor) -> None:
    """A dispatcher of another version reads the same fields."""
    told = orders.keep(runner.config, runner.folders, ORDER.encoded(), JUDGE)
    wanted = {"order_id", "digest", "service", "runner_ref", "generation", "expires_at", "sealed_s"}

    assert set(told) == wanted
    assert set(orders.held(runner.folders)[0]) == wanted | {"stored_s"}


@pytest.mark.req("RUN-3")
def test_the_door_itself_verifies_by_the_keys_of_the_runners_own_file(runner: Survivor, tmp_path: Path) -> None:
    """`hyops runner-serve` as sshd starts it: under other keys the order is refused, under the stages' it is kept."""
    config, keys = runner.config, tmp_path / "keys"
    requests = wire.encode({"verb": "order", "protocol": protocol.PROTOCOL_MAX}, ORDER.encoded())
    words = [sys.executable, "-m", "hyops", "runner-serve", "--config", str(config.source)]

    def answered(*trusted: tuple[str, bytes]) -> dict[str, object]:
        entries = [{"public": base64.b64encode(public).decode(), "roles": [role]} for role, public in trusted]
        keys.write_text(json.dumps({"keys": entries}))
        done = subprocess.run(words, input=requests, capture_output=True, check=True, env=dict(os.environ))
        return dict(json.loads(done.stdout.splitlines()[0]))

    stages = [(role, STAGES[role].public) for role in ("decision", "dispatch")]
    refused = answered(("decision", Ed25519Signer.generate().public), stages[1])
    assert refused["ok"] is False
    assert "not trusted" in str(refused["error"])
    assert _files(runner) == {}
    assert answered(*stages)["ok"] is True
    assert list(_files(runner)) == [f"{ORDER.order_id}.json"]
