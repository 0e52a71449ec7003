"""Moving the endpoint: what counts as switched, and what a lost answer or a lagging authority does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hyops.errors import RecordError, TargetError
from hyops.ports.driver import Reconciled, StepContext, StepResult
from switch_pair import Pair, run, switch

NAMES = ("source", "target", "members", "endpoint")


def cut(pair: Pair, generation: int = 1) -> StepContext:
    """The step's context."""
    words = pair.inputs()
    return pair.context(pair.spec(generation=generation), "cutover", {name: words[name] for name in NAMES})


def apply(pair: Pair, generation: int = 1) -> StepResult:
    """Run the step."""
    result: StepResult = run(pair.drivers()["native/dns-cutover"].apply(cut(pair, generation)))
    return result


@pytest.mark.req("DNS-1", "DNS-2")
def test_the_step_returns_the_endpoint_contract() -> None:
    """Every field of the contract, and what each authority answers."""
    endpoint = apply(Pair()).outputs["endpoint"]
    assert endpoint == {
        "endpoint_dns_name": "pg.lab.hyops.internal",
        "endpoint_target": "10.77.2.10",
        "endpoint_target_type": "host",
        "endpoint_host": "cloud-db",
        "endpoint_port": 5432,
        "endpoint_cutover_required": True,
        "authorities": {"dns:53": ["10.77.2.10"], "dns2:53": ["10.77.2.10"]},
    }


@pytest.mark.req("DNS-2", "BP-4")
def test_a_lost_answer_is_looked_up_and_not_sent_blindly() -> None:
    """The update took effect, its answer was lost: the step finds it done; a second run changes nothing."""
    pair = Pair()
    pair.dns.lose_next_answer = True
    assert apply(pair).changed is True
    assert apply(pair).changed is False


@pytest.mark.req("DNS-2")
def test_an_authority_that_does_not_follow_is_named() -> None:
    """The secondary still answers the old address at the limit: promoted, not switched."""
    pair = Pair()
    pair.dns.lagging.add("dns2:53")
    with pytest.raises(TargetError, match=r"promoted, not switched.*dns2:53"):
        apply(pair)


@pytest.mark.req("DNS-2", "INV-3")
@pytest.mark.fault(26)
def test_a_stale_step_changes_nothing() -> None:
    """DNS is two generations on: refused, and the record is as it was."""
    pair = Pair()
    pair.dns.records = {"dns:53": ("10.77.1.10", 3), "dns2:53": ("10.77.1.10", 3)}
    with pytest.raises(TargetError, match="promoted, not switched"):
        apply(pair)
    assert pair.dns.records["dns:53"] == ("10.77.1.10", 3)
    assert run(pair.drivers()["native/dns-cutover"].preflight(cut(pair))) != []


@pytest.mark.req("BP-4", "VOC-5")
def test_after_a_crash_the_authority_is_asked() -> None:
    """Old or own generation: do it (again); another: unknown; silent: unknown."""
    pair = Pair()
    driver = pair.drivers()["native/dns-cutover"]
    assert run(driver.probe(cut(pair)))[0] is Reconciled.NOT_DONE
    apply(pair)
    assert run(driver.probe(cut(pair)))[0] is Reconciled.NOT_DONE
    pair.dns.records["dns:53"] = ("10.77.1.10", 7)
    assert run(driver.probe(cut(pair)))[0] is Reconciled.UNKNOWN
    pair.dns.silent.add("dns:53")
    assert run(driver.probe(cut(pair)))[0] is Reconciled.UNKNOWN


@pytest.mark.req("INV-5")
@pytest.mark.parametrize("change", [{"target": "onprem-db"}, {"target": "nobody"}, {"dry_run": True}, {"endpoint": {}}])
def test_inputs_are_strict(change: dict[str, object]) -> None:
    """One host twice, an unknown host, an unknown key, an empty endpoint: refused before anything is asked."""
    pair = Pair()
    words = {name: pair.inputs()[name] for name in NAMES} | change
    context = pair.context(pair.spec(), "cutover", words)
    for module in ("native/dns-cutover", "native/verify-traffic"):
        with pytest.raises(RecordError):
            run(pair.drivers()[module].apply(context))


@pytest.mark.req("DNS-3")
def test_the_whole_switch_reports_a_silent_old_address() -> None:
    """The evidence says what the old address did."""
    pair = Pair()
    pair.kill_site()
    assert run(switch(pair, pair.spec()))["verify-traffic"].outputs["old_address"] == "unreachable"


@pytest.mark.req("FEN-2")
def test_the_relay_loads_the_standard_library_only() -> None:
    """What runs at every call on a database host starts fast and needs nothing of ours."""
    code = "import sys, hyops.fence.call; print([m for m in sys.modules if m.split('.')[0] in ('pydantic', 'httpx')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
