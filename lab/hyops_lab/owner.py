"""Whose a TCP connection of a host is: the kernel's answer for one socket, in time for one that is given up at once."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST = 4, 20, 1
ANY_STATE, NO_COOKIE = 0xFFFFFFFF, b"\xff" * 8
HEAD, UID_AT = 16, 16 + 4 + 48 + 12  # struct nlmsghdr; idiag_uid behind state, ends and queues of struct inet_diag_msg
Address = tuple[str, int]


def asked(diag: socket.socket, source: Address, target: Address) -> int | None:
    """The uid that has the connection between these; None where there is none (any more).

    `diag` is a netlink socket of the host's network namespace. Reading its table of sockets instead takes the machine's
    whole table each time, tens of milliseconds.
    """
    ends = struct.pack("!HH4s12x4s12x", source[1], target[1], socket.inet_aton(source[0]), socket.inet_aton(target[0]))
    wanted = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, ANY_STATE) + ends + bytes(4) + NO_COOKIE
    diag.send(struct.pack("=IHHII", HEAD + len(wanted), SOCK_DIAG_BY_FAMILY, REQUEST, 1, 0) + wanted)
    answer = diag.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] != SOCK_DIAG_BY_FAMILY:
        return None
    return int(struct.unpack_from("=I", answer, UID_AT)[0])


def users(passwd: str) -> dict[int, str]:
    """The names of a host's users by uid."""
    fields = [line.split(":") for line in passwd.splitlines()]
    return {int(field[2]): field[0] for field in fields if len(field) > 2}


def named(uid: int | None, names: Mapping[int, str]) -> str:
    """A user as people know it: the number where it has no name, empty where there is nobody."""
    return "" if uid is None else names.get(uid, str(uid))
