"""The DNS adapter against a real PowerDNS: who may change the endpoint, and when the server itself refuses."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.asyncquery
import dns.update
import pytest

from hyops.adapters.dns_rfc2136 import Rfc2136Dns
from hyops.errors import ConfigError, DeadlineError, StaleGenerationError, TargetError
from hyops.model.policy import Endpoint
from loopback import free_ports, listens, missing
from waiting import wait_for

pytestmark = pytest.mark.skipif(missing("pdns_server") is not None, reason=str(missing("pdns_server")))
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAwMDE="
SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")
ZONE, NAME = "lab.hyops.internal", "pg.lab.hyops.internal"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """PowerDNS with one zone that takes updates under one TSIG key; gives its port."""
    folder, (port,) = tmp_path_factory.mktemp("pdns"), free_ports(1)
    base = sqlite3.connect(folder / "pdns.db")
    base.executescript(SCHEMA.read_text())
    base.execute("insert into domains(id, name, type) values (1, ?, 'NATIVE')", (ZONE,))
    for name, kind, content, ttl in (
        (ZONE, "SOA", f"ns.{ZONE} admin.{ZONE} 1 60 60 3600 1", 60),
        (ZONE, "NS", f"ns.{ZONE}", 60),
    ):
        words = (name, kind, content, ttl)
        base.execute("insert into records(domain_id, name, type, content, ttl, auth) values (1, ?, ?, ?, ?, 1)", words)
    base.execute("insert into tsigkeys(name, algorithm, secret) values ('hyops-switch', 'hmac-sha256', ?)", (SECRET,))
    for kind, content in (("TSIG-ALLOW-DNSUPDATE", "hyops-switch"), ("ALLOW-DNSUPDATE-FROM", "0.0.0.0/0")):
        base.execute("insert into domainmetadata(domain_id, kind, content) values (1, ?, ?)", (kind, content))
    base.commit()
    base.close()
    words = ["--no-config", "--daemon=no", "--guardian=no", "--launch=gsqlite3", "--local-address=127.0.0.1"]
    words += [f"--gsqlite3-database={folder / 'pdns.db'}", f"--local-port={port}", f"--socket-dir={folder}"]
    words += ["--dnsupdate=yes", "--cache-ttl=0", "--query-cache-ttl=0", "--negquery-cache-ttl=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [shutil.which("pdns_server") or "/usr/sbin/pdns_server", *words], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: listens(port), f"pdns_server, see {folder / 'log'}")
        yield port
    finally:
        process.kill()
        process.wait()


def endpoint(port: int, name: str = NAME) -> Endpoint:
    """The endpoint `name` with this server as its authority."""
    return Endpoint(name=name, zone=ZONE, authorities=[f"127.0.0.1:{port}"], ttl_s=30, tsig_key_name="hyops-switch")


def adapter(secret: str = SECRET) -> Rfc2136Dns:
    """With the key that the server knows, unless told otherwise."""
    return Rfc2136Dns({"hyops-switch": ("hmac-sha256", secret)})


@pytest.fixture
def fresh(server: int) -> Iterator[Endpoint]:
    """The endpoint at 10.77.1.10, generation 1, whatever an earlier test did."""
    here = endpoint(server)
    message = adapter()._update(here, "10.77.1.10", 0, 1)
    message.prerequisite.clear()
    asyncio.run(dns.asyncquery.tcp(message, "127.0.0.1", port=server, timeout=3))
    return here


@pytest.mark.req("DNS-2", "GEN-1")
def test_a_switch_moves_address_and_generation_together(fresh: Endpoint) -> None:
    """Before and after, the authority answers one address with its generation."""
    found = asyncio.run(adapter().ask(fresh, fresh.authorities[0]))
    assert (found.addresses, found.generation, found.ttl_s) == (("10.77.1.10",), 1, 30)

    asyncio.run(adapter().switch(fresh, address="10.77.2.10", expected=1, generation=2))

    found = asyncio.run(adapter().ask(fresh, fresh.authorities[0]))
    assert (found.addresses, found.generation) == (("10.77.2.10",), 2)


@pytest.mark.req("DNS-2", "INV-3")
@pytest.mark.fault(26)
def test_the_server_refuses_a_stale_and_a_replayed_update(fresh: Endpoint) -> None:
    """The same bytes a second time, and a plan for an older generation: refused, the record stays whole."""
    message = adapter()._update(fresh, "10.77.2.10", 1, 2)

    async def send() -> str:
        host, port = "127.0.0.1", int(fresh.authorities[0].rsplit(":", 1)[1])
        return str((await dns.asyncquery.tcp(message, host, port=port, timeout=3)).rcode())

    first, second = asyncio.run(send()), asyncio.run(send())
    assert (first, second) == ("0", "8")  # NOERROR, NXRRSET
    with pytest.raises(StaleGenerationError):
        asyncio.run(adapter().switch(fresh, address="10.77.9.9", expected=1, generation=2))
    found = asyncio.run(adapter().ask(fresh, fresh.authorities[0]))
    assert (found.addresses, found.generation) == (("10.77.2.10",), 2)


@pytest.mark.req("DNS-2")
@pytest.mark.fault(26)
def test_of_writers_that_race_exactly_one_wins_and_the_record_is_never_empty(fresh: Endpoint) -> None:
    """Eight writers at once, while a reader looks all the time."""

    async def scenario() -> None:
        seen: set[tuple[str, ...]] = set()
        done = asyncio.Event()

        async def look() -> None:
            while not done.is_set():
                seen.add((await adapter().ask(fresh, fresh.authorities[0])).addresses)

        looking = asyncio.create_task(look())
        tries = [adapter().switch(fresh, address=f"10.77.2.{n}", expected=1, generation=2) for n in range(11, 19)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        done.set()
        await looking
        assert [type(r) for r in results].count(type(None)) == 1
        assert all(r is None or isinstance(r, StaleGenerationError) for r in results)
        winner = results.index(None)
        now = await adapter().ask(fresh, fresh.authorities[0])
        assert now.addresses == (f"10.77.2.{11 + winner}",)
        assert seen <= {("10.77.1.10",), now.addresses}

    asyncio.run(scenario())


@pytest.mark.req("DNS-2")
def test_without_the_key_nothing_changes(fresh: Endpoint) -> None:
    """A wrong secret and an unsigned update are refused by the server; no key here is a config error."""
    wrong = "d3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3JvbmctMDE="
    with pytest.raises(TargetError):
        asyncio.run(adapter(wrong).switch(fresh, address="10.77.2.10", expected=1, generation=2))
    with pytest.raises(ConfigError):
        asyncio.run(Rfc2136Dns({}).switch(fresh, address="10.77.2.10", expected=1, generation=2))
    unsigned = dns.update.UpdateMessage(ZONE)
    unsigned.replace(NAME + ".", 30, "A", "10.77.2.10")
    port = int(fresh.authorities[0].rsplit(":", 1)[1])
    answer = asyncio.run(dns.asyncquery.tcp(unsigned, "127.0.0.1", port=port, timeout=3))
    assert answer.rcode() != 0
    assert asyncio.run(adapter().ask(fresh, fresh.authorities[0])).generation == 1


@pytest.mark.req("DNS-2", "INV-5")
def test_an_authority_that_is_silent_or_no_authority_is_told_apart_from_an_answer(server: int) -> None:
    """No server: error. Another zone: error. No such name: no address, no generation, and no switch."""
    (dead,) = free_ports(1)
    with pytest.raises(TargetError):
        asyncio.run(adapter().ask(endpoint(dead), f"127.0.0.1:{dead}"))
    with pytest.raises((TargetError, DeadlineError)):
        asyncio.run(adapter().switch(endpoint(dead), address="10.77.2.10", expected=1, generation=2))
    elsewhere = endpoint(server, "pg.example.org")
    with pytest.raises(TargetError):
        asyncio.run(adapter().ask(elsewhere, elsewhere.authorities[0]))
    absent = endpoint(server, f"nobody.{ZONE}")
    found = asyncio.run(adapter().ask(absent, absent.authorities[0]))
    assert (found.addresses, found.generation) == ((), None)
    with pytest.raises(StaleGenerationError):
        asyncio.run(adapter().switch(absent, address="10.77.2.10", expected=1, generation=2))
