"""Files as trees with lines; what two readers could read differently is refused with file and line (UX-2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyops.adapters.documents_files import BYTES_MAX, FileDocuments, parse_documents, parse_table
from hyops.errors import ConfigError, UsageError


@pytest.mark.req("DRIFT-1", "UX-2")
def test_every_value_knows_its_line_and_path() -> None:
    """Of its key; in a list its own; of a text in a block the first line below the key."""
    document = parse_documents("a: 1\nb:\n  c: |\n    one\n    two\n  d:\n    - x\n    - {e: y}\n", source="x.yml")[0]
    assert document.root is not None
    seen = {node.key: (node.line, node.text_line) for node in document.root.below() if node.text is not None}

    assert seen == {"a": (1, 1), "b.c": (3, 4), "b.d.0": (7, 7), "b.d.1.e": (8, 8)}


@pytest.mark.req("DRIFT-1")
def test_keys_are_the_words_that_stand_there() -> None:
    """`on`, `1` and `~` are keys of workflows, not a truth, a number and nothing; tags of GitLab are read over."""
    document = parse_documents("on: push\n1: a\n~: b\nscript: !reference [.x, script]\n", source="x.yml")[0]

    assert document.root is not None
    assert list(document.root.entries or {}) == ["on", "1", "~", "script"]


@pytest.mark.req("DRIFT-1")
def test_a_file_may_hold_several_documents() -> None:
    """Each with its own lines and its own comments."""
    text = "a: 1\n---\n# hyops-lint: allow drift/public-ip -- why not\nb: 1\n"
    first, second = parse_documents(text, source="x.yml")

    assert (first.allowances, [one.covers for one in second.allowances]) == ((), [4])
    assert second.root is not None
    assert second.root.entries is not None
    assert second.root.entries["b"].line == 4
    assert parse_documents("", source="x.yml") == []


@pytest.mark.req("UX-2", "DRIFT-1")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: &x 2\n", "x.yml:2: anchors"),
        ("a: 1\nb: *x\n", "x.yml:2: anchors"),
        ("a: &x [1]\nb: *x\n", "x.yml:1: anchors"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "x.yml:4: key 'c' stands twice .first in line 3."),
        ("a:\n\tb: 1\n", "x.yml:2: a tab"),
        ("a: 1\n? [x]\n: 2\n", "x.yml:2: a key is not plain text"),
        ("a: 1\nb: [\n", "x.yml:3: "),
        ('a: "\\UFFFFFFFF"\n', "x.yml:1: "),
        ("a: 1\nb: \x00\n", "x.yml:2: character"),
        ("[" * 101 + "]" * 101, "x.yml:1: more than 100 levels"),
        ("a: " + "[" * 50_000, "x.yml:1: more than 100 levels"),
        ("%YAML 9.9\n---\na: 1\n", "x.yml:1: "),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str, said: str) -> None:
    """With its line, and without using up the stack."""
    with pytest.raises(ConfigError, match=said):
        parse_documents(text, source="x.yml")


@pytest.mark.req("UX-2")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: 1\n" + b"#" * BYTES_MAX, "x.yml:2: more than"),
        (b"a: 1\nb: \xff\n", "x.yml:2: byte 0xff is not UTF-8"),
    ],
)
def test_a_file_that_is_no_text_or_too_big(tmp_path: Path, data: bytes, said: str) -> None:
    """Refused before it is parsed."""
    (tmp_path / "x.yml").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        FileDocuments().read(tmp_path / "x.yml", named=True)


@pytest.mark.req("UX-2")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dr,A_KEY,x\ndr,A_KEY\n", "m.csv:2: a row is"),
        ("dr,A_KEY,x\n\ndr,a key,x\n", "m.csv:3: a row is"),
        ('dr,A_KEY,x\ndr,B_KEY,"x\n', "m.csv:2: "),
        ("dr,A_KEY,x\ndr,A_KEY,x\n", "m.csv:2: this row stands twice"),
    ],
)
def test_a_map_of_secrets_is_read_strictly(text: str, said: str) -> None:
    """Row by row, with lines."""
    with pytest.raises(ConfigError, match=said):
        parse_table(text, source="m.csv", named=False)


def test_a_table_that_is_no_map_of_secrets_is_not_ours() -> None:
    """Found below a folder it is left out; named by a person it is an error."""
    assert parse_table("time,value\n1,2\n", source="m.csv", named=False) == []
    with pytest.raises(ConfigError, match=r"m\.csv:1: a row is"):
        parse_table("time,value\n1,2\n", source="m.csv", named=True)


@pytest.mark.req("UX-2")
def test_a_folder_with_too_many_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a look at some of them."""
    monkeypatch.setattr("hyops.adapters.documents_files.FILES_MAX", 2)
    for number in range(3):
        (tmp_path / f"{number}.yml").write_text("a: 1\n")

    with pytest.raises(ConfigError, match="more than 2 files"):
        FileDocuments().find(tmp_path)


def test_folders_are_searched_without_links_and_hidden_places(tmp_path: Path) -> None:
    """Workflows of forges are the hidden places that count; other files are not documents."""
    for name in (".github/workflows/a.yml", ".git/b.yml", "c/d.yaml", "c/e.csv", "c/f.json", "node_modules/g.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a: 1\n")
    (tmp_path / "link.yml").symlink_to(tmp_path / "c/d.yaml")

    found = [str(path.relative_to(tmp_path)) for path in FileDocuments().find(tmp_path)]

    assert found == [".github/workflows/a.yml", "c/d.yaml", "c/e.csv"]
    with pytest.raises(UsageError, match="no such file"):
        FileDocuments().find(tmp_path / "none")


@pytest.mark.req("UX-2")
@pytest.mark.parametrize("name", ["x.yml", "x.csv"])
def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    """Nobody writes into it: the program would hang for ever."""
    os.mkfifo(tmp_path / name)
    assert FileDocuments().find(tmp_path) == [tmp_path / name]
    for named in (True, False):
        with pytest.raises(ConfigError, match=rf"{name}:1: not a regular file"):
            FileDocuments().read(tmp_path / name, named=named)


@pytest.mark.req("UX-2")
def test_a_link_is_read_only_when_a_person_names_it(tmp_path: Path) -> None:
    """One that takes a file's place after the folder was searched is not followed."""
    (tmp_path / "real.yml").write_text("a: 1\n")
    (tmp_path / "x.yml").symlink_to(tmp_path / "real.yml")
    assert len(FileDocuments().read(tmp_path / "x.yml", named=True)) == 1
    with pytest.raises(ConfigError, match=r"x\.yml:1: "):
        FileDocuments().read(tmp_path / "x.yml", named=False)
