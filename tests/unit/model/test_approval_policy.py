"""A policy that nobody could ever meet is refused where it is read, and not at 03:00."""

from __future__ import annotations

import json

import pytest

from hyops.errors import ConfigError
from hyops.model.approval import ApprovalPolicy
from hyops.services.config_requests import ApprovalConfig

WORDS = {
    "api_version": "hybridops/v1",
    "kind": "DecisionConsumer",
    "signing_key": "/etc/hyops/key.pem",
    "trusted_keys": "/etc/hyops/trusted_keys.json",
    "allowed_signers": "/etc/hyops/allowed_signers",
    "approvers": "/etc/hyops/approvers.json",
}


@pytest.mark.req("APR-2", "APR-3", "UX-2")
@pytest.mark.parametrize("required", [2, 10])
def test_markers_of_several_people_are_refused_at_load(required: int) -> None:
    """A request has one marker, of one person: file, key and mend are named, with the exit code of a configuration."""
    body = {**WORDS, "policy": {"mode": "marker", "required": required}}
    with pytest.raises(ConfigError) as refused:
        ApprovalConfig.read(json.dumps(body).encode(), source="/opt/config.json")

    assert refused.value.exit_code == 11
    for words in ("/opt/config.json", "policy: ", f"required: {required} with mode: marker", "mode: signed"):
        assert words in refused.value.message


@pytest.mark.req("APR-2")
@pytest.mark.parametrize(("mode", "required"), [("marker", 1), ("signed", 1), ("signed", 10)])
def test_what_can_be_met_is_taken(mode: str, required: int) -> None:
    """One marker, and any number of signatures."""
    policy = ApprovalPolicy.of({"mode": mode, "required": required})

    assert (policy.mode, policy.required) == (mode, required)


@pytest.mark.req("APR-1", "APR-2", "UX-2")
@pytest.mark.parametrize("key", ["require_touch", "require_pin"])
def test_markers_are_touched_by_nobody(key: str) -> None:
    """A security key that is required, where no key signs: refused when the file is read, with the mend."""
    body = {**WORDS, "policy": {"mode": "marker", key: True}}
    with pytest.raises(ConfigError, match="a marker is signed by no key; set mode: signed"):
        ApprovalConfig.read(json.dumps(body).encode(), source="/opt/config.json")


@pytest.mark.req("APR-1", "APR-2", "UX-2")
def test_markers_prove_no_requester() -> None:
    """Who asks shall be known, where nobody signs anything: refused when the file is read, with the mend."""
    body = {**WORDS, "policy": {"mode": "marker", "require_known_requester": True}}
    with pytest.raises(ConfigError, match="a marker proves no name, so nobody would be known; set mode: signed"):
        ApprovalConfig.read(json.dumps(body).encode(), source="/opt/config.json")


@pytest.mark.req("APR-2", "INV-5", "UX-2")
@pytest.mark.parametrize("age", ["1e300", "1e12", "31622401", "0"])
def test_an_age_that_no_clock_can_add_is_refused(age: str) -> None:
    """A year at most; the key is named when the file is read, not when the first request is."""
    body = json.dumps({**WORDS, "policy": {}}).replace('"policy": {}', f'"policy": {{"max_age_s": {age}}}')
    with pytest.raises(ConfigError, match=r"policy\.max_age_s"):
        ApprovalConfig.read(body.encode(), source="/opt/config.json")
