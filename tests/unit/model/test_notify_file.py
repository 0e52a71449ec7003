"""`notify.yml`: what it may say, and the mend of what it may not (UX-2, UX-4)."""

from __future__ import annotations

import pytest

from hyops.adapters.yaml_files import parse_yaml
from hyops.errors import ConfigError
from hyops.model.notify import NotifyFile

HEAD = "api_version: hybridops/v1\nkind: Notify\ntrusted_keys: /etc/hyops/trusted_keys.json\nsinks:\n"
HOOK = "  hook: {type: webhook, url: 'https://ops.example.org/hook', secret_file: /etc/hyops/hook.secret}\n"
MAIL = "  mail: {type: mail, host: %s, sender: hyops@example.org, to: [ops@example.org]%s}\n"


def read(text: str) -> NotifyFile:
    """The file with these sinks."""
    return parse_yaml((HEAD + text).encode(), NotifyFile, source="notify.yml")


@pytest.mark.req("UX-4")
def test_three_kinds_of_sinks_are_read() -> None:
    """And what they leave out has its default."""
    found = read(HOOK + "  chat: {type: slack, url_file: /etc/hyops/chat.url}\n" + MAIL % ("mail.example.org", ""))

    assert {name: sink.type for name, sink in found.sinks.items()} == {
        "hook": "webhook",
        "chat": "slack",
        "mail": "mail",
    }
    assert found.sinks["hook"].per_minute == 10


@pytest.mark.req("UX-2", "UX-4", "INV-10")
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("  hook: {type: webhook, url: 'https://o.example/h'}\n", 5, "secret_file"),
        ("  hook: {type: webhook, url: 'https://u:pw@o.example/h', secret_file: /s}\n", 5, "take them out of it"),
        ("  hook: {type: webhook, url: 'https://o.example/h?token=x', secret_file: /s}\n", 5, "take them out of it"),
        ("  hook: {type: webhook, url: 'http://o.example/h', secret_file: /s}\n", 5, "not https"),
        ("  hook: {type: pager}\n", 5, "webhook"),
        (HOOK.replace("secret_file", "secret_fiel"), 5, "did you mean 'secret_file'"),
        (HOOK + "  chat: {type: slack, url: 'https://x'}\n", 6, "url_file"),
        (MAIL % ("mail.example.org", ", user: hyops"), 5, "go together"),
        (MAIL % ("mail.example.org", ", tls: none"), 5, "set tls: starttls"),
        (MAIL % ("127.0.0.1", ", tls: none, user: u, password_file: /p"), 5, "in the clear"),
        (MAIL.replace("ops@example.org]", "'a@b.example>\\nBcc: x@y.example']") % ("mail.example.org", ""), 5, "to.0"),
        ("  {}\n", 4, "sinks"),
    ],
)
def test_a_fault_names_file_line_and_key(text: str, line: int, says: str) -> None:
    """Whatever could leak a secret, reach nobody or go in the clear is refused before anything is sent."""
    with pytest.raises(ConfigError) as refused:
        read(text)

    assert f"notify.yml:{line}: " in refused.value.message
    assert says in refused.value.message


@pytest.mark.req("INV-10")
def test_a_refused_url_is_not_repeated() -> None:
    """Its password would stand in the log of whoever asked."""
    with pytest.raises(ConfigError) as refused:
        read("  hook: {type: webhook, url: 'https://u:canary-pw@o.example/h', secret_file: /s}\n")

    assert "canary-pw" not in refused.value.message
