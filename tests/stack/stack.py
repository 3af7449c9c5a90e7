"""The whole file at once: everything started in its order, watched until healthy, stopped as it says.

with running(folder) as stack: stack.containers["meter-1"].kill(); stack.await_healthy("meter-1")
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.services.kafka import own_cluster
from tests.services.postgres import own_postgres
from tests.services.s3 import S3, own_s3
from tests.stack.compose import ROOT, Service, document, services
from tests.stack.containers import Container, Twin
from tests.stack.place import Place, Town, free_ports, write_programs

LEFT_OUT: Final = {"grafana": "it is in no package here"}
START_S: Final = 240.0
PATIENCE: Final = 4
"""A process that was started so often before all are up has something to say."""
LOOK_S: Final = 0.5
"""Between health checks: less than the file's intervals, for a test's patience."""


@dataclass
class Stack:
    """Containers by instance (`meter-1`). `order`: who was started when, by instance."""

    town: Town
    containers: Mapping[str, Container]
    order: list[str] = field(default_factory=list)

    def start(self) -> None:
        """All at once, each as soon as those that it depends on are as it asks. Raises AssertionError."""
        done: set[str] = set()
        deadline = time.monotonic() + START_S
        while len(done) < len(self.containers):
            for name, container in self.containers.items():
                if name not in self.order and self._may_start(container.service, done):
                    self.order.append(name)
                    container.start()
            done |= {name for name in self.order if name not in done and self._is_up(name)}
            assert (again := self._again_and_again()) == [], self.told(*again)
            assert time.monotonic() < deadline, self.told(*(self.containers.keys() - done))
            time.sleep(LOOK_S)

    def _again_and_again(self) -> list[str]:
        return [name for name in self.order if self.containers[name].starts > PATIENCE]

    def _may_start(self, service: Service, done: set[str]) -> bool:
        instances = {name: self.town.instances_of(name) for name in service.depends_on}
        for name, condition in service.depends_on.items():
            ends = self.town.services[name].health is None
            meant = "service_completed_successfully" if ends else "service_healthy"
            assert condition == meant, f"{service.name} waits for {name} to be {condition}, not {meant}"
        return all(set(names) <= done for names in instances.values())

    def _is_up(self, name: str) -> bool:
        """Healthy, or ended well."""
        container = self.containers[name]
        if container.service.health is not None:
            return container.is_healthy()
        if container.is_running:
            return False
        assert container.code(0) == 0, self.told(name)
        return True

    def await_healthy(self, name: str, deadline_s: float = START_S) -> float:
        """Seconds until its health check passes."""
        begin_s = time.monotonic()
        while not self.containers[name].is_healthy():
            assert time.monotonic() - begin_s < deadline_s, self.told(name)
            time.sleep(LOOK_S)
        return time.monotonic() - begin_s

    def meterhouse(self, service: str, *arguments: str) -> str:
        """What a command prints in a service's first instance."""
        done = self.containers[f"{service}-1"].run("meterhouse", *arguments, timeout_s=START_S)
        assert done.returncode == 0, f"{' '.join(arguments)} left {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def url(self, name: str) -> str:
        return f"http://{self.town.address(name)}"

    def json(self, name: str, path: str, key: str = "") -> Any:
        """What an instance answers."""
        asked = urllib.request.Request(f"{self.url(name)}{path}")
        if key:
            asked.add_header("authorization", f"Bearer {key}")
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)

    def stop(self) -> dict[str, int]:
        """All of ours at once, as `docker compose down` does; the exit codes by instance."""
        with ThreadPoolExecutor(len(self.containers)) as pool:
            codes = pool.map(lambda container: container.stop(), self.containers.values())
            return dict(zip(self.containers, codes, strict=True))

    def told(self, *names: str) -> str:
        """Of instances that are not as they should be, the ends of their logs."""
        ends = (f"{name} (exit codes {self.containers[name].codes}):\n{self.containers[name].said()}" for name in names)
        return "not up: " + "\n".join(ends)


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """The stack of the file, from nothing, in a folder of its own. Kafka and PostgreSQL are servers of this machine; so
    is the store, where there is no versitygw."""
    known = {name: service for name, service in services(document()).items() if name not in LEFT_OUT}
    secrets = made_secrets(folder / "secrets")
    password = (secrets / "postgres_password").read_text(encoding="ascii")
    with ExitStack() as open_:
        twins: dict[str, AbstractContextManager[Any]] = {
            "kafka": own_cluster(),
            "postgres": own_postgres(password),
        }
        if shutil.which("versitygw") is None:
            twins["s3"] = own_s3()
        with ThreadPoolExecutor(len(twins)) as pool:
            servers = dict(zip(twins, pool.map(open_.enter_context, twins.values()), strict=True))
        if "s3" in servers:
            give_keys(servers["s3"], secrets)
        town = town_of(folder, known, secrets, servers)
        stack = Stack(town, dict(containers_of(town, servers)))
        open_.callback(stack.stop)
        stack.start()
        yield stack


def made_secrets(folder: Path) -> Path:
    """As an operator makes them."""
    subprocess.run([ROOT / "tools" / "make-secrets", folder], check=True, capture_output=True)
    return folder


def give_keys(store: S3, secrets: Path) -> None:
    """Keys that it made itself."""
    for name in ("access_key", "secret_key"):
        (file := secrets / f"s3_{name}").unlink()
        file.write_text(getattr(store, name), encoding="ascii")


def town_of(folder: Path, known: Mapping[str, Service], secrets: Path, servers: Mapping[str, Any]) -> Town:
    names = [f"{name}-{number + 1}" for name, service in known.items() for number in range(service.replicas)]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    write_programs(folder / "bin")
    for name, server in servers.items():
        ports[f"{name}-1"] = int(server.bootstrap.rpartition(":")[2]) if name == "kafka" else server.port
    return Town(folder, known, ports, secrets)


def containers_of(town: Town, servers: Mapping[str, Any]) -> Iterator[tuple[str, Container]]:
    (town.folder / "logs").mkdir()
    for service in town.services.values():
        for name in town.instances_of(service.name):
            place, log = Place(town, service, name), town.folder / "logs" / f"{name}.log"
            server = servers.get(service.name)
            yield name, Container(place, log) if server is None else Twin(place, log, server=server)
