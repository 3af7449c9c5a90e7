"""Where a container's world is on this machine: the table by which names, ports and paths of the file become local.

| in the file | here |
|---|---|
| `SERVICE:PORT` of a service on a network of its own | 127.0.0.1 and that service's port here |
| its own port, alone or behind localhost, 127.0.0.1 or 0.0.0.0 | its port here |
| a volume, a tmpfs, `/run/secrets` | a folder below `folder`; of secrets those that it is granted, translated too |
| a folder of the repository | itself; of Prometheus's configuration a copy that asks no name server |
| a program of an image | `programs` below, or what this machine has under that name |

All else is used as it is written.
"""

from __future__ import annotations

import re
import shutil
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.services.need import skip_or_fail
from tests.stack.compose import ROOT, SECRETS, Service

PORTS: Final = {
    "kafka": 9092, "postgres": 5432, "s3": 7070, "api": 8080, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000,
}  # fmt: skip
"""Inside containers; of all others WORKER_PORT."""
WORKER_PORT: Final = 9464
IMAGES: Final[Mapping[str, Sequence[str]]] = {
    "prom/prometheus": ("prometheus",),
    "prom/alertmanager": ("prometheus-alertmanager", "alertmanager"),  # Debian's name, and the project's own
}
"""Entrypoints of images that are not ours: one of these programs."""
BINARIES: Final = "/opt/kafka/bin"
HOME: Final = "/var/lib/meterhouse"
"""Of our image's user. Where no volume stands there, the container may not write to it."""
SCRAPE: Final = "2s"
"""Instead of the file's 15 s, for a test's patience."""
_ITSELF: Final = ("localhost", "127.0.0.1", "0.0.0.0")

_PROGRAMS: Final = {
    "meterhouse": '#!/bin/sh\nexec {python} -m meterhouse "$@"\n',
    "python": '#!/bin/sh\nexec {python} "$@"\n',
    "nc": "#!{python}\nimport socket, sys\nsocket.create_connection((sys.argv[-2], int(sys.argv[-1])), 5).close()\n",
    # Its class is not among the jars that tests have.
    "kafka-broker-api-versions.sh": "#!{python}\nimport sys\nfrom confluent_kafka.admin import AdminClient\n"
    "AdminClient({{'bootstrap.servers': sys.argv[-1], 'log_level': 0}}).list_topics(timeout=10)\n",
}


def port_of(service: str) -> int:
    """Inside its container."""
    return PORTS.get(service, WORKER_PORT)


def free_ports(count: int) -> list[int]:
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in bound]
    for each in bound:
        each.close()
    return ports


def write_programs(folder: Path) -> None:
    """What containers find on their PATH."""
    folder.mkdir()
    for name, text in _PROGRAMS.items():
        file = folder / name
        file.write_text(text.format(python=sys.executable), encoding="utf-8")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)


def entrypoint_of(service: Service) -> list[str]:
    """Of an image that is not ours, where the file does not say it."""
    if service.is_ours or "entrypoint" in service.told:
        return []
    names = IMAGES[service.told["image"].partition(":")[0]]
    found = next((program for name in names if (program := shutil.which(name))), None)
    if found is None:
        skip_or_fail(f"there is no {names[0]} here: install it (Debian has it)")
    return [found]


@dataclass(frozen=True)
class Town:
    """What all places share: `ports` of instances by name (`meter-1`), `secrets` as the operator has them."""

    folder: Path
    services: Mapping[str, Service]
    ports: Mapping[str, int]
    secrets: Path

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def instances_of(self, service: str) -> list[str]:
        return [f"{service}-{number + 1}" for number in range(self.services[service].replicas)]


@dataclass(frozen=True)
class Place:
    """The world of one instance of a service."""

    town: Town
    service: Service
    name: str
    _paths: dict[str, str] = field(default_factory=dict)

    def make(self) -> None:
        """Folders and files of it, as a container has them at its start."""
        folder = self.town.folder / self.name
        for number, path in enumerate(self.service.scratch):
            self._paths[path] = str(folder / f"scratch-{number}")
        for path, source in self.service.mounts.items():
            known = (ROOT / source) if source.startswith("./") else self.town.folder / "volumes" / source
            self._paths[path] = str(folder / "configuration" if path == "/etc/prometheus" else known)
        if self.service.is_ours:
            self._paths.setdefault(HOME, str(folder / "home"))
        self._paths.update({SECRETS: str(folder / "secrets"), BINARIES: str(self.town.folder / "bin")})
        for path in {*self._paths.values(), str(folder / "root")}:
            Path(path).mkdir(parents=True, exist_ok=True)
        for name in self.service.secrets:
            told = (self.town.secrets / name).read_text(encoding="utf-8")
            (folder / "secrets" / name).write_text(self.local(told), encoding="utf-8")
        if "/etc/prometheus" in self.service.mounts:
            self._configure_prometheus(ROOT / self.service.mounts["/etc/prometheus"])

    @property
    def root(self) -> Path:
        """Where it starts, and home of its user."""
        return self.town.folder / self.name / "root"

    def strays(self) -> list[Path]:
        """What it wrote where a container may not."""
        read_only = [self.root, self.town.folder / self.name / "home"]
        return sorted(path for folder in read_only for path in folder.rglob("*"))

    @property
    def scratch(self) -> Path:
        """Its /tmp."""
        return Path(self._paths["/tmp"]) if "/tmp" in self._paths else self.root

    def local(self, text: str) -> str:
        """A text of the file, with what this machine calls the same."""
        paths = "|".join(re.escape(path) for path in sorted(self._paths, key=len, reverse=True))
        hosts = "|".join(map(re.escape, [*self.town.services, *_ITSELF]))
        own = port_of(self.service.name)
        pattern = rf"(?<![\w./-])(?P<path>{paths})(?![\w.-])|(?<![\w.-])(?P<host>{hosts}):(?P<port>\d+)(?!\d)"
        return re.sub(rf"{pattern}|(?<![\w.:/])(?P<colon>:?){own}(?![\w.])", self._one, text)

    def _one(self, found: re.Match[str]) -> str:
        path, host, port = found["path"], found["host"], found["port"]
        if path is not None:
            return self._paths[path]
        if host is None:
            return f"{found['colon']}{self.town.ports[self.name]}"
        service = self.service.name if host in _ITSELF else host
        assert int(port) == port_of(service), f"{self.name}: {service} does not listen on {port}"
        if host in _ITSELF:
            return f"{host}:{self.town.ports[self.name]}"
        ours, theirs = (set(self.town.services[name].told.get("networks", [])) for name in (self.service.name, host))
        assert ours & theirs, f"{self.name} names {host} and is on no network with it"
        return self.town.address(f"{host}-1")

    def _configure_prometheus(self, source: Path) -> None:
        """Its configuration, with the addresses that a name server would have told."""
        target = Path(self._paths["/etc/prometheus"])
        shutil.copytree(source, target, dirs_exist_ok=True)
        told: dict[str, Any] = yaml.safe_load(self.local((source / "prometheus.yml").read_text(encoding="utf-8")))
        told["global"] |= {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
        for job in told["scrape_configs"]:
            job["static_configs"] = [
                {"targets": [self.town.address(each) for each in self.town.instances_of(name)],
                 "labels": {"__meta_dns_name": name}}
                for names in job.pop("dns_sd_configs")
                for name in names["names"]
                if names["port"] == port_of(name)
            ]  # fmt: skip
        (target / "prometheus.yml").write_text(yaml.safe_dump(told), encoding="utf-8")
