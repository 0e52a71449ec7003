"""Rules on small texts, what a comment allows and what it does not, and that nothing crashes the look (DRIFT-1)."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyops.adapters.documents_files import parse_documents, parse_table
from hyops.errors import ConfigError
from hyops.lint.check import Finding, check
from hyops.lint.rules import RULES
from hyops.lint.sarif import sarif
from hyops.ports.documents import Document

PUBLIC = "drift/public-ip"
CI = "on: push\njobs:\n  a:\n    steps:\n      - {step}\n"


def found(text: str, *more: str, path: str = "x.yml", rules: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Rule and line of every finding in a text, beside other documents."""
    documents: list[Document] = []
    for number, one in enumerate((text, *more)):
        documents += parse_documents(one, source=path if number == 0 else f"other-{number}.yml")
    return [(one.rule, one.line) for one in check(documents, rules) if one.path == path]


@pytest.mark.req("DRIFT-1")
@pytest.mark.parametrize(
    "text",
    [
        f"public_ip: true # hyops-lint: allow {PUBLIC} -- the edge needs one",
        f"# hyops-lint: allow {PUBLIC} -- the edge needs one\npublic_ip: true",
        f"# hyops-lint: allow {PUBLIC} -- the edge needs one\n# more about it\n\npublic_ip: true",
    ],
)
def test_a_reasoned_comment_allows_its_line(text: str) -> None:
    """On the line, or alone above it."""
    assert found(text) == []


@pytest.mark.req("DRIFT-1")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"public_ip: true # hyops-lint: allow {PUBLIC}", [("allow/reason", 1), (PUBLIC, 1)]),
        (f"public_ip: true # hyops-lint: allow {PUBLIC} --", [("allow/reason", 1), (PUBLIC, 1)]),
        (f"public_ip: true # hyops-lint: allow {PUBLIC} -- ...", [("allow/reason", 1), (PUBLIC, 1)]),
        (f"public_ip: true # hyops-lint: allow {PUBLIC} because", [("allow/reason", 1), (PUBLIC, 1)]),
        ("public_ip: true # hyops-lint: allow drift/* -- all of it", [("allow/reason", 1), (PUBLIC, 1)]),
        ("public_ip: true # hyops-lint: ignore", [("allow/reason", 1), (PUBLIC, 1)]),
        ("public_ip: true # hyops-lint: allow drift/workstation -- wrong", [("allow/unused", 1), (PUBLIC, 1)]),
        (f"public_ip: true\n# hyops-lint: allow {PUBLIC} -- too late\na: 1", [(PUBLIC, 1), ("allow/unused", 2)]),
        (f"public_ip: true\nb: 'x # hyops-lint: allow {PUBLIC} -- not a comment'", [(PUBLIC, 1)]),
        ("# hyops-lint: allow allow/unused -- so there\na: 1", [("allow/reason", 1)]),
        (f"a: 1\n# hyops-lint: allow {PUBLIC} -- nothing follows", [("allow/unused", 2)]),
    ],
)
def test_a_comment_that_does_not_say_why_or_what_allows_nothing(text: str, expected: list[tuple[str, int]]) -> None:
    """The finding stays, and the comment is one more."""
    assert found(text) == sorted(expected, key=lambda one: (one[1], one[0]))


@pytest.mark.req("DRIFT-1")
def test_only_what_is_looked_for_can_be_unused() -> None:
    """With one rule chosen, allowances of others say nothing, and those of tables work too."""
    text = "a: 1 # hyops-lint: allow drift/workstation -- later"
    table = "# hyops-lint: allow drift/secret-single-source -- rotated by hand\ndr,A_KEY,env:A_KEY\n"

    assert found(text, rules=(PUBLIC, "allow/unused")) == []
    assert found(text, rules=("drift/workstation", "allow/unused")) == [("allow/unused", 1)]
    assert check(parse_table(table, source="m.csv", named=True)) == []


@pytest.mark.req("DRIFT-1", "RUN-12")
@pytest.mark.parametrize(
    ("step", "reaches"),
    [
        ("run: sudo -u deploy -E ssh db", True),
        ("run: timeout 10 bash -c 'cd x; rsync -a . db:/srv'", True),
        ("run: cat key | ssh-add -", True),
        ("run: A=1 B=2 /usr/bin/scp x db:/", True),
        ("run: psql -h 10.0.0.5 -c 'select 1'", True),
        ("run: psql postgres://u@db/x", True),
        ("run: kubectl apply -f x.yml", True),
        ("run: if true; then aws ssm start-session --target i-1; fi", True),
        ("run: docker run --rm alpine ssh root@10.0.0.1 true", True),
        ("run: docker run --rm -v /etc/ssh:/etc/ssh -e A=b alpine sh -c 'ssh h'", True),
        ("run: docker compose exec tools psql -h db1", True),
        ("run: poetry run ansible-playbook site.yml", True),
        ("run: uvx ansible-playbook site.yml", True),
        ("run: uvx --from ansible-core ansible-playbook site.yml", True),
        ("run: uv tool run ansible-playbook site.yml", True),
        ("run: find . -name x -exec ssh h true", True),
        ("run: 'parallel -j 4 ssh {} uptime ::: a b'", True),
        ("run: coproc ssh h", True),
        ("run: '{ ssh h; }'", True),
        ("run: sudo su - deploy -c 'ssh db'", True),
        ("run: xargs -n 1 -I host ssh host", True),
        ("run: helm upgrade x y", True),
        ("run: helm --namespace db upgrade x y", True),
        ("run: pg_dump -h db1 x", True),
        ("run: pg_dump postgres://u@db1/x", True),
        ("run: pg_dump 'host=db1 dbname=x'", True),
        ("run: mysql --host=db1 x", True),
        ("run: nc 10.0.0.1 5432", True),
        ("uses: tailscale/github-action@v2", True),
        ("env: {SSH_PRIVATE_KEY: x}", True),
        ("run: psql -h localhost -c 'select 1'", False),
        ("run: psql -c 'select 1'", False),
        ("run: kubectl apply --dry-run=client -f x.yml", False),
        ("run: ansible-playbook --syntax-check site.yml", False),
        ("run: rsync -a src/ dst/", False),
        ("run: 'echo done # ssh db'", False),
        ("run: grep ssh sshd_config", False),
        ('run: echo "ssh is not used"', False),
        ("run: ssh-keygen -t ed25519 -f key", False),
        ("run: sudo apt-get install -y ansible rsync helm", False),
        ("run: sudo cp sshd_config /etc/ssh", False),
        ("run: docker run --rm -v /etc/ssh:/etc/ssh --name ssh alpine true", False),
        ("run: docker build -t ssh .", False),
        ("run: docker run --rm x/ansible ansible-playbook --syntax-check site.yml", False),
        ("run: poetry add ansible", False),
        ("run: uv run --with ansible pytest tests/ssh", False),
        ("run: uvx ansible-lint", False),
        ("run: find . -name ssh -print", False),
        ("run: find ssh -exec grep -l ssh x", False),
        ("run: 'parallel echo {} ::: ssh scp'", False),
        ("run: '{ echo ssh; }'", False),
        ("run: helm template x y", False),
        ("run: helm --debug lint charts/x", False),
        ("run: helm upgrade x y --dry-run=client", False),
        ("run: pg_dump --help", False),
        ("run: pg_dump -h localhost x", False),
        ("run: pg_isready -h /run/postgresql", False),
        ("run: nc -l 5432", False),
        ("run: nc -z localhost 5432", False),
        ("name: ssh into nothing", False),
        ("{uses: actions/checkout@v4, with: {ssh-key: x}}", False),
    ],
)
def test_ci_may_talk_about_ssh_but_not_use_it(step: str, *, reaches: bool) -> None:
    """Commands are read as a shell reads them, behind wrappers, pipes and assignments."""
    assert bool(found(CI.format(step=step))) is reaches


@pytest.mark.req("DRIFT-1")
@pytest.mark.parametrize(
    ("command", "dispatches"),
    [
        ("hyops runner blueprint deploy x", True),
        ("hyops --root /srv/x --json apply --env prod", True),
        ("sudo /opt/hyops --root=/srv/x blueprint deploy", True),
        ("hyops status && hyops evidence verify b", False),
        ("hyops --root /srv/runner status", False),
        ("# the job is run by hyops", False),
    ],
)
def test_a_module_may_ask_hyops_but_not_have_it_run(command: str, *, dispatches: bool) -> None:
    """Options may stand before the verb."""
    text = f"kind: ModuleSpec\nmodule_ref: platform/linux/x\ninputs:\n  defaults:\n    after: '{command}'\n"

    assert found(text) == ([("drift/dispatch-in-module", 5)] if dispatches else [])


@pytest.mark.req("DRIFT-1")
@pytest.mark.parametrize(
    "text",
    [
        "kind: ModuleSpec\na: hyops " + "--a " * 20_000 + "x",
        "kind: ModuleSpec\na: hyops " + "--a b " * 20_000 + "x",
        CI.format(step="run: " + "sudo " * 50_000 + "x"),
        CI.format(step="run: " + "sudo " + "psql " * 50_000),
        CI.format(step="uses: " + "/ssh" * 50_000),
        CI.format(step="run: " + "psql -h localhost " * 10_000),
        CI.format(step="run: " + "docker run x " * 20_000),
        CI.format(step="run: " + "A=1 " * 50_000 + "x"),
        CI.format(step="run: helm " + "--a " * 50_000 + "x"),
        CI.format(step="run: pg_dump " + "-h -h " * 50_000),
        "source_ranges: [" + ", ".join(f"10.{n // 256}.{n % 256}.0/24" for n in range(2_000)) + "]",
        "allowed_ranges: " + "a" * 200_000,
        "endpoint_url: " + "http://" * 30_000,
    ],
)
def test_no_text_keeps_a_rule_for_ever(text: str) -> None:
    """Each would not come back at all if a pattern could try its ways again and again."""
    assert {rule for rule, _ in found(text)} <= {PUBLIC, "drift/ci-target-access"}


@pytest.mark.req("BP-1a")
def test_a_state_ref_that_the_modules_spec_offers_counts() -> None:
    """The spec of the step's module is among the documents: its defaults tell that there is a state ref."""
    text = (
        "kind: BlueprintSpec\nblueprint_ref: x/y@v1\nsteps:\n- id: a\n  module_ref: platform/db\n"
        "  inputs:\n    repo_bucket: hyops-prod-repo\n"
    )
    spec = "kind: ModuleSpec\nmodule_ref: platform/db\ninputs:\n  defaults:\n    repo_state_ref: ''\n"

    assert found(text) == []
    assert found(text, spec) == [("drift/hardcoded-reference", 7)]
    assert found(text, spec.replace("platform/db", "platform/other")) == []


@pytest.mark.req("DRIFT-1")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runner_ref: laptop", [("drift/workstation", 1)]),
        ("kubeconfig: /home/ada/.kube/config", [("drift/workstation", 1)]),
        ("state: ~/.hybridops/envs/prod", []),
        ("routes: {dispatcher_routes: {nonsense: {target_ref: a}}}", []),
        ("dispatcher_routes: {failover: [{runner_ref: a}, {target_ref: b}]}", [("drift/workstation", 1)]),
        ("access_configs: []", []),
        ("access_config: {}", [(PUBLIC, 1)]),
        ("network_interface:\n  access_config: {}", [(PUBLIC, 2)]),
        ("access_configs: [{name: External NAT}]", [(PUBLIC, 1)]),
        ("access_config: [{}]", [(PUBLIC, 1)]),
        ("access_config:", []),
        ("access_config: db-internal", []),
        ("access_config: {runner_ref: gcp-ops-runner}", []),
        ("associate_public_ip: true", [(PUBLIC, 1)]),
        ("associate_public_ip: false", []),
        ("public_ip_address: true", [(PUBLIC, 1)]),
        ("public_ip_address: 10.0.0.4", []),
        ("ingress:\n  cidr_blocks: ['0.0.0.0/0']", [(PUBLIC, 2)]),
        ("ingress:\n- cidr_blocks:\n  - 0.0.0.0/0", [(PUBLIC, 3)]),
        ("ingress: {ipv6_cidr_blocks: ['::/0']}", [(PUBLIC, 1)]),
        ("SecurityGroupIngress: [{CidrIp: 0.0.0.0/0}]", [(PUBLIC, 1)]),
        ("rule: {type: ingress, cidr_blocks: [0.0.0.0/0]}", [(PUBLIC, 1)]),
        ("ingress: {cidr_blocks: [10.0.0.0/8]}", []),
        ("egress: {cidr_blocks: [0.0.0.0/0]}", []),
        ("ingress: {rules: [{egress: {cidr_blocks: [0.0.0.0/0]}}]}", []),
        ("rule: {type: egress, cidr_blocks: [0.0.0.0/0]}", []),
        ("route: {cidr_block: 0.0.0.0/0}", []),
        ("egress_nat: {allowed_source_ranges: [0.0.0.0/0]}", [(PUBLIC, 1)]),
        ("source_address_prefix: '*'", [(PUBLIC, 1)]),
        ("source_address_prefixes: [Internet]", [(PUBLIC, 1)]),
        ("sourceAddressPrefix: Any", [(PUBLIC, 1)]),
        ("source_address_prefix: VirtualNetwork", []),
        ("destination_address_prefix: '*'", []),
        ("{direction: Outbound, access: Allow, source_address_prefix: '*'}", []),
        ("{direction: Inbound, access: Deny, source_address_prefix: '*'}", []),
        ("{direction: Inbound, access: Allow, source_address_prefix: '*'}", [(PUBLIC, 1)]),
        ("source_ranges: [0.0.0.0/1, 128.0.0.0/1]", [(PUBLIC, 1)]),
        ("source_ranges: 0.0.0.0/1,128.0.0.0/1", [(PUBLIC, 1)]),
        ("source_ranges: [0.0.0.0/2, 64.0.0.0/2, 128.0.0.0/1]", [(PUBLIC, 1)]),
        ("source_ranges: ['::/1', '8000::/1']", [(PUBLIC, 1)]),
        ("source_ranges: [0.0.0.0/1, 'not/a range', 198.51.100.0/24]", []),
        ("source_ranges: [0.0.0.0/1, '8000::/1']", []),
        (
            "execution_plane: public-ephemeral\naccess:\n  occasion: drill\n  expires_after: 2h\n"
            "  source_ranges: [0.0.0.0/1, 128.0.0.0/1]",
            [(PUBLIC, 1), (PUBLIC, 5)],
        ),
        ("public_ip: 'no'", []),
        ("egress_ranges: [0.0.0.0/0]", []),
        ("kind: ModuleSpec\nmodule_ref: platform/gcp/vm\ninputs: {defaults: {gcp_zone: x}}", []),
        ("secrets: {source: vault}\nbackup: {source: disk}", []),
        ("secrets: {authority: [{kind: shell}, {kind: vault}]}", []),
        ("secrets: {authority: [{kind: shell}, {kind: disk}]}", [("drift/secret-single-source", 1)]),
        ("secrets:\n  authority: {kind: vault, site: onprem}", [("drift/secret-single-source", 2)]),
        ("secrets: {authorities: [{kind: vault, site: onprem}, {kind: gsm, site: gcp}]}", []),
        ("runs:\n  steps:\n  - run: ssh db", [("drift/ci-target-access", 3)]),
        ("env: x\nproject_id: '{{ project }}'", [("drift/one-project", 2)]),
        ("vm: {project_id: one}", []),
        ("endpoint_state_ref: a\nendpoint_host: '{{ x }}'\nendpoint_ip: 127.0.0.1", []),
        ("endpoint_state_ref: a\nendpoint_url: http://10.0.0.1:8081/api", [("drift/hardcoded-reference", 2)]),
        ("bastion: {host: 10.0.0.9}\nexecution_plane: bastion-explicit", []),
        ("execution_plane: bastion-explicit\nssh_proxy_jump_host: jump", []),
    ],
)
def test_rules_on_the_edge(text: str, expected: list[tuple[str, int]]) -> None:
    """What is one word away from a finding."""
    assert found(text) == expected


@pytest.mark.req("DRIFT-1", "UX-2")
def test_words_of_a_file_cannot_draw_on_the_terminal() -> None:
    """Control characters and line ends in keys and values are written out, and long ones are cut."""
    text = '"\\e[2J\\nok": {runner_ref: laptop}\nbucket_state_ref: a\nbucket: "gs://' + "\\e" * 400 + '"\n'
    first, second = check(parse_documents(text, source="x.yml"))

    assert first.key == "\\x1b[2J\\nok.runner_ref"
    assert second.message.isprintable()
    assert len(second.message) < 2000


def test_sarif_holds_what_its_schema_requires() -> None:
    """SARIF 2.1.0: version, tool, rules and results that point to each other, places from line 1."""
    findings = check(parse_documents("public_ip: true\nrunner_ref: laptop\n", source="./a b/x.yml"))
    log = json.loads(json.dumps(sarif(findings, [("/y.yml", 3, "torn")])))
    run = log["runs"][0]
    driver = run["tool"]["driver"]

    assert (log["version"], log["$schema"].rsplit("/", 1)[1]) == ("2.1.0", "sarif-schema-2.1.0.json")
    assert driver["name"]
    assert [rule["id"] for rule in driver["rules"]] == list(RULES)
    assert len(run["results"]) == 2
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "a%20b/x.yml"
        assert place["region"]["startLine"] >= 1
    invocation = run["invocations"][0]
    assert invocation["executionSuccessful"] is False
    note = invocation["toolExecutionNotifications"][0]
    assert note["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///y.yml"


KEYS = st.sampled_from(
    [
        "kind",
        "blueprint_ref",
        "module_ref",
        "steps",
        "inputs",
        "defaults",
        "id",
        "execution_plane",
        "runner_ref",
        "dispatcher_routes",
        "failover",
        "failback",
        "hold",
        "target_ref",
        "secrets",
        "source",
        "sources",
        "authority",
        "projects",
        "host",
        "control",
        "project_id",
        "host_project_id",
        "control_project_id",
        "gcp",
        "env",
        "public_ip",
        "access_config",
        "access",
        "source_ranges",
        "occasion",
        "on",
        "jobs",
        "run",
        "script",
        "stage",
        "uses",
        "if",
        "backup_state_ref",
        "backup_bucket",
        "endpoint_ip",
        "ssh_proxy_jump_auto",
        "ssh_proxy_jump_host",
        "required_env",
        "load_vault_env",
        "runner_state",
        "execution",
        "dependencies",
    ]
)
WORDS = st.sampled_from(
    [
        "BlueprintSpec",
        "ModuleSpec",
        "dr/x@v1",
        "dr/failback@v1",
        "platform/linux/ops-runner",
        "platform/gcp/vm",
        "true",
        "false",
        "10.0.0.1",
        "0.0.0.0/0",
        "public-ephemeral",
        "bastion-explicit",
        "gcp-iap",
        "workstation-direct",
        "gs://b",
        "gcp-ops-runner",
        "shell",
        "laptop",
        "~/.ssh/x",
    ]
)
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
TREES = st.recursive(
    WORDS | PLAIN | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | PLAIN, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.req("DRIFT-1")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=st.dictionaries(KEYS, TREES, max_size=6), path=st.sampled_from(["x.yml", ".github/workflows/a.yml"]))
def test_no_tree_of_our_own_words_crashes_a_rule(tree: dict[str, object], path: str) -> None:
    """Any shape below any key: findings or none, each in a line that exists."""
    text = json.dumps(tree, indent=1)

    for one in check(parse_documents(text, source=path)):
        assert isinstance(one, Finding)
        assert 1 <= one.line <= text.count("\n") + 1
        assert one.rule in RULES


@pytest.mark.req("DRIFT-1", "UX-2")
@settings(max_examples=400, deadline=None)
@given(text=st.text(st.characters(codec="utf-8")) | st.text("-:[]{}&*!|>'\"#%@`,?\t\n a1\\U", max_size=60))
def test_no_text_crashes_the_reader(text: str) -> None:
    """Documents, or an error with file and line."""
    for parse, name in ((parse_documents, "x.yml"), (partial(parse_table, named=True), "x.csv")):
        try:
            check(parse(text, source=name))
        except ConfigError as exc:
            told = exc.message
        else:
            continue
        file, line, _ = told.split(":", 2)
        assert (file, line.isdecimal()) == (name, True)
