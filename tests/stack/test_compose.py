"""What docker-compose.yml says is held to rules that only a reader of the whole file would see broken."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from meterhouse.api.settings import Settings
from tests.stack.compose import FILE, ROOT, SECRETS, Service, document, services
from tests.stack.place import port_of

TOLD = document()
SERVICES = services(TOLD)
ONE_SHOTS = {"s3-bucket", "topics"}
WHOLE = {"services", "networks", "volumes", "secrets", "name"}
SECRET_SETTINGS = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Service:
    return SERVICES[request.param]


def test_the_stack_has_every_process() -> None:
    commands = {name: each.argv for name, each in SERVICES.items() if each.is_ours and name not in ONE_SHOTS}
    assert commands == {
        "meter": ["meterhouse", "meter"],
        "budget-worker": ["meterhouse", "budget-worker"],
        "alert-sender": ["meterhouse", "alert-sender"],
        "api": ["meterhouse", "serve"],
        "quality": ["meterhouse", "quality", "--every", "1h"],
    }
    others = {"kafka", "postgres", "s3", "prometheus", "alertmanager", "grafana"}
    assert set(SERVICES) == set(commands) | ONE_SHOTS | others
    assert [SERVICES[name].replicas for name in ("meter", "budget-worker")] == [2, 2]


def test_the_file_has_what_compose_knows() -> None:
    assert {name for name in TOLD if not name.startswith("x-")} == WHOLE
    for kind in ("networks", "volumes", "secrets"):
        named = {name for each in TOLD["services"].values() for name in each.get(kind, []) if kind != "volumes"}
        if kind == "volumes":
            mounted = {source for each in SERVICES.values() for source in each.mounts.values()}
            named = {source for source in mounted if not source.startswith("./")}
        assert named == set(TOLD[kind])


def test_a_service_runs_as_no_root_on_a_file_system_that_it_cannot_write(service: Service) -> None:
    user = re.fullmatch(r"(\d+):\d+", service.told["user"])
    assert user is not None
    assert int(user[1]) > 0
    assert service.told["read_only"] is True
    assert service.told["cap_drop"] == ["ALL"]
    assert service.told["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "devices", "pid", "ipc", "extra_hosts"} & set(service.told)
    assert [
        each for each in service.told.get("volumes", []) if each.startswith("./") and not each.endswith(":ro")
    ] == []


def test_a_service_has_limits(service: Service) -> None:
    limits = service.told["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert re.fullmatch(r"\d+[mg]", limits["memory"])
    assert limits["pids"] > 0
    assert set(service.told["logging"]["options"]) == {"max-size", "max-file"}


def test_a_service_is_started_again_watched_and_given_time_to_leave(service: Service) -> None:
    if service.name in ONE_SHOTS:
        assert (service.told["restart"], service.health) == ("no", None)
        return
    assert service.restarts
    assert service.health is not None
    assert service.health.timeout_s <= service.health.interval_s
    assert service.grace_s >= 30


def test_what_ends_is_waited_for_by_what_stays() -> None:
    """Else compose's `up --wait` takes its end for a failure."""
    stays = [each for name, each in SERVICES.items() if name not in ONE_SHOTS]
    waited_for = {name: of for each in stays for name, of in each.depends_on.items() if name in ONE_SHOTS}
    assert waited_for == dict.fromkeys(ONE_SHOTS, "service_completed_successfully")


def test_an_image_is_pinned(service: Service) -> None:
    assert re.fullmatch(r"[a-z/-]+:v?\d+(\.\d+)+", service.told["image"])


def test_the_image_is_made_of_pinned_ones() -> None:
    begins = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    python = "python:3.11.13-slim-bookworm"
    assert begins == ["node:22.18.0-bookworm-slim", python, python]


def test_every_variable_is_a_setting_that_exists(service: Service) -> None:
    """A misspelt one would be left out in silence."""
    names = {name.removeprefix("METERHOUSE_").lower() for name in service.environment if name.startswith("METERHOUSE_")}
    files = {name.removesuffix("_file") for name in names if name.endswith("_file")}
    assert files <= SECRET_SETTINGS
    assert {name for name in names if not name.endswith("_file")} <= set(Settings.model_fields)


def test_no_secret_is_in_the_file(service: Service) -> None:
    told = {name.removeprefix("METERHOUSE_").lower() for name in service.environment}
    assert told & SECRET_SETTINGS == set()
    assert [
        name for name in service.environment if re.search("PASS|SECRET|KEY|TOKEN", name) and "FILE" not in name
    ] == []


def test_a_service_gets_the_secrets_that_it_reads_and_no_others(service: Service) -> None:
    text = yaml.safe_dump([service.environment, list(service.argv)], width=10_000)
    assert set(re.findall(rf"{SECRETS}/([\w.]+)", text)) == set(service.secrets)


def test_only_this_host_reaches_the_published_ports() -> None:
    published = {name: each.told["ports"] for name, each in SERVICES.items() if "ports" in each.told}
    assert published == {"api": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}
    assert [name for name, of in TOLD["networks"].items() if not (of or {}).get("internal")] == ["front"]
    on_front = {name for name, each in SERVICES.items() if "front" in each.told.get("networks", [])}
    assert on_front == {"api", "grafana", "alertmanager"}


def test_prometheus_asks_whom_the_file_has() -> None:
    told = yaml.safe_load((ROOT / "ops" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    asked = {
        name: names["port"]
        for job in told["scrape_configs"]
        for names in job["dns_sd_configs"]
        for name in names["names"]
    }
    assert asked == {name: port_of(name) for name, each in SERVICES.items() if each.is_ours and name not in ONE_SHOTS}
    watched = {name for name, each in SERVICES.items() if "watch" in each.told.get("networks", [])}
    assert watched == {*asked, "prometheus", "alertmanager", "grafana"}


def test_grafana_finds_prometheus_and_its_boards() -> None:
    grafana = ROOT / "ops" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    (boards,) = yaml.safe_load((grafana / "dashboards" / "meterhouse.yml").read_text(encoding="utf-8"))["providers"]
    assert source["url"] == f"http://prometheus:{port_of('prometheus')}"
    assert SERVICES["grafana"].mounts[boards["options"]["path"]] == "./ops/grafana/dashboards"
    assert SERVICES["grafana"].mounts["/etc/grafana/provisioning"] == "./ops/grafana/provisioning"


def test_what_is_mounted_is_there(service: Service) -> None:
    sources = [source for source in service.mounts.values() if source.startswith("./")]
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_operators_command_makes_every_secret_and_changes_none(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    def made() -> dict[str, str]:
        subprocess.run([ROOT / "tools" / "make-secrets", folder], check=True, capture_output=True)
        return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}

    first = made()
    assert {f"./ops/secrets/{name}" for name in first} == {each["file"] for each in TOLD["secrets"].values()}
    assert first == made()
    assert folder.stat().st_mode & 0o777 == 0o700
    random = [text for name, text in first.items() if re.search("password|key|session", name)]
    assert len({*random}) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in random)
    url = f"postgresql://meterhouse:{first['postgres_password']}@postgres:{port_of('postgres')}/meterhouse"
    assert first["database_url"].strip() == url
    page = (ROOT / "ops" / "secrets" / "README.md").read_text(encoding="utf-8")
    assert [name for name in first if f"`{name}`" not in page] == []


def test_no_secret_gets_into_git_or_the_image() -> None:
    assert "ops/secrets/*\n!ops/secrets/README.md\n" in (ROOT / ".gitignore").read_text(encoding="utf-8")
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert [line for line in lines if line.startswith("!ops")] == []


@pytest.mark.parametrize("file", [FILE, ROOT / "docker-compose.dev.yml"], ids=lambda file: file.name)
def test_docker_compose_takes_the_file(file: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker has no plugin compose here")
    done = subprocess.run(
        ["docker", "compose", "-f", file, "config", "-q"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_one_file_is_what_compose_reads_by_itself() -> None:
    known = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml", "docker-compose.override.yml")
    assert [name for name in known if (ROOT / name).exists()] == [FILE.name]
