"""A real Alertmanager for tests: on a free port, with a configuration and a folder of its own.

It forgets its alerts when it stops, as Alertmanager does; what it has notified it remembers.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from tests.services.need import skip_or_fail

_PATIENCE_S: Final = 30.0
_PROGRAMS: Final = ("prometheus-alertmanager", "alertmanager")  # Debian's name, and the project's own


class Alertmanager:
    """A server of our own, told by `configuration` (YAML) what to do with alerts."""

    def __init__(self, program: str, folder: Path, configuration: str) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        (folder / "alertmanager.yml").write_text(configuration, encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server answers."""
        command = [
            self._program,
            f"--config.file={self._folder / 'alertmanager.yml'}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",  # alone: it waits for no others before it notifies
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Alertmanager does not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_PATIENCE_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def firing(self) -> list[dict[str, Any]]:
        """Alerts that it takes for not resolved."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=_PATIENCE_S) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/-/ready", timeout=2).close()
        except OSError:
            return False
        return True


@contextmanager
def own_alertmanager(configuration: str) -> Iterator[Alertmanager]:
    """A server that a test may stop."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        skip_or_fail("there is no Alertmanager here: install it (Debian: prometheus-alertmanager)")
    with (
        tempfile.TemporaryDirectory(prefix="meterhouse-alertmanager-") as folder,
        Alertmanager(program, Path(folder), configuration) as server,
    ):
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
