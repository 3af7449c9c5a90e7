"""Where silences are kept: the port, and its twin in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from meterhouse.streams.silences import MAX_SILENCES, BadSilence, Silence


class SilenceStore(Protocol):
    """May be shared between threads. Every method raises OutboxUnavailable on passing trouble."""

    def add(self, silence: Silence) -> None:
        """Raises BadSilence when MAX_SILENCES are not over at its `created_us`, or its id is taken."""
        ...

    def standing(self, now_us: int) -> Sequence[Silence]:
        """Those that are not over, also when they have not begun, by (until_us, id) ascending."""
        ...

    def end(self, silence_id: str, now_us: int) -> None:
        """It is over from now on; one that has not begun never was. Raises KeyError: none of this id stands."""
        ...


class MemorySilences:
    """The SilenceStore twin in memory: for tests, and for a run that keeps nothing."""

    def __init__(self) -> None:
        self._silences: dict[str, Silence] = {}
        self._lock = threading.Lock()

    def add(self, silence: Silence) -> None:
        with self._lock:
            refuse_one_more(len(self._standing(silence.created_us)), taken=silence.id in self._silences)
            self._silences[silence.id] = silence

    def standing(self, now_us: int) -> Sequence[Silence]:
        with self._lock:
            return self._standing(now_us)

    def end(self, silence_id: str, now_us: int) -> None:
        with self._lock:
            standing = {each.id: each for each in self._standing(now_us)}
            silence = standing[silence_id]
            del self._silences[silence_id]
            if silence.from_us < now_us:
                self._silences[silence_id] = replace(silence, until_us=now_us)

    def _standing(self, now_us: int) -> list[Silence]:
        found = [each for each in self._silences.values() if each.until_us > now_us]
        return sorted(found, key=lambda each: (each.until_us, each.id))


def refuse_one_more(standing: int, *, taken: bool) -> None:
    """Raises BadSilence where another is not to be added to so many."""
    if taken:
        raise BadSilence("there is a silence of this id: give it another")
    if standing >= MAX_SILENCES:
        raise BadSilence(f"{MAX_SILENCES:,} silences stand, which is the most there may be: end some first")
