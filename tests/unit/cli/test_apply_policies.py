"""`hyops apply` of the decision stage: a policy that may lead to something unsafe is not put to work (DEC-4, UX-1)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops import compose_proved
from hyops.adapters.yaml_files import with_lines
from hyops.cli.main import main
from hyops.compose_proved import KEPT, refuse_unsafe
from hyops.errors import ConfigError, UnsafePolicyError
from hyops.model import canonical
from hyops.model.policy import ServicePolicy

pytestmark = [pytest.mark.req("DEC-4")]

POLICIES = Path(__file__).parents[3] / "docs" / "how-to" / "policies"
REF = "platform/network/decision-service"
LOGIN = {"name": "control", "address": "127.0.0.1", "key_file": "key", "known_hosts": "pins"}
WHY = {"service": "pg", "rule": "act/one-vantage", "reason": "a school with one site"}


def written(name: str, **change: Any) -> dict[str, Any]:
    """A policy of the docs, with fewer signals, so that its proof is short."""
    known: dict[str, Any] = yaml.safe_load((POLICIES / f"{name}.yml").read_text())
    signals = [signal for signal in known["signals"] if signal["name"] in ("answers", "wal_received")]
    return {**known, "signals": signals, **change}


def vantages(policy: dict[str, Any]) -> dict[str, None]:
    """All that its signals name."""
    return dict.fromkeys(vantage for signal in policy["signals"] for vantage in signal.get("vantages", ()))


Look = Callable[..., list[str]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Look at these policies as they stand in the inputs; what was told."""

    def looked(*policies: dict[str, Any], accepted: Any = ()) -> list[str]:
        value = {"config": {"protected": [{"policy": policy} for policy in policies]}, "accepted_findings": [*accepted]}
        text = yaml.safe_dump(value, sort_keys=False).encode()
        _, lines = with_lines(text, source="in.yml")
        read = [
            (ServicePolicy.read(canonical.encode(policy)), ("config", "protected", number, "policy"))
            for number, policy in enumerate(policies)
        ]
        told: list[str] = []
        refuse_unsafe(read, [*accepted], lines, Path("in.yml"), tmp_path, told.append)
        return told

    return looked


@pytest.mark.req("LOOP-4", "UX-1", "UX-2")
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a list"])
def test_an_unsafe_policy_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: bool
) -> None:
    """16, the key in the inputs, the rule and the mend, before any tool begins."""
    for name in ("key", "pins"):
        (tmp_path / name).write_text("x")
    (tmp_path / "root").mkdir(mode=0o700)
    policy = written("one-voice")
    protected = {"policy": policy}
    config = {"protected": protected if alone else [protected], "vantages": vantages(policy)}
    file = tmp_path / "in.yml"
    file.write_text(yaml.safe_dump({"target": LOGIN, "config": config}, sort_keys=False))
    line = next(n for n, said in enumerate(file.read_text().splitlines(), 1) if said.strip().startswith("quorum:"))

    code = main(["apply", "--root", str(tmp_path / "root"), "--module", REF, "--inputs", str(file)])

    said = capsys.readouterr().err
    key = "config.protected.policy.quorum" if alone else "config.protected.0.policy.quorum"
    assert code == 16, said
    assert f"in.yml:{line}: {key}: act/one-vantage: " in said
    assert "set quorum to 2 or more" in said
    assert "hyops policy check" in said
    assert not (tmp_path / "root" / "state").exists()


def test_a_safe_policy_is_proved_once(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not again while nothing changed; again where the policy, or hyops itself, is another one."""
    assert look(written("safe")) == ["pg: proved safe"]
    assert look(written("safe")) == []
    assert look(written("safe", cooldown_s=301)) == ["pg: proved safe"]
    assert look(written("safe")) == ["pg: proved safe"], "what is no longer there is not kept"
    monkeypatch.setattr(compose_proved, "_version", lambda: "another")
    assert look(written("safe")) == ["pg: proved safe"]
    assert len([*(tmp_path / KEPT).iterdir()]) == 1


def test_what_was_refused_is_refused_again(look: Look) -> None:
    """A second try is no proof, beside a safe one neither; of several each is named."""
    two = (written("one-voice"), written("safe", service="orders"), written("no-window", service="mail"))
    for _ in range(2):
        with pytest.raises(UnsafePolicyError) as caught:
            look(*two)
        assert "protected.0.policy.quorum: act/one-vantage" in caught.value.message
        assert "protected.2.policy.confirm_for_s: act/unconfirmed" in caught.value.message
        assert "protected.1." not in caught.value.message


def test_what_only_watches_is_not_proved(look: Look) -> None:
    """`level: monitor` leads to no request; `recommend` does."""
    assert look(written("one-voice", level="monitor")) == []
    with pytest.raises(UnsafePolicyError):
        look(written("one-voice", level="recommend"))


def test_a_finding_is_lived_with_for_a_reason(look: Look) -> None:
    """It is told at every apply, and stands for no other finding of that service, nor of another one."""
    for _ in range(2):
        told = look(written("one-voice"), accepted=[WHY])
        assert told[0] == "pg: 1 finding(s)"
        assert "act/one-vantage" in told[1]
        assert told[1].endswith("because: a school with one site")
    with pytest.raises(UnsafePolicyError, match="act/unconfirmed"):
        look(written("no-window"), accepted=[WHY])
    with pytest.raises(UnsafePolicyError, match=r"protected.1.policy.quorum: act/one-vantage"):
        look(written("one-voice"), written("one-voice", service="orders"), accepted=[WHY])


def two_old() -> dict[str, Any]:
    """One rule broken by two signals."""
    known: dict[str, Any] = yaml.safe_load((POLICIES / "safe.yml").read_text())
    old = {"wal_received", "lag_bytes"}
    signals = [{**one, **({"max_age_s": 5} if one["name"] in old else {})} for one in known["signals"]]
    return {**known, "signals": signals}


@pytest.mark.req("UX-1")
def test_every_finding_of_a_rule_is_told_and_lived_with_by_itself(look: Look) -> None:
    """An entry stands for one finding: of several it names the key, and those of the others are still refused."""
    entry = {"service": "pg", "rule": "target/stale", "reason": "lag comes by a slow agent"}
    keys = ["signals.2.max_age_s", "signals.3.max_age_s"]
    with pytest.raises(UnsafePolicyError) as caught:
        look(two_old())
    assert all(f"policy.{key}: target/stale" in caught.value.message for key in keys)
    with pytest.raises(UnsafePolicyError) as caught:
        look(two_old(), accepted=[entry])
    assert all(f"policy.{key}: target/stale" in caught.value.message for key in keys)
    assert f"accepted_findings.0: stands for 2 findings; write one entry for each, with its key: {', '.join(keys)}" in (
        caught.value.message
    )
    with pytest.raises(UnsafePolicyError) as caught:
        look(two_old(), accepted=[{**entry, "key": "signals.3"}])
    assert keys[0] in caught.value.message
    assert keys[1] not in caught.value.message

    told = look(two_old(), accepted=[{**entry, "key": "signals.3"}, {**entry, "key": keys[0]}])
    assert [keys[0] in said for said in told[1:]] == [False, True]
    with pytest.raises(ConfigError, match=r"accepted_findings.2: pg has no finding target/stale at signals.1"):
        look(two_old(), accepted=[{**entry, "key": key} for key in (*keys, "signals.1")])


def test_a_part_of_the_table_refuses_what_it_shows(look: Look) -> None:
    """Living with a table that is too large is living with that alone."""
    one = next(one for one in yaml.safe_load((POLICIES / "safe.yml").read_text())["signals"] if one["name"] == "port")
    ports: list[dict[str, Any]] = [
        {**copy.deepcopy(one), "name": f"port{number}", "weight": 1 + number / 8} for number in range(9)
    ]
    entry = {"service": "pg", "rule": "table/too-large", "reason": "we need them all"}
    known = written("safe")
    with pytest.raises(UnsafePolicyError) as caught:
        look({**known, "signals": known["signals"] + ports, "quorum": 1}, accepted=[entry])
    assert "quorum: act/one-vantage" in caught.value.message
    assert "table/too-large" not in caught.value.message


def test_what_is_accepted_and_not_there_is_refused(look: Look) -> None:
    """Else it would go unseen on the day that somebody makes it: its line is named, whatever was proved."""
    look(written("safe"))
    with pytest.raises(ConfigError, match=r"in.yml:\d+: accepted_findings.0: pg has no finding act/one-vantage"):
        look(written("safe"), accepted=[WHY])


def test_no_room_for_what_was_proved_costs_another_proof(look: Look, tmp_path: Path) -> None:
    """Something in the folder's place, and a folder in the file's: no proof is believed that cannot be read."""
    (tmp_path / KEPT).parent.mkdir(mode=0o700)
    (tmp_path / KEPT).write_text("")
    assert [look(written("safe")), look(written("safe"))] == [["pg: proved safe"], ["pg: proved safe"]]
