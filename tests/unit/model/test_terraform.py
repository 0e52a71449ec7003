"""A token goes into the job that names its host, under the one variable that Terraform reads, and nowhere else."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.engine.redact import Redactor
from hyops.errors import ConfigError, PrerequisiteError, RecordError
from hyops.model.terraform import TerraformCredentials, project, variable_of
from hyops.runner.folders import Folders

TOKEN = "canary0token.atlasv1.5f1c"
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
KNOWN = TerraformCredentials().with_token("app.terraform.io", TOKEN).with_token("tfe.example.org", "another0token")


def host_of(variable: str) -> str:
    """How Terraform reads a variable's name back: `__` is a hyphen, `_` a dot."""
    return variable.removeprefix("TF_TOKEN_").replace("__", "-").replace("_", ".")


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize(
    ("host", "variable"),
    [
        ("app.terraform.io", "TF_TOKEN_app_terraform_io"),
        ("APP.Terraform.IO", "TF_TOKEN_app_terraform_io"),
        ("xn--caf-dma.fr", "TF_TOKEN_xn____caf__dma_fr"),
        ("my-tfe.example.org", "TF_TOKEN_my__tfe_example_org"),
    ],
)
def test_the_variable_is_the_one_that_terraform_documents(host: str, variable: str) -> None:
    """The examples of Terraform's own documentation among them."""
    assert variable_of(host) == variable


@pytest.mark.req("RUN-10")
@given(st.lists(LABELS, min_size=2, max_size=5))
def test_terraform_reads_every_host_back(labels: list[str]) -> None:
    """Whatever the host: the name is one that a shell accepts, and it means exactly this host."""
    host = ".".join(labels)
    variable = variable_of(host)

    assert re.fullmatch(r"TF_TOKEN_[a-z0-9_]+", variable)
    assert host_of(variable) == host


@pytest.mark.req("RUN-10", "SEC-2")
def test_a_job_gets_the_tokens_of_the_hosts_it_names_and_no_others() -> None:
    """One host, one variable; no host, none."""
    assert project(KNOWN, ["app.terraform.io"]) == {"TF_TOKEN_app_terraform_io": TOKEN}
    assert project(KNOWN, []) == {}
    assert len(project(KNOWN, ["app.terraform.io", "tfe.example.org"])) == 2


@pytest.mark.req("RUN-10", "RUN-8", "SEC-2")
def test_a_projected_token_travels_like_any_one_shot_secret(tmp_path: Path) -> None:
    """Memory only, read by its own job, gone afterwards; and what the job prints is redacted."""
    projected = project(KNOWN, ["app.terraform.io"])
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hyops-") as memory:
        folders = Folders(tmp_path / "root", Path(memory) / "secrets")
        folders.put_secrets("run-1", projected)
        assert folders.secrets("run-1") == projected
        assert folders.secrets("run-2") == {}
        folders.drop_secrets("run-1")
        assert folders.secrets("run-1") == {}

    assert Redactor(projected).text(f"401 for Bearer {TOKEN}") == "401 for Bearer ***"


@pytest.mark.req("RUN-10", "GATE-1")
def test_a_host_without_a_token_is_a_refusal() -> None:
    """Before anything is started, with the command that mends it."""
    with pytest.raises(PrerequisiteError) as caught:
        project(KNOWN, ["app.terraform.io", "other.example.org"])

    assert "--host other.example.org" in caught.value.hint
    assert TOKEN not in str(caught.value.as_json())


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize(
    "host",
    [
        "app.terraform.io:8443",
        "localhost",
        "",
        "a_b.example.org",
        "-a.example.org",
        "a-.example.org",
        "a..b",
        "caf\u00e9.fr",
        "x/y.org",
        "a.b=c",
        f"{'a' * 64}.org",
    ],
)
def test_what_is_no_host_name_is_refused(host: str) -> None:
    """A port, one label, underscores, other scripts: nothing that could become another variable."""
    with pytest.raises(ConfigError):
        project(KNOWN, [host])
    with pytest.raises((RecordError, ValueError)):
        KNOWN.with_token(host, TOKEN)


@pytest.mark.req("SEC-2", "INV-10")
def test_neither_a_record_nor_its_errors_show_a_token() -> None:
    """Printed, the token is not there; a broken one is not quoted."""
    assert TOKEN not in repr(KNOWN)
    with pytest.raises(RecordError) as caught:
        KNOWN.with_token("app.terraform.io", "canary with a space")
    assert "canary" not in str(caught.value)


@pytest.mark.req("RUN-10", "SEC-2")
def test_the_file_is_terraforms_own_and_anything_else_is_refused() -> None:
    """What `terraform login` writes is read; keys that would be lost in a rewrite are named."""
    written = b'{"credentials": {"app.terraform.io": {"token": "canary0token"}}}'

    assert TerraformCredentials.read(written).credentials["app.terraform.io"].token == "canary0token"
    with pytest.raises(RecordError, match="plugin_cache_dir"):
        TerraformCredentials.read(b'{"credentials": {}, "plugin_cache_dir": "x"}')
