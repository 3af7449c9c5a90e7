"""The channel to whatever Apprise reaches: chat, mail, phones. One service each, so that none repeats another's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from meterhouse.streams.alerts import ChannelMissing, OutboxEntry
from meterhouse.streams.channels import Channel, described

MAX_SERVICES: Final = 20
"""Each has a thread of its own; more people than that are reached through one service's group."""


class AppriseService:
    """One address of Apprise's. Its errors do not say more than that it failed: what a service answers may repeat the
    address, which is a secret."""

    threads = 1

    def __init__(self, name: str, service: Any, kinds: Any) -> None:
        self.name = name
        self._service = service
        self._kinds = kinds

    def post(self, entry: OutboxEntry, about: OutboxEntry) -> str | None:
        alert = entry.alert
        kind = self._kinds.SUCCESS if alert.status == "resolved" else self._kinds.WARNING
        sent = self._service.notify(title=alert.summary, body=described(alert), notify_type=kind)
        return None if sent else "the service refused it or did not answer"

    def close(self) -> None:
        pass


def apprise_channels(addresses: Sequence[str]) -> list[Channel]:
    """A channel for each address, `apprise-1` and so on in their order. Raises ChannelMissing."""
    try:
        import apprise
    except ImportError as missing:
        raise ChannelMissing(
            "METERHOUSE_APPRISE_URLS is set and Apprise is not installed: pip install 'meterhouse[apprise]'"
        ) from missing
    if len(addresses) > MAX_SERVICES:
        raise ChannelMissing(f"METERHOUSE_APPRISE_URLS has {len(addresses)} addresses, {MAX_SERVICES} are the most")
    logging.getLogger("apprise").disabled = True  # it may say addresses
    channels: list[Channel] = []
    for number, address in enumerate(addresses, 1):
        service = apprise.Apprise()
        if not service.add(address):
            raise ChannelMissing(
                f"address {number} of METERHOUSE_APPRISE_URLS is none that Apprise knows: see its list of services"
            )
        channels.append(AppriseService(f"apprise-{number}", service, apprise.NotifyType))
    return channels
