"""What `hyops runner bootstrap` refuses before anybody is dialled (RUN-2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyops.cli.runner_bootstrap import bootstrap
from hyops.errors import UsageError
from simulation.world import policy

pytestmark = pytest.mark.req("RUN-2", "RUN-3")


def executor(folder: Path, **more: object) -> Path:
    """The executor's configuration, with one runner."""
    entry = {"address": "127.0.0.1", "user": "hyops", "key_file": "/none/key", "known_hosts": "/none/hosts", **more}
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionExecutor",
        "signing_key": "/none/key.pem",
        "trusted_keys": "/none/trusted.json",
        "protected": [{"policy": policy().body(), "initial_generation": 1}],
        "runners": {"edge-runner": entry},
    }
    path = folder / "executor.json"
    path.write_text(json.dumps(body))
    return path


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_where_a_certificate_lets_in_there_is_no_other_key_to_remove(tmp_path: Path, dry: list[str]) -> None:
    """No line stands there: who thinks that a stolen key is out now is wrong, and is told what takes it back."""
    config = executor(tmp_path, certificate={"pki": "/none/pki", "group": "edge"})
    words = ["edge-runner", "--files", str(tmp_path), "--admin-key", "/none/admin", "--config", str(config)]

    done = CliRunner().invoke(bootstrap, [*words, "--only-this-key", *dry])

    assert isinstance(done.exception, UsageError)
    assert "leave --only-this-key out" in done.exception.message
    assert "hyops pki revoke" in done.exception.hint
