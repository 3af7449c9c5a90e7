"""The channel to what Apprise reaches, with its own plainest service: a post of JSON to a server of this machine."""

from __future__ import annotations

import sys

import pytest

from meterhouse.streams.alert import Alert, resolution_of
from meterhouse.streams.alerts import ChannelMissing, OutboxEntry
from meterhouse.streams.apprise_channel import MAX_SERVICES, apprise_channels
from tests.services.receiver import Receiver, own_receiver

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise imports it

SECRET = "c4n4ry"
NEWS = Alert(
    id="a1",
    kind="threshold",
    subject="acme-month",
    summary="budget acme-month has reached 80 % of its limit",
    created_us=1_795_000_000_000_000,
    spent="81.000000000000",
    limit="100.000000000000",
    payload={"unit": "USD"},
)


def entry(alert: Alert) -> OutboxEntry:
    return OutboxEntry(alert=alert, next_attempt_us=alert.created_us)


def address(receiver: Receiver) -> str:
    return receiver.url.replace("http://", "json://")


def test_an_alert_and_its_end_are_told_with_what_they_are_about(receiver: Receiver) -> None:
    (channel,) = apprise_channels([address(receiver)])
    back = resolution_of(NEWS, NEWS.created_us, "the limit was raised")
    assert channel.post(entry(NEWS), entry(NEWS)) is None
    assert channel.post(entry(back), entry(NEWS)) is None
    assert [(body["title"], body["message"], body["type"]) for body in receiver.bodies] == [
        (NEWS.summary, "spent 81.000000000000 of 100.000000000000 USD; alert a1", "warning"),
        (back.summary, f"spent 81.000000000000 of 100.000000000000 USD; alert {back.id}", "success"),
    ]
    channel.close()


def test_each_address_is_a_channel_and_a_failure_says_no_address(receiver: Receiver) -> None:
    receiver.answers = [503]
    with own_receiver() as other:
        failing, sound = apprise_channels([f"{address(receiver)}?-x={SECRET}", address(other)])
        assert (failing.name, sound.name) == ("apprise-1", "apprise-2")
        error = failing.post(entry(NEWS), entry(NEWS))
        assert error == "the service refused it or did not answer"
        assert SECRET not in repr(failing)
        assert sound.post(entry(NEWS), entry(NEWS)) is None
        assert (len(receiver.requests), len(other.requests)) == (1, 1)


def test_an_address_that_apprise_does_not_know_is_told_by_its_number() -> None:
    with pytest.raises(ChannelMissing, match="address 2 of METERHOUSE_APPRISE_URLS") as wrong:
        apprise_channels(["json://127.0.0.1/", f"nothing://{SECRET}"])
    assert SECRET not in str(wrong.value)


def test_there_is_an_end_to_the_addresses() -> None:
    with pytest.raises(ChannelMissing, match="20 are the most"):
        apprise_channels(["json://127.0.0.1/"] * (MAX_SERVICES + 1))


def test_without_apprise_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ChannelMissing, match=r"pip install 'meterhouse\[apprise\]'"):
        apprise_channels(["json://127.0.0.1/"])
