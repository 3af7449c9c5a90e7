"""What may be written to a lake at a time, and what the one process that writes it knows of the newest snapshot."""

from __future__ import annotations

from threading import Event, Lock
from time import monotonic
from typing import Final

BEHIND_S: Final = 0.25
"""How long readers may be left with the snapshot before, while somebody makes ready what they will ask of the newest
one: some 50 to 100 ms beside 10,000 events a second."""


class Writing:
    """Held (`with`) by whatever this process writes to a lake, one at a time. `is_alone`: no other process writes to
    it, so that the newest snapshot stays that until somebody holds this again.

    `moved` is set whenever it was held, and cleared by who waits for it. `is_followed`: somebody waits for it, makes
    ready what others will ask of the newest snapshot, and says `made_ready` then.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self._is_alone = is_alone
        self._lock, self._noting = Lock(), Lock()
        self._times = 0  # it was held
        self._newest: tuple[int, int] | None = None  # as noted after so many times, a snapshot
        self._behind: tuple[int, float] | None = None  # a snapshot that readers are given instead of it, until when
        self.moved = Event()
        self.is_followed = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        read = self.newest
        if self.is_followed and read is not None and self._behind is None:
            self._behind = read, monotonic() + BEHIND_S
        self._times += 1  # before others may write, so that nobody goes on with what was the newest before
        self._lock.release()
        self.moved.set()

    def made_ready(self) -> None:
        """What will be asked of the newest snapshot is at hand."""
        self._behind = None

    @property
    def times(self) -> int:
        """Read it before a transaction begins, for `note`."""
        return self._times

    def note(self, times: int, snapshot: int) -> None:
        """A transaction that began since `times` was read sees this snapshot."""
        if self._is_alone:
            with self._noting:
                # While it is held, transactions from before and from after a commit may come here in any order.
                if self._newest is None or (times, snapshot) > self._newest:
                    self._newest = times, snapshot

    @property
    def newest(self) -> int | None:
        """The snapshot that is to be read: the newest one, or for BEHIND_S the one before it. None: not known."""
        behind = self._behind
        if behind is not None and monotonic() < behind[1]:
            return behind[0]
        noted = self._newest
        return noted[1] if noted is not None and noted[0] == self._times else None
