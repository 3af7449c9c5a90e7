"""The alert sender: delivers what waits in the outbox on every channel that is configured."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from meterhouse.streams.alerts import (
    SILENCED,
    AlertFilter,
    AlertOutbox,
    Delivery,
    OutboxEntry,
    OutboxUnavailable,
)
from meterhouse.streams.channels import Channel, Reposting
from meterhouse.streams.silence_store import SilenceStore
from meterhouse.streams.silences import Silence, matches
from meterhouse.streams.watch import AlertWatch, Delivered, Unwatched

ROUND: Final = 100
"""Alerts of one round beside those under way: what became due meanwhile waits no longer than these take."""
IDLE_S: Final = 0.1
"""Between two rounds: an alert is posted within a second of being raised. An empty one costs a query by an index."""
MAX_WAIT_S: Final = 30.0
DEPTH_EVERY_US: Final = 5_000_000
"""How often the outbox is asked how many wait: a scraper comes less often."""
MAX_OUTBOX_FAILURES: Final = 20
"""One after another: about seven minutes without a control database, then stop loudly."""
LANE_ALERTS: Final = 200
"""Alerts that one channel has under way or queued: two rounds. What a receiver that hangs cannot take stays in the
outbox, and leaves the rounds to the others."""
POSTPONE_S: Final = 30.0
"""When an alert comes back that found its channel full: by then six posts of a thread have timed out."""
MAX_REPOSTED: Final = 1_000
"""Open alerts that are told again, the newest first: a body of about a megabyte."""
RESOLVED_REPOSTED_S: Final = 900.0
"""How long a resolved alert is told again: a resolution that was overtaken, or that a clock behind ours took for one to
come, is then heard of. (Prometheus tells as long.)"""
_REPOST: Final = ""
"""Stands for a channel's repeat among the ids of alerts under way."""

_log = structlog.get_logger("meterhouse.alerts")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a delivery that failed is tried again: after base × 2^(failures - 1), at most `max_delay_s`, less up to half
    of it by chance, so that many alerts do not come back at once. As it stands: for about half a day, which outlasts a
    night's trouble at the receiver; then the alert is given up, and kept for people to see."""

    base_s: float = 1.0
    max_delay_s: float = 3_600.0
    max_attempts: int = 24
    chance: Callable[[], float] = random.random  # in [0, 1)

    def next_attempt_us(self, failures: int, now_us: int) -> int | None:
        """When to try again after `failures` (1 or more); None: give up."""
        if failures >= self.max_attempts:
            return None
        delay_s = min(self.max_delay_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return now_us + int(delay_s * (1 - self.chance() / 2) * 1e6)


def is_silenced(entry: OutboxEntry, silences: Sequence[Silence], now_us: int) -> bool:
    """Is nobody to hear of it now? What somebody has heard of is told to its end, whatever is silent since."""
    if entry.delivered_by == SILENCED:
        return True
    return not entry.posted and any(matches(silence, entry.alert, now_us) for silence in silences)


@dataclass(slots=True)
class _Lane:
    """A channel with its threads, so that one that hangs holds up no other."""

    channel: Channel
    pool: ThreadPoolExecutor
    running: dict[str, Future[None]] = field(default_factory=dict)  # by alert id
    reposted_us: int | None = None


class AlertSender:
    """Delivers what is due in an outbox on each channel, at least once: what is posted but could not be noted is posted
    again, under the same id, by which a receiver drops it.

    What became of an alert is noted per channel: one that fails is tried again by `policy` there alone. A silenced
    alert is not posted, and nor is the alert that resolves it.
    """

    def __init__(
        self,
        outbox: AlertOutbox,
        silences: SilenceStore,
        channels: Sequence[Channel],
        *,
        clock: Callable[[], int],
        policy: RetryPolicy | None = None,
        watch: AlertWatch | None = None,
    ) -> None:
        self._watch = watch or Unwatched()
        self._outbox = outbox
        self._silences = silences
        self._clock = clock
        self._policy = policy or RetryPolicy()
        self._depth_us: int | None = None  # when it was told last
        self._names = tuple(channel.name for channel in channels)
        self._lanes = [
            _Lane(channel, ThreadPoolExecutor(channel.threads, thread_name_prefix=channel.name)) for channel in channels
        ]

    def close(self) -> None:
        """Waits for the posts under way and drops what is queued: it stays in the outbox."""
        for lane in self._lanes:
            lane.pool.shutdown(cancel_futures=True)
            lane.channel.close()

    def run(self, stop: threading.Event) -> None:
        """Delivers until `stop` is set. Raises OutboxUnavailable when the outbox stays away."""
        trouble = 0
        while not stop.is_set():
            try:
                self._round()
                trouble = 0
            except OutboxUnavailable as reason:
                trouble += 1
                self._watch.tries_again("control")
                if trouble >= MAX_OUTBOX_FAILURES:
                    raise
                _log.warning("alert outbox unavailable, will try again", reason=str(reason))
            stop.wait(min(MAX_WAIT_S, IDLE_S * 2**trouble))

    def run_once(self) -> int:
        """One round: tries each alert that is due once, at most ROUND of them, and waits for the answers; returns how
        many it tried.

        Raises OutboxUnavailable.
        """
        tried = self._round()
        wait([future for lane in self._lanes for future in lane.running.values()])
        self._collect()
        return tried

    def idle(self) -> bool:
        """Is nothing due now? (What failed may be due later.)"""
        return not self._outbox.due(self._clock(), 1)

    def _round(self) -> int:
        self._collect()
        now_us = self._clock()
        under_way = sum(len(lane.running) for lane in self._lanes)
        tried = sum(self._hand_over(entry, now_us) for entry in self._outbox.due(now_us, ROUND + under_way))
        for lane in self._lanes:
            self._hand_over_repost(lane, now_us)
        self._tell_depth(now_us)
        return tried

    def _tell_depth(self, now_us: int) -> None:
        if self._depth_us is None or now_us - self._depth_us >= DEPTH_EVERY_US:
            self._depth_us = now_us
            alerts, oldest_us = self._outbox.waiting()
            self._watch.waits(alerts, 0.0 if oldest_us is None else max(0.0, (now_us - oldest_us) / 1e6))

    def _collect(self) -> None:
        """Raises what a post under way raised: trouble of the outbox."""
        for lane in self._lanes:
            for alert_id in [alert_id for alert_id, future in lane.running.items() if future.done()]:
                lane.running.pop(alert_id).result()

    def _hand_over(self, entry: OutboxEntry, now_us: int) -> bool:
        """To the lanes that are to try it now; False: none is, or it is under way."""
        alert_id, handed, full = entry.alert.id, False, list[_Lane]()
        due = [lane for lane in self._lanes if entry.is_due(lane.channel.name, now_us)]
        for lane in due:
            if alert_id in lane.running:
                continue
            if len(lane.running) >= LANE_ALERTS:
                full.append(lane)
                continue
            lane.running[alert_id] = lane.pool.submit(self._deliver, lane.channel, alert_id)
            handed = True
        if full or not due:  # nothing is due where a channel is no longer configured
            later_us = now_us + int(POSTPONE_S * 1e6)
            had = ((lane.channel.name, entry.channels.get(lane.channel.name, Delivery())) for lane in full)
            self._record(alert_id, {name: replace(each, next_attempt_us=later_us) for name, each in had})
        return handed

    def _deliver(self, channel: Channel, alert_id: str) -> None:
        """On a thread of the channel. The alert is read anew: it may have waited."""
        entry, now_us = self._outbox.get(alert_id), self._clock()
        about = self._about(entry)
        if not entry.is_due(channel.name, now_us):
            return
        if is_silenced(about, self._silences.standing(now_us), now_us):
            self._outbox.silence(alert_id, now_us)
            self._tell(channel, "silenced", entry)
            return
        had = entry.channels.get(channel.name, Delivery())
        error = channel.post(entry, about)
        if error is None:
            done = replace(had, next_attempt_us=None, delivered_us=self._clock())
            self._record(alert_id, {channel.name: done})
            self._tell(channel, "delivered", entry)
            return
        again_us = self._policy.next_attempt_us(had.attempts + 1, self._clock())
        failed = Delivery(attempts=had.attempts + 1, next_attempt_us=again_us, last_error=error)
        level = _log.warning if again_us is not None else _log.error
        told = {"channel": channel.name, "attempt": failed.attempts, "given_up": again_us is None}
        level("alert not delivered", id=alert_id, reason=error, **told)
        self._record(alert_id, {channel.name: failed})
        self._tell(channel, "given_up" if again_us is None else "failed", entry)

    def _about(self, entry: OutboxEntry) -> OutboxEntry:
        """The alert that this one resolves, else itself."""
        if entry.alert.resolves is None:
            return entry
        try:
            return self._outbox.get(entry.alert.resolves)
        except KeyError:
            return entry

    def _hand_over_repost(self, lane: _Lane, now_us: int) -> None:
        channel = lane.channel
        if not isinstance(channel, Reposting) or _REPOST in lane.running:
            return
        if lane.reposted_us is None or now_us - lane.reposted_us >= channel.every_s * 1e6:
            lane.reposted_us = now_us
            lane.running[_REPOST] = lane.pool.submit(self._repost, channel)

    def _repost(self, channel: Reposting) -> None:
        now_us = self._clock()
        silences = self._silences.standing(now_us)
        told = [
            entry
            for entry in [*self._outbox.open(now_us, MAX_REPOSTED), *self._resolved_lately(now_us)]
            if not is_silenced(entry, silences, now_us)
        ]
        error = channel.repost(told) if told else None
        if error is not None:
            _log.warning("open alerts not told again", channel=channel.name, reason=error, alerts=len(told))

    def _resolved_lately(self, now_us: int) -> list[OutboxEntry]:
        since = AlertFilter(from_us=now_us - int(RESOLVED_REPOSTED_S * 1e6))
        news = self._outbox.list(since, limit=MAX_REPOSTED)
        found = [self._about(entry) for entry in news if entry.alert.resolves is not None]
        return [entry for entry in found if entry.alert.resolves is None]

    def _record(self, alert_id: str, deliveries: Mapping[str, Delivery]) -> None:
        self._outbox.record(alert_id, deliveries, self._names)

    def _tell(self, channel: Channel, outcome: Delivered, entry: OutboxEntry) -> None:
        self._watch.tried(channel.name, outcome, max(0.0, (self._clock() - entry.alert.created_us) / 1e6))
