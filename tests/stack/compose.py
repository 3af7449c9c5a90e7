"""docker-compose.yml as values: of each service what a container of it would run, with which settings and files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "docker-compose.yml"
IMAGE: Final = "meterhouse:"
SECRETS: Final = "/run/secrets"
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0}


@dataclass(frozen=True)
class Health:
    """A health check: `test` begins with CMD."""

    test: Sequence[str]
    interval_s: float
    timeout_s: float
    retries: int
    start_period_s: float


@dataclass(frozen=True)
class Service:
    """A service; `told` is all that the file says of it."""

    name: str
    told: Mapping[str, Any]
    argv: Sequence[str]  # of the entrypoint, as file or Dockerfile say, and the command; another image's is not known
    environment: Mapping[str, str]
    mounts: Mapping[str, str]  # path in the container → folder or file of the repository (./...), or a volume's name

    @property
    def is_ours(self) -> bool:
        return str(self.told["image"]).startswith(IMAGE)

    @property
    def replicas(self) -> int:
        return int(self.told["deploy"].get("replicas", 1))

    @property
    def restarts(self) -> bool:
        return bool(self.told["restart"] == "unless-stopped")

    @property
    def grace_s(self) -> float:
        """How long it may take to leave."""
        return seconds(self.told.get("stop_grace_period", "10s"))

    @property
    def depends_on(self) -> Mapping[str, str]:
        """Service → the condition that it must meet first."""
        return {name: of["condition"] for name, of in self.told.get("depends_on", {}).items()}

    @property
    def secrets(self) -> Sequence[str]:
        return list(self.told.get("secrets", []))

    @property
    def scratch(self) -> Sequence[str]:
        """Paths that are empty at each start."""
        return [str(each).partition(":")[0] for each in self.told.get("tmpfs", [])]

    @property
    def health(self) -> Health | None:
        """None: it ends, so that its exit code says all."""
        told = self.told["healthcheck"]
        if told.get("disable"):
            return None
        times = (seconds(told[name]) for name in ("interval", "timeout", "start_period"))
        interval_s, timeout_s, start_period_s = times
        return Health(told["test"], interval_s, timeout_s, told["retries"], start_period_s)


def seconds(text: str) -> float:
    """A length of time as compose writes it."""
    parts = re.findall(r"(\d+)([smh])", text)
    assert text, "no length of time"
    assert "".join(number + unit for number, unit in parts) == text, f"{text!r} is no length of time"
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def unescaped(text: str) -> str:
    """Compose's `$$` is a dollar. A single one would be a variable of the operator's shell: there is none here."""
    assert "$" not in text.replace("$$", ""), f"{text!r} asks for a variable of the shell"
    return text.replace("$$", "$")


def document(file: Path = FILE) -> dict[str, Any]:
    """The whole file, anchors and merges resolved."""
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


def services(told: Mapping[str, Any]) -> dict[str, Service]:
    """The services of a document."""
    entrypoint, environment = image()
    found = {}
    for name, of in told["services"].items():
        ours = str(of["image"]).startswith(IMAGE)
        begin = of.get("entrypoint", entrypoint if ours else [])
        argv = [unescaped(str(word)) for word in [*begin, *of.get("command", [])]]
        settings = {key: unescaped(str(value)) for key, value in of.get("environment", {}).items()}
        mounts = {target: source for source, target in (str(each).split(":")[:2] for each in of.get("volumes", []))}
        found[name] = Service(name, of, argv, {**environment, **settings} if ours else settings, mounts)
    return found


def image() -> tuple[list[str], dict[str, str]]:
    """Entrypoint and environment that the Dockerfile gives our image."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]
    (entrypoint,) = re.findall(r"^ENTRYPOINT (\[.*\])$", last, re.MULTILINE)
    pairs = [pair.partition("=") for line in re.findall(r"^ENV (.*)$", last, re.MULTILINE) for pair in line.split()]
    return json.loads(entrypoint), {name: value for name, _, value in pairs if name != "PATH"}
