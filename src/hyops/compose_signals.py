"""Both ends of a vantage point: the source that the decision stage reads, and the stream that it reads from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyops.adapters.probes_stream import Stream
    from hyops.model.signal import Sample
    from hyops.ports.clock import Clock
    from hyops.ports.signals import SignalSource, Watchlist
    from hyops.services.config import DecisionConfig, SshLogin


def sources_of(config: DecisionConfig, clock: Clock) -> list[SignalSource]:
    """Every vantage point, and what the service itself asks and hears; only what some signal needs is loaded."""
    from hyops.services.loop import log

    found = [vantage(name, login, clock, config.probe_password_file) for name, login in config.vantages.items()]
    needed = {signal.source for protected in config.protected for signal in protected.policy.signals}
    if "prometheus" in needed:
        from hyops.adapters.prometheus_source import PrometheusSource  # brings an HTTP client, 5 MB

        found.append(PrometheusSource("prometheus", clock))
    if "alertmanager" in needed and config.alertmanager is not None:
        from hyops.adapters.alertmanager_source import AlertmanagerSource, Door

        door = Door(**config.alertmanager.body())
        found.append(AlertmanagerSource("alertmanager", clock, door, lambda words: log("alertmanager", message=words)))
    if "file" in needed:
        from hyops.adapters.files_source import FilesSource

        found.append(FilesSource("file", clock))
    return found


def vantage(name: str, login: SshLogin | None, clock: Clock, password_file: str | None) -> SignalSource:
    """The looks of one vantage point as the decision stage gets them; without a login it is this host."""
    from hyops.adapters.signals_ssh import LocalVantage, SshTarget, SshVantage

    if login is None:
        more = ("--password-file", password_file) if password_file else ()
        return LocalVantage(name, clock, (sys.argv[0], "probe", "stream", "--vantage", name, *more))
    target = SshTarget(name, login.address, login.user, login.key_file, login.known_hosts, login.port)
    return SshVantage(name, clock, target)


def probe_stream(watchlist: Watchlist, password: str | None, emit: Callable[[Sample], None]) -> Stream:
    """The looks of one vantage point."""
    from hyops.adapters.probes_network import network_probes
    from hyops.adapters.probes_stream import Stream

    return Stream(watchlist, network_probes(password), emit)
