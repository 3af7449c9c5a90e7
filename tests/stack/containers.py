"""What runs in place of a container: a process that is started again as the file's restart policy says, or a server of
this machine that speaks the same protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.services.postgres import Postgres
from tests.services.s3 import MotoServer
from tests.stack.compose import Service
from tests.stack.place import Place, entrypoint_of
from tools.kafka.cluster import KafkaCluster

FIRST_DELAY_S: Final = 0.1
"""Docker waits so long before it starts again what ended, twice as long each time, until it ran for SETTLED_S."""
SETTLED_S: Final = 10.0
MOST_DELAY_S: Final = 60.0


@dataclass
class Container:
    """An instance of a service as a process of this machine. What it says goes to `log`."""

    place: Place
    log: Path
    starts: int = 0
    codes: list[int] = field(default_factory=list)  # of each that ended
    _process: subprocess.Popen[bytes] | None = None
    _keeper: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def service(self) -> Service:
        return self.place.service

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.place.make()
        self._launch()
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {self.place.name}")
        self._keeper.start()

    def kill(self) -> None:
        """It dies, as of a defect or of the kernel's choice; its restart policy starts it again."""
        assert self._process is not None
        self._process.kill()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> int:
        """As `docker compose stop` does; its exit code."""
        self._stop.set()
        if self._process is None or self._keeper is None:
            return 0
        if self.is_running:
            self._process.terminate()
        try:
            self._process.wait(self.service.grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._keeper.join()
        return self.codes[-1]

    def code(self, timeout_s: float) -> int:
        """Of a service that ends."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def run(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Another command in it, as `docker compose exec` does."""
        return subprocess.run(
            list(words), cwd=self.place.root, env=self._environment(), capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=timeout_s, check=False,
        )  # fmt: skip

    def is_healthy(self) -> bool:
        """What its health check says now."""
        check = self.service.health
        assert check is not None
        if not self.is_running:
            return False
        first, *words = (self.place.local(word) for word in check.test)
        assert first == "CMD", f"{self.place.name}: {first} is not known here"
        try:
            return self.run(*words, timeout_s=check.timeout_s).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3_000:] if self.log.exists() else ""

    def _environment(self) -> dict[str, str]:
        """What the file says, and no more than Python needs beside it."""
        programs = str(self.place.town.folder / "bin")
        beside = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
        return {**beside, "HOME": str(self.place.root), "TMPDIR": str(self.place.scratch), **self.settings()}

    def settings(self) -> dict[str, str]:
        """Its variables, as they are here."""
        return {name: self.place.local(value) for name, value in self.service.environment.items()}

    def _launch(self) -> None:
        argv = [*entrypoint_of(self.service), *(self.place.local(word) for word in self.service.argv)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=self.place.root, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.starts += 1

    def _keep(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            assert self._process is not None
            begin_s = time.monotonic()
            self.codes.append(self._process.wait())
            if not self.service.restarts or self._stop.is_set():
                return
            settled = time.monotonic() - begin_s > SETTLED_S
            delay_s = FIRST_DELAY_S if settled else min(2 * delay_s, MOST_DELAY_S)
            if self._stop.wait(delay_s):
                return
            self._launch()


@dataclass
class Twin(Container):
    """A server of this machine in place of an image's: it takes the image's port and secrets, not its settings."""

    server: Any = None

    @property
    def is_running(self) -> bool:
        return self.starts > 0

    def start(self) -> None:
        """It runs already, on a port that nobody could know before."""
        self.place.make()
        if isinstance(self.server, Postgres):
            self.server.url(self.service.environment["POSTGRES_DB"])
        self.starts += 1

    def kill(self) -> None:
        """It is away; `back` ends that. The store keeps its files in memory, so it is only held."""
        match self.server:
            case KafkaCluster():
                self.server.kill(0)
            case MotoServer():
                self.server.pause()
            case Postgres():
                self.server.kill()

    def back(self) -> None:
        match self.server:
            case KafkaCluster():
                self.server.start(0)
            case MotoServer():
                self.server.go_on()
            case Postgres():
                self.server.start()

    def stop(self) -> int:
        return 0  # whoever made it ends it

    def settings(self) -> dict[str, str]:
        """Its settings are not the server's; `pg_isready` asks at the port that it would know."""
        return {"PGPORT": str(self.place.town.ports[self.place.name])}
