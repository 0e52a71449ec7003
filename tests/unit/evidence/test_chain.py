"""The chain names the first record that is altered, dropped, reordered, repeated, added or cut off."""

from __future__ import annotations

import base64
import json
import resource
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from hyops.errors import EvidenceError
from hyops.evidence import chain
from hyops.evidence.chain import BadRecordError, ChainWriter, Fault
from hyops.testing.evidence import STAGES, START, VERIFIER

SIGNER = STAGES["execution"]
BASE64 = string.ascii_letters + string.digits + "+/"


def fault_of(data: bytes) -> BadRecordError:
    """The refusal of a chain that must not verify."""
    with pytest.raises(BadRecordError) as caught:
        chain.read(data, VERIFIER)
    return caught.value


def small(path: Path, *, seal: bool = True) -> bytes:
    """A chain of four records."""
    writer = ChainWriter(path, SIGNER)
    for kind in ("opened", "note", "note"):
        writer.append(kind, START, {"n": writer.count}, {f"{kind}/{writer.count}": "sha256:" + "1" * 64})
    if seal:
        writer.seal(START)
    writer.close()
    return path.read_bytes()


@pytest.mark.req("EVD-2")
def test_a_whole_chain_reads_back(lines: list[bytes]) -> None:
    """Every record comes back in order, and the last one is the seal."""
    links = chain.read(b"".join(lines), VERIFIER)

    assert [link.entry.seq for link in links] == list(range(len(lines)))
    assert links[-1].entry.kind == "sealed"


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
@pytest.mark.parametrize("bit", [0, 6])
def test_any_flipped_byte_of_a_small_chain_is_named(tmp_path: Path, bit: int) -> None:
    """Whatever byte changes, the chain is refused, and the line it stands on is the one that is named."""
    data = small(tmp_path / "chain")
    for index in range(len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 1 << bit
        line = data[:index].count(b"\n") + 1

        bad = fault_of(bytes(flipped))

        assert bad.line in {line, line - (data[index - 1 : index] == b"\n")}, (index, str(bad))


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_in_a_real_bundle_is_named(lines: list[bytes], data: st.DataObject) -> None:
    """In a bundle with every kind of record, the line with the flipped bit is the one named."""
    number = data.draw(st.integers(0, len(lines) - 1))
    offset = data.draw(st.integers(0, len(lines[number]) - 2))
    broken = bytearray(lines[number])
    broken[offset] ^= 1 << data.draw(st.integers(0, 7))
    if b"\n" in broken[:-1]:
        return

    bad = fault_of(b"".join([*lines[:number], bytes(broken), *lines[number + 1 :]]))

    assert bad.line == number + 1


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_every_dropped_record_is_named(lines: list[bytes]) -> None:
    """A record that is missing is named by its number; a missing last one leaves the chain unsealed."""
    for number in range(len(lines) - 1):
        bad = fault_of(b"".join(lines[:number] + lines[number + 1 :]))

        assert (bad.fault, bad.line) == (Fault.DROPPED, number + 1)
        assert f"record {number} is missing" in bad.why


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_every_pair_of_swapped_records_is_named(lines: list[bytes]) -> None:
    """Two neighbours that changed places are named as reordered at the first of them."""
    for number in range(len(lines) - 1):
        swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]

        bad = fault_of(b"".join(swapped))

        assert (bad.fault, bad.line) == (Fault.REORDERED, number + 1)


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_every_repeated_record_is_named(lines: list[bytes]) -> None:
    """A record that stands twice is named where it stands again."""
    for number, line in enumerate(lines):
        bad = fault_of(b"".join([*lines[: number + 1], line, *lines[number + 1 :]]))

        expected = Fault.ADDED if number == len(lines) - 1 else Fault.REPEATED
        assert (bad.fault, bad.line) == (expected, number + 2)


@pytest.mark.req("EVD-2", "INV-7")
@pytest.mark.fault(31)
def test_a_chain_cut_between_records_is_unsealed(lines: list[bytes]) -> None:
    """However many records are cut off the end, the chain is visibly open."""
    for count in range(1, len(lines)):
        bad = fault_of(b"".join(lines[:count]))

        assert (bad.fault, bad.line) == (Fault.UNSEALED, count)


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_a_chain_cut_inside_a_record_is_truncated(tmp_path: Path) -> None:
    """A torn last line is named as such, at every length."""
    data = small(tmp_path / "chain")
    for length in range(len(data)):
        if length == 0 or data[length - 1 : length] != b"\n":
            assert fault_of(data[:length]).fault is Fault.TRUNCATED


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_a_record_by_an_unknown_key_is_named(lines: list[bytes]) -> None:
    """A line signed again with a key that nobody trusts is refused, naming the key."""
    envelope = json.loads(lines[3])
    envelope["signatures"][0]["keyid"] = "sha256:" + "9" * 64
    forged = json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    bad = fault_of(b"".join([*lines[:3], forged, *lines[4:]]))

    assert (bad.fault, bad.line) == (Fault.FOREIGN_KEY, 4)


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_a_chain_continued_by_another_trusted_key_is_refused(tmp_path: Path) -> None:
    """Trusted is not enough: one key writes a whole chain, so that stages cannot write each other's story."""
    writer = ChainWriter(tmp_path / "chain", SIGNER)
    writer.append("opened", START, {}, {"opened": "sha256:" + "1" * 64})
    writer._signer = STAGES["decision"]  # a stolen pen
    writer.seal(START)
    writer.close()

    bad = fault_of((tmp_path / "chain").read_bytes())

    assert (bad.fault, bad.line) == (Fault.FOREIGN_KEY, 2)


@pytest.mark.req("EVD-2")
def test_a_seal_from_another_chain_does_not_fit(tmp_path: Path, lines: list[bytes]) -> None:
    """The end of one chain cannot close another one."""
    other = small(tmp_path / "other").splitlines(keepends=True)

    bad = fault_of(b"".join([*lines[:3], other[3]]))

    assert (bad.fault, bad.line) == (Fault.ALTERED, 4)


@pytest.mark.req("EVD-4")
@pytest.mark.fault(32)
def test_a_full_disk_stops_the_chain_and_leaves_it_whole(tmp_path: Path) -> None:
    """What cannot be written is cut off, the caller is told, and nothing is taken afterwards."""
    writer = ChainWriter(tmp_path / "chain", SIGNER)
    writer.append("opened", START, {}, {"opened": "sha256:" + "1" * 64})
    whole = (tmp_path / "chain").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))
    try:
        with pytest.raises(EvidenceError, match="cannot be written"):
            writer.append("note", START, {"n": 1}, {"note": "sha256:" + "1" * 64})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(EvidenceError, match="nothing more is added"):
        writer.append("note", START, {"n": 1}, {"note": "sha256:" + "1" * 64})
    writer.close()

    assert (tmp_path / "chain").read_bytes() == whole


@pytest.mark.req("EVD-2")
def test_an_existing_chain_is_never_written_over(tmp_path: Path) -> None:
    """A chain is begun once; a second writer on the same file is refused."""
    small(tmp_path / "chain")

    with pytest.raises(FileExistsError):
        ChainWriter(tmp_path / "chain", SIGNER)


@pytest.mark.req("EVD-2")
def test_an_independent_implementation_verifies_every_envelope(lines: list[bytes]) -> None:
    """securesystemslib, which shares no code with us, accepts each line as a DSSE envelope by our key."""
    public = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": SIGNER.public.hex()}}
    key = SSlibKey.from_dict(SIGNER.keyid, public)
    for line in lines:
        envelope = Envelope.from_dict(json.loads(line))

        assert SIGNER.keyid in envelope.verify([key], 1)
        assert json.loads(envelope.payload)["_type"] == "https://in-toto.io/Statement/v1"


@pytest.mark.req("EVD-2")
def test_a_second_spelling_of_the_same_record_is_refused(lines: list[bytes]) -> None:
    """Base64 with other padding bits decodes to the same bytes; it is refused all the same."""
    last = json.loads(lines[-1])
    sig = last["signatures"][0]["sig"]
    twin = next(c for c in BASE64 if sig[-3] != c and _same(sig, sig[:-3] + c + "=="))
    last["signatures"][0]["sig"] = sig[:-3] + twin + "=="
    forged = json.dumps(last, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    assert fault_of(b"".join([*lines[:-1], forged])).fault is Fault.ALTERED


def _same(one: str, other: str) -> bool:
    return base64.b64decode(one) == base64.b64decode(other)


@pytest.mark.req("EVD-2")
def test_a_signature_with_a_key_more_is_refused(lines: list[bytes]) -> None:
    """What stands beside a signature is not signed, so nothing may."""
    last = json.loads(lines[-1])
    last["signatures"][0]["note"] = "unsigned words"
    forged = json.dumps(last, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    bad = fault_of(b"".join([*lines[:-1], forged]))

    assert (bad.fault, "nothing else" in bad.why) == (Fault.ALTERED, True)
