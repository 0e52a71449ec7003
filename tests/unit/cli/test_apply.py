"""`hyops apply`: bad inputs are refused with file, line and key before any tool begins (MOD-1, UX-1, UX-2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.adapters.module_files import module_of
from hyops.adapters.states_files import FileStates
from hyops.adapters.yaml_files import with_lines
from hyops.cli.main import main
from hyops.compose_stage import stage_job
from hyops.engine.catalog import default_roots
from hyops.errors import ConfigError, PrerequisiteError

pytestmark = [pytest.mark.req("MOD-1", "LOOP-4")]

REF = "platform/network/decision-dispatcher"
STAGES = ("service", "dispatcher", "consumer", "executor")


def inputs(**change: Any) -> dict[str, Any]:
    """Good ones of a dispatcher."""
    route = {"target_ref": "core/noop@v1", "target_env": "prod", "execution_plane": "runner-local"}
    return {
        "target": {"name": "control", "address": "127.0.0.1", "key_file": "key", "known_hosts": "pins"},
        "config": {"services": ["orders"], "routes": {"env": "prod", "dispatcher_routes": {"failover": route}}},
        **change,
    }


@pytest.fixture
def asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Ask for it with these inputs; the code and what was said."""
    (tmp_path / "root").mkdir(mode=0o700)
    for name in ("key", "pins", "secret"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)

    def ask(value: Any, *words: str, module: str = REF) -> tuple[int, str]:
        file = tmp_path / "in.yml"
        file.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
        line = ["apply", "--root", str(tmp_path / "root"), "--module", module, "--inputs", str(file), *words]
        return main(line), capsys.readouterr().err

    return ask


@pytest.mark.req("UX-1", "UX-2")
@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        ({"trsut": []}, 16, "trsut: unknown key; did you mean 'trust'?"),
        ({"target": {"name": "control", "adress": "x"}}, 3, "target.adress: unknown key; did you mean 'address'?"),
        ({"target": {"name": "control"}}, 1, "target: address is missing"),
        ({"target": {"name": "a b", "address": "x"}}, 2, "target.name: 'a b' does not fit"),
        ({"memory_max_mb": 1}, 16, "memory_max_mb: must be from 128 to 65536"),
        ({"memory_max_mb": True}, 16, "memory_max_mb: integer is needed"),
        ({"config": {"services": []}}, 7, "routes: Field required"),
        ({"config": {"servces": ["x"]}}, 7, "servces: unknown key; did you mean 'services'?"),
        ({"config": {"homes": {}}}, 7, "config.homes: an installed stage has its own"),
        ({"config": {"signing_key": "/x"}}, 7, "config.signing_key: it is set by the installation"),
        ({"files": {"config.json": {"from": "key"}}}, 17, "a plain name is needed"),
        ({"files": {"../x": {"from": "key"}}}, 17, "a plain name is needed"),
        ({"files": {"\ud800": {"from": "key"}}}, 17, r"files.\ud800: \ud800 has half of a character"),
        ({"config": {"services": ["\ud800"]}}, 8, r"config.services.0: \ud800 has half of a character"),
        ({"trust": ["platform/x", "../../x"]}, 18, "trust.1: state reference '../../x'"),
        ({"trust": ["a#b#c"]}, 17, "trust.0: state reference 'a#b#c'"),
        ({"files": {"a": {"from": "nothing"}}}, 17, "not a file of at most"),
        ({"files": {"a": {"from": "secret", "private": True}}}, 17, "others may read this secret"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(
    asked: Callable[..., tuple[int, str]], change: dict[str, Any], line: int, says: str
) -> None:
    """Unknown, missing, of another kind, out of range, in the stage's own configuration, or a file: 11."""
    code, said = asked(inputs(**change))
    assert code == 11, said
    assert says in said
    assert f"in.yml:{line}: " in said
    assert "nothing was touched" in said


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("module", "code", "says"),
    [
        ("platform/network/decision-dispatch", 11, "did you mean 'platform/network/decision-dispatcher'?"),
        ("../../etc", 2, "state reference"),
        ("nothing/like/it", 11, "no module"),
    ],
)
def test_an_unknown_module_is_refused(asked: Callable[..., tuple[int, str]], module: str, code: int, says: str) -> None:
    """With the nearest one; a name that leads out of the catalogue is none."""
    found, said = asked(inputs(), module=module)
    assert (found, says in said) == (code, True), said


def test_no_inputs_and_no_login_are_prerequisites(asked: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A key that is not there, and a module whose inputs nobody ever named."""
    (tmp_path / "key").unlink()
    code, said = asked(inputs())
    assert (code, "target.key_file" in said) == (12, True), said
    target = {**inputs()["target"], "key_file": "k" * 300}
    code, said = asked(inputs(target=target))
    assert (code, "target.key_file" in said) == (12, True), said
    assert main(["apply", "--root", str(tmp_path / "root"), "--module", REF]) == 12


@pytest.mark.req("SEC-2")
def test_an_archive_with_another_sum_is_refused(asked: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """The release is what its sha256 says, or nothing is sent."""
    (tmp_path / "a.tar.gz").write_bytes(b"other")
    code, said = asked(inputs(release={"archive": "a.tar.gz", "sha256": "0" * 64}))
    assert (code, "release.sha256" in said) == (11, True), said


@pytest.mark.parametrize("stage", STAGES)
def test_the_shipped_modules_are_whole(stage: str) -> None:
    """Each has its profile, its pack, a README and an example whose keys its spec knows."""
    roots = default_roots()
    module = module_of(roots, f"platform/network/decision-{stage}")
    folder = roots[0] / "modules" / module.spec.module_ref
    assert {f"cap.control.decision_{stage}", f"decision_{stage}.status", f"decision_{stage}.execution_mode"} <= {
        *module.spec.outputs
    }
    assert (folder / "README.md").is_file()
    from hyops.engine.module_inputs import resolve

    example = folder / "examples" / "minimal.inputs.yml"
    value, lines = with_lines(example.read_bytes(), source=str(example))
    assert resolve(module.spec, value, lines, str(example))["memory_max_mb"] == 512


def test_a_spec_with_an_unknown_key_is_refused_with_its_line(tmp_path: Path) -> None:
    """So is one whose pack or profile is not there."""
    roots = default_roots()
    text = (roots[0] / "modules" / REF / "spec.yml").read_text()
    folder = tmp_path / "modules" / REF
    folder.mkdir(parents=True)
    (folder / "spec.yml").write_text(text.replace("driver: config/ansible", "drivr: config/ansible"))
    with pytest.raises(ConfigError, match=r"spec.yml:5: drivr: unknown key; did you mean 'driver'"):
        module_of([tmp_path], REF)
    (folder / "spec.yml").write_text(text)
    with pytest.raises(ConfigError, match="profile: there is no"):
        module_of([tmp_path], REF)


@pytest.mark.req("SEC-2", "INV-8")
def test_keys_come_from_the_state_and_secrets_are_known_to_the_redaction(tmp_path: Path) -> None:
    """A stage that is not installed is told, and trusted by nobody; what is private never passes the redaction."""
    from hyops.compose_module import Asked

    for name in ("key", "pins"):
        (tmp_path / name).write_text("x")
    (tmp_path / "secret").write_text("correct-horse-battery")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    states, told = FileStates(tmp_path), []
    value = inputs(trust=["platform/network/decision-service"], files={"s": {"from": "secret", "private": True}})
    data = yaml.safe_dump(value).encode()
    asked = Asked(tmp_path, "prod", REF)
    module = module_of(default_roots(), REF)
    plain, lines = with_lines(data, source="in.yml")
    job = stage_job(asked, module, "apply", tmp_path / "in.yml", plain, lines, states, told.append)
    play = job.play("apply", False, ())
    assert job.facts["not_trusted_yet"] == ["platform/network/decision-service"]
    assert "not installed yet" in told[0]
    assert play.redact("it says correct-horse-battery") == "it says ***"
    assert "correct-horse-battery" not in str(play.variables)
    (tmp_path / "pins").unlink()
    with pytest.raises(PrerequisiteError, match="known_hosts"):
        stage_job(asked, module, "destroy", tmp_path / "in.yml", plain, lines, states, told.append)
