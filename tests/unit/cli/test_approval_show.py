"""What a person sees of a request before signing it (APR-1, ACC-1)."""

from __future__ import annotations

import pytest

from hyops.cli.approval import _show
from hyops.model.access import PublicAccess
from hyops.services.desk import Waiting
from hyops.testing.runs import noop_plan, spec_of


@pytest.mark.req("APR-1", "ACC-1")
@pytest.mark.parametrize("public", [True, False])
def test_a_way_that_the_plan_opens_is_shown_with_its_source_and_its_end(
    public: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the one who approves it; a plan that opens none says nothing of it."""
    access = PublicAccess.of({"occasion": "drill", "source_ranges": ["198.51.100.7/32"], "expires_after_s": 900})
    plan = noop_plan().model_copy(update={"access": access if public else None})

    _show(Waiting(spec_of(plan).request, "waiting", "nobody has signed"), plan, err=False)

    line = "opens     a public way from 198.51.100.7/32 for 900 s: drill"
    assert (line in capsys.readouterr().out.splitlines()) is public
