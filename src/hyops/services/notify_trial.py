"""The message of `hyops notify test`: it says what it is, and asks for nothing."""

from __future__ import annotations

import secrets
from datetime import datetime

from hyops.model.notify import Notice
from hyops.ports.sink import Message


def trial(sink: str, at: datetime) -> Message:
    """One message, another one each time."""
    name = f"notice-test-{secrets.token_hex(16)}"
    title = f"test of the sink {sink}: it can be reached; nothing is asked"
    return Message(
        name.replace("notice", "delivery"), (Notice(notice_id=name, event="test", about=sink, at=at, title=title),)
    )
