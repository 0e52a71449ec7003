"""The door of a runner and peers of the first protocol: what makes something is refused, what looks is served."""

from __future__ import annotations

import pytest

from hyops.errors import ProtocolError, UsageError
from hyops.model import protocol
from hyops.runner import versions
from hyops.runner.serve import VERBS


@pytest.mark.req("RUN-11")
@pytest.mark.fault(33)
@pytest.mark.parametrize("named", [{}, {"protocol": 1}, {"protocol": 1, "hyops_version": "0.0.9"}])
def test_a_dispatcher_of_the_first_protocol_makes_nothing(named: dict[str, object]) -> None:
    """One that names no protocol speaks the first: told which side to upgrade, and served where it only looks."""
    for verb in VERBS:
        if verb in versions.MAKING:
            with pytest.raises(ProtocolError, match=r"cloud-runner has hyops .* \(protocol 2\)") as refused:
                versions.refuse_protocol({"verb": verb, **named}, "cloud-runner")
            assert (refused.value.exit_code, "upgrade hyops on the dispatcher" in refused.value.hint) == (12, True)
        else:
            versions.refuse_protocol({"verb": verb, **named}, "cloud-runner")


@pytest.mark.req("RUN-11")
@pytest.mark.fault(33)
def test_a_runner_of_the_first_protocol_is_named_for_an_upgrade() -> None:
    """Before anything is staged; our own protocol is spoken."""
    here = protocol.ours("this host", "0.1.0")
    with pytest.raises(ProtocolError) as refused:
        protocol.agreed(here, protocol.Speaker("cloud-runner", "0.0.9", 1, 1))

    assert "cloud-runner has hyops 0.0.9 (protocol 1)" in refused.value.message
    assert "upgrade hyops on cloud-runner to 0.1.0" in refused.value.hint
    assert protocol.agreed(here, protocol.Speaker("cloud-runner", "0.3.0", 2, 3)) == 2
    versions.refuse_protocol({"verb": "start", "protocol": 2}, "cloud-runner")
    with pytest.raises(UsageError):
        versions.refuse_protocol({"verb": "start", "protocol": "2"}, "cloud-runner")
