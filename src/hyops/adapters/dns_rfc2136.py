"""The endpoint's record at its authorities: asked over DNS, changed by RFC 2136 update with TSIG (DNS-2).

The prerequisite is the exact TXT record set of `_gen.<name>`, and the same update replaces it, so the server itself
refuses a stale, raced or replayed writer, and the name is never without an address in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update

from hyops.errors import ConfigError, DeadlineError, StaleGenerationError, TargetError
from hyops.model.policy import Endpoint
from hyops.ports.dns import EndpointRecord

GENERATION_TTL_S = 1
REFUSED_BY_PREREQUISITE = {dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN}


class Rfc2136Dns:
    """`DnsAuthority` over TCP. `keys`: TSIG key name -> (algorithm, base64 secret)."""

    def __init__(self, keys: Mapping[str, tuple[str, str]], *, limit_s: float = 1.5) -> None:
        self._keys = {dns.name.from_text(name): (algorithm, secret) for name, (algorithm, secret) in keys.items()}
        self._limit_s = limit_s

    async def ask(self, endpoint: Endpoint, authority: str) -> EndpointRecord:
        """Address and generation, from this authority itself."""
        address, generation = await asyncio.gather(
            self._query(endpoint.name, "A", authority), self._query(f"_gen.{endpoint.name}", "TXT", authority)
        )
        found = [int(text) for text in generation[0] if text.isdecimal()]
        return EndpointRecord(
            authority=authority,
            addresses=tuple(sorted(address[0])),
            generation=found[0] if len(generation[0]) == 1 and found else None,
            ttl_s=address[1],
        )

    async def switch(self, endpoint: Endpoint, *, address: str, expected: int, generation: int) -> None:
        """One update at the first authority; see the module for its prerequisite."""
        host, port = _host_port(endpoint.authorities[0])
        message = self._update(endpoint, address, expected, generation)
        try:
            answer = await dns.asyncquery.tcp(message, host, timeout=self._limit_s, port=port)
        except (dns.exception.Timeout, TimeoutError, EOFError, ConnectionResetError) as exc:
            raise DeadlineError(f"{endpoint.authorities[0]} did not answer the update: {type(exc).__name__}") from exc
        except dns.tsig.PeerError as exc:
            raise TargetError(
                f"{endpoint.authorities[0]} refused the key: {exc}", hint="check TSIG key and clock"
            ) from exc
        except (dns.exception.DNSException, OSError) as exc:
            raise TargetError(f"{endpoint.authorities[0]}: {type(exc).__name__}: {exc}") from exc
        code = answer.rcode()
        if code in REFUSED_BY_PREREQUISITE:
            raise StaleGenerationError(
                f"{endpoint.name} is not at generation {expected} any more: {dns.rcode.to_text(code)}",
                expected=expected,
            )
        if code != dns.rcode.NOERROR:
            raise TargetError(f"{endpoint.authorities[0]} refused the update: {dns.rcode.to_text(code)}")

    def _update(self, endpoint: Endpoint, address: str, expected: int, generation: int) -> dns.update.UpdateMessage:
        try:
            key_name = dns.name.from_text(endpoint.tsig_key_name)
            algorithm, secret = self._keys[key_name]
            keyring = dns.tsigkeyring.from_text({key_name.to_text(): (algorithm, secret)})
            zone, name = dns.name.from_text(endpoint.zone), dns.name.from_text(endpoint.name)
            marker = dns.name.from_text(f"_gen.{endpoint.name}")
            message = dns.update.UpdateMessage(zone, keyring=keyring, keyname=key_name, keyalgorithm=algorithm)
            message.present(marker, "TXT", f'"{expected}"')
            message.replace(name, endpoint.ttl_s, "A", address)
            message.replace(marker, GENERATION_TTL_S, "TXT", f'"{generation}"')
        except KeyError as exc:
            raise ConfigError(f"no TSIG key {endpoint.tsig_key_name!r} on this runner") from exc
        except (dns.exception.DNSException, ValueError) as exc:
            raise ConfigError(f"{endpoint.name}: {exc}") from exc
        return message

    async def _query(self, name: str, kind: str, authority: str) -> tuple[list[str], int | None]:
        host, port = _host_port(authority)
        try:
            question = dns.message.make_query(name, kind)
            question.flags &= ~dns.flags.RD
            answer = await dns.asyncquery.udp(question, host, timeout=self._limit_s, port=port)
            if answer.flags & dns.flags.TC:
                answer = await dns.asyncquery.tcp(question, host, timeout=self._limit_s, port=port)
        except (dns.exception.DNSException, OSError, EOFError, TimeoutError) as exc:
            raise TargetError(f"{authority} does not answer for {name}: {type(exc).__name__}: {exc}") from exc
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise TargetError(f"{authority} answers {dns.rcode.to_text(answer.rcode())} for {name}")
        if not answer.flags & dns.flags.AA:
            raise TargetError(f"{authority} is not an authority for {name}")
        wanted = dns.rdatatype.from_text(kind)
        sets = [rrset for rrset in answer.answer if rrset.rdtype == wanted]
        values = [rdata.to_text().strip('"') for rrset in sets for rdata in rrset]
        return values, int(sets[0].ttl) if sets else None


def _host_port(authority: str) -> tuple[str, int]:
    host, _, port = authority.rpartition(":")
    if not host or not port.isdecimal():
        return authority, 53
    return host.strip("[]"), int(port)
