"""From a stage's configuration to a plan's bundle, and from an approved plan to what is shipped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hyops.compose_bundle import bundles_of, digests_of
from hyops.errors import ConfigError, UnsafePlanError
from hyops.model import canonical
from hyops.testing.runs import noop_plan, plan_of, step

STEPS = [step("a", inputs={"hosts": "file:config/overlays/", "net_state_ref": "shared:platform/net"})]


@pytest.fixture
def config(tmp_path: Path) -> SimpleNamespace:
    """A configuration that names two roots, with the files that the steps name and a vault."""
    for path in ("own/config/overlays/site-b/hosts.yml", "own/vault/bootstrap.vault.env",
                 "shared/state/modules/platform__net/latest.json"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(path.encode())
    return SimpleNamespace(runtime_root=str(tmp_path / "own"), shared_root=str(tmp_path / "shared"))


@pytest.mark.req("RUN-1", "INV-4", "INV-10")
@pytest.mark.fault(11)
def test_what_was_planned_is_what_is_shipped(config: SimpleNamespace, tmp_path: Path) -> None:
    """The plan holds the digests of what its steps name and no more; the same files are shipped, others refused."""
    told = dict(digests_of(config)(STEPS))
    shared = "shared/state/modules/platform__net/latest.json"
    assert told == {
        "config/overlays/site-b/hosts.yml": canonical.digest_bytes(b"own/config/overlays/site-b/hosts.yml"),
        shared: canonical.digest_bytes(shared.encode()),
    }
    plan = plan_of(STEPS).model_copy(update={"bundle": told})
    bundles = bundles_of(config)
    assert {name: file.digest for name, file in bundles.files(plan).items()} == told
    (tmp_path / shared).write_bytes(b"other")
    with pytest.raises(UnsafePlanError, match=f"{shared} changed"):
        bundles.files(plan)


def test_a_plan_that_names_nothing_needs_no_root() -> None:
    """Without a configured root plans run as before; one that names a file is refused, saying what to configure."""
    bare = SimpleNamespace(runtime_root=None, shared_root=None)
    assert dict(bundles_of(bare).files(noop_plan())) == dict(digests_of(bare)(noop_plan().steps)) == {}
    with pytest.raises(ConfigError, match="no runtime_root is configured"):
        digests_of(bare)(STEPS)
