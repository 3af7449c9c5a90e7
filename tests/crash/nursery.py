"""Processes that start at once: a nurse that has imported everything forks a child for each command.

A start of Python with all that a meter imports costs two seconds of processor time, a fork a few milliseconds. The
child runs the command's own `main`, in an environment of its own, as if it had been started from a shell.

    nursery = Nursery(log); child = nursery.start(["meterhouse.api.cli", "meter"], {...}); child.kill(); child.code(5)
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, Self

IMPORTED: Final = (
    "meterhouse.api.cli",
    "meterhouse.api.wiring",
    "meterhouse.api.workers",
    "meterhouse.streams.budget_faust",
    "tests.crash.producer",
    "confluent_kafka",
    "confluent_kafka.admin",
    "faust.app.router",
    "faust.assignor.partition_assignor",
    "faust.tables.manager",
    "faust.transport.drivers.aiokafka",
    "psycopg",
    "pyarrow.parquet",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
)
"""What the commands use. Importing starts no thread, which a fork would lose."""
READY_S: Final = 60.0


class Child:
    """A forked process. `code` is its exit code, negative for a signal, once it is over."""

    def __init__(self, pid: int, started_s: float) -> None:
        assert pid > 1, f"{pid} is no process but a whole group of them"
        self.pid = pid
        self.started_s = started_s
        self._code: int | None = None
        self._over = threading.Event()

    @property
    def is_running(self) -> bool:
        return not self._over.is_set()

    def signal(self, which: signal.Signals) -> None:
        # Nobody else takes its number while the nurse has not told us: then it is not signalled any more.
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, which)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def code(self, timeout_s: float) -> int:
        """Waits for its end."""
        if not self._over.wait(timeout_s):
            raise TimeoutError(f"process {self.pid} is still there after {timeout_s} s")
        assert self._code is not None
        return self._code

    def limit_files(self, size_bytes: int | None) -> None:
        """No file of it may grow beyond so many bytes (None: any): what a full disk looks like to it alone."""
        limit = resource.RLIM_INFINITY if size_bytes is None else size_bytes
        if self.is_running:
            with suppress(ProcessLookupError):
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def resident_bytes(self) -> int:
        """Memory that it holds; 0 when it is over."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(fields[1]) * resource.getpagesize()

    def ended(self, code: int) -> None:
        self._code = code
        self._over.set()


class Nursery:
    """The nurse's process and its children. What they print goes to `log`; `plant`: a bug that the product has in them
    (`planted.BUGS`)."""

    def __init__(self, log: Path, plant: str = "") -> None:
        self._log, self._plant = log, plant
        self._children: dict[int, Child] = {}
        self._born: list[Child] = []  # it may be over before its starter has it
        self._is_ready = False
        self._heard = threading.Condition()

    def __enter__(self) -> Self:
        orders, self._orders = os.pipe()
        self._news, news = os.pipe()
        self._nurse = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery", str(orders), str(news), self._plant],
            stdin=subprocess.DEVNULL,
            # A pipe: a limit on the size of files is not to stop the log.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(orders, news),
            start_new_session=True,
        )
        os.close(orders)
        os.close(news)
        self._threads = [threading.Thread(target=self._listen), threading.Thread(target=self._write_log)]
        for thread in self._threads:
            thread.start()
        with self._heard:
            if not self._heard.wait_for(lambda: self._is_ready, READY_S):
                raise TimeoutError(f"the nurse is not ready after {READY_S} s: see {self._log}")
        return self

    def __exit__(self, *_: object) -> None:
        for child in list(self._children.values()):
            child.kill()
        os.close(self._orders)  # the nurse leaves
        self._nurse.wait(timeout=READY_S)
        for thread in self._threads:
            thread.join()
        os.close(self._news)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Runs `main()` of the module `command[0]` with the rest as its arguments."""
        order = json.dumps({"command": list(command), "environment": dict(environment)})
        with self._heard:
            os.write(self._orders, f"{order}\n".encode())
            if not self._heard.wait_for(lambda: bool(self._born), READY_S):
                raise TimeoutError(f"no child after {READY_S} s: see {self._log}")
            return self._born.pop()

    def _listen(self) -> None:
        with os.fdopen(os.dup(self._news), encoding="ascii") as news:
            for line in news:
                what, pid, code = line.split()
                with self._heard:
                    if what == "born":
                        self._children[int(pid)] = Child(int(pid), time.monotonic())
                        self._born.append(self._children[int(pid)])
                        self._heard.notify_all()
                    elif what == "ready":
                        self._is_ready = True
                        self._heard.notify_all()
                    else:
                        self._children.pop(int(pid)).ended(int(code))

    def _write_log(self) -> None:
        assert self._nurse.stdout is not None
        with self._log.open("ab") as log:
            while read := os.read(self._nurse.stdout.fileno(), 65_536):
                log.write(read)
                log.flush()
        self._nurse.stdout.close()


# -- the nurse's side --------------------------------------------------------------------------------------------------


def _nurse(orders: int, news: int, plant: str) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    # A child's end wakes the nurse where it waits for orders.
    signal.signal(signal.SIGCHLD, lambda *_: _reap(news))
    os.write(news, b"ready 0 0\n")
    with os.fdopen(orders, encoding="utf-8") as lines:
        for line in lines:
            told = json.loads(line)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # first its birth is told, then its end
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                os.close(news)
                _child(told, plant)
            os.write(news, b"born %d 0\n" % pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _reap(news)


def _reap(news: int) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            os.write(news, b"over %d %d\n" % (pid, os.waitstatus_to_exitcode(status)))


def _planted(plant: str) -> AbstractContextManager[None]:
    if not plant:
        return nullcontext()
    from tests.crash.planted import planted

    def die() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    return planted(plant, die)


def _child(told: dict[str, Any], plant: str) -> None:
    """Never returns."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(told["environment"])
        name, *arguments = told["command"]
        sys.argv = [name, *arguments]
        module = importlib.import_module(name)
        with _planted(plant):
            module.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        if sys.exc_info()[1] is not None:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _nurse(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
