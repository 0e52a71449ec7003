"""With real OpenSSH signatures and key files, on a host that has only the bundle, the public keys and no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyops.adapters import approval_ssh
from hyops.adapters.signer_ed25519 import Ed25519Signer
from hyops.evidence.assemble import Story, assemble
from hyops.model.dsse import sign_record
from hyops.testing import evidence as seeds

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture
def handed_over(tmp_path: Path) -> Path:
    """What an auditor gets: a bundle and public files. The secret keys are gone."""
    secret, public = tmp_path / "secret", tmp_path / "public"
    secret.mkdir()
    public.mkdir()
    person = secret / "ada"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", person], check=True)
    key = " ".join((secret / "ada.pub").read_text().split()[:2])
    (public / "allowed_signers").write_text(f'{seeds.APPROVER} namespaces="hyops-approval@v1" {key}\n')
    (public / "approvers.json").write_text(json.dumps({"roles": {seeds.APPROVER: ["approver"]}}))
    switch = seeds.failover()
    approval = switch.approvals[0]
    signed = approval_ssh.sign(approval.statement.signed_bytes(), person)
    story = Story(
        **{name: value for name, value in vars(switch).items() if name not in {"approvals", "outcome"}},
        approvals=(approval.model_copy(update={"ssh_signature": signed}),),
        outcome=sign_record(switch.outcome, seeds.STAGES["execution"]),
    )
    own = Ed25519Signer.create(secret / "execution.pem")
    trusted = [json.loads(own.trusted("execution", name="chain").model_dump_json(exclude_none=True))]
    for role, signer in seeds.STAGES.items():
        trusted.append({"public": seeds.base64_of(signer), "roles": [role], "name": role})
    (public / "trusted_keys.json").write_text(json.dumps({"keys": trusted}))
    made = assemble(story, directory=tmp_path / "made", signer=own, now=datetime.now(UTC) + timedelta(seconds=1))
    shutil.move(made, public / "bundle")
    shutil.rmtree(secret)
    return public


def verify(public: Path) -> subprocess.CompletedProcess[str]:
    """`hyops evidence verify` in a process of its own; as root in a network namespace without any device."""
    cut_off = ["unshare", "--net"] if os.geteuid() == 0 and shutil.which("unshare") else []
    words = ["evidence", "verify", "bundle", "--keys", "trusted_keys.json", "--allowed-signers", "allowed_signers"]
    return subprocess.run(
        [*cut_off, sys.executable, "-m", "hyops", *words], cwd=public, capture_output=True, text=True, check=False
    )


@pytest.mark.req("EVD-2", "APR-1")
def test_a_host_with_public_files_alone_verifies(handed_over: Path) -> None:
    """Bundle, public keys, allowed signers: exit 0, cut off from every network."""
    done = verify(handed_over)

    assert (done.returncode, done.stderr) == (0, "")
    assert "evidence: verified" in done.stdout


@pytest.mark.req("EVD-2", "APR-1")
@pytest.mark.fault(10, 31)
def test_an_approver_who_is_not_listed_or_has_no_role_is_named(handed_over: Path) -> None:
    """The approval is the first bad record when its signer is taken off the lists, or its key is another one."""
    (handed_over / "approvers.json").write_text(json.dumps({"roles": {}}))
    done = verify(handed_over)
    assert done.returncode == 41
    assert "approval/" in done.stderr

    (handed_over / "allowed_signers").write_text("")
    done = verify(handed_over)
    assert done.returncode == 41
    assert "approval/" in done.stderr


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_trusted_keys_without_the_runner_name_its_result(handed_over: Path) -> None:
    """A runner that is not trusted vouches for nothing: its first record is named."""
    value = json.loads((handed_over / "trusted_keys.json").read_text())
    value["keys"] = [key for key in value["keys"] if not key["roles"][0].startswith("runner:")]
    (handed_over / "trusted_keys.json").write_text(json.dumps(value))

    done = verify(handed_over)

    assert done.returncode == 41
    assert "fence-receipt/" in done.stderr
