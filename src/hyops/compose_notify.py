"""The notifier put together: which sink each kind of entry in `notify.yml` is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose import record_store

if TYPE_CHECKING:
    from hyops.model.notify import MailSink, NotifyFile, SlackSink, WebhookSink
    from hyops.ports.clock import Clock
    from hyops.ports.sink import Sink


async def run_notify(config_file: Path) -> None:
    """`hyops service run notify`."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.owned_lock import owned_lock
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.adapters.store_files import FileRecordStore
    from hyops.adapters.yaml_files import read_yaml
    from hyops.model.notify import NotifyFile
    from hyops.ownership import make_folder
    from hyops.services.config import Homes
    from hyops.services.loop import log
    from hyops.services.notify import NotifyStage, run
    from hyops.services.notify_sending import Sender

    config = read_yaml(config_file, NotifyFile)
    clock, homes, state = SystemClock(), Homes.of(config.homes, source=f"{config_file}: homes"), Path(config.state)
    verifier = TrustedVerifier.load(Path(config.trusted_keys))
    make_folder(state, 0o700)
    with owned_lock(state / "lock", "hyops service run notify", wait_s=0):  # two would double
        senders = [
            Sender(name, sink_of(given, clock), given, FileRecordStore(state / name, group_readable=False), clock, log)
            for name, given in config.sinks.items()
        ]
        stage = NotifyStage(
            senders,
            decisions=record_store(homes.decision, "records"),
            inputs=record_store(homes.decision, "inputs"),
            requests=record_store(homes.dispatch, "requests"),
            refusals=record_store(homes.approval, "refusals"),
            executions=record_store(homes.approval, "executions"),
            attempts=record_store(homes.execution, "attempts"),
            outcomes=record_store(homes.execution, "outcomes"),
            verifier=verifier,
            clock=clock,
            expires_soon_s=config.expires_soon_s,
            open_run_s=config.open_run_s,
        )
        await run(stage)


def sink_of(config: WebhookSink | SlackSink | MailSink, clock: Clock) -> Sink:
    """Only what is used is loaded: an HTTP client takes 5 MB."""
    if config.type == "mail":
        from hyops.adapters.notify_mail import MailNotifier

        return MailNotifier(config, clock)
    from hyops.adapters.notify_webhook import SlackNotifier, WebhookNotifier

    return WebhookNotifier(config, clock) if config.type == "webhook" else SlackNotifier(config, clock)


def read_notify(config_file: Path) -> NotifyFile:
    """The file, checked."""
    from hyops.adapters.yaml_files import read_yaml
    from hyops.model.notify import NotifyFile

    return read_yaml(config_file, NotifyFile)


def told_by(config: NotifyFile) -> dict[str, list[bytes]]:
    """Sink -> the marks of what it was told, as they lie there; to be read only."""
    from hyops.adapters.store_files import FileRecordStore

    stores = {name: FileRecordStore(Path(config.state) / name, group_readable=False) for name in config.sinks}
    return {
        name: [store.read(told) for told in store.ids() if told.startswith("notice-")] for name, store in stores.items()
    }


async def send_test(config: NotifyFile, sink: str) -> None:
    """Tell one sink that this is a test."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.services.notify_trial import trial

    clock = SystemClock()
    await sink_of(config.sinks[sink], clock).deliver(trial(sink, clock.now()))
