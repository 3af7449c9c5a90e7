"""Settings: the only reader of the environment. `METERHOUSE_*` variables, or `--home` on the command line."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything an operator can set. Embedded unless a Kafka address is given."""

    model_config = SettingsConfigDict(env_prefix="METERHOUSE_", extra="ignore", frozen=True)

    home: Path = Field(Path("meterhouse-data"), description="folder of the embedded log, lake and control data")
    kafka_bootstrap: str | None = Field(None, description="address of a Kafka cluster; unset: the embedded log")
    partitions: int = Field(4, ge=1, le=64, description="partitions of usage.events when it is created")
    log_max_bytes: int = Field(64 * 2**30, gt=0, description="size limit of the embedded log, bytes")
    log_retention_days: int = Field(35, ge=1, description="how long the embedded log keeps committed usage events")
    dedupe_window_hours: int = Field(35 * 24, ge=1, description="how long a resent event is recognised, by arrival")
    max_ahead_s: int = Field(3_600, ge=0, description="an event whose time is further ahead of its arrival is rejected")
    max_behind_s: int = Field(35 * 86_400, ge=0, description="an event older than this at its arrival is rejected")
    commit_every_s: float = Field(1.0, gt=0, le=300)
    commit_events: int = Field(200_000, ge=1, le=2_000_000)
    poll_records: int = Field(20_000, ge=1, le=200_000)
    maintain_every_s: float = Field(60.0, gt=0, description="merging of small files, expiry of old snapshots")
    webhook_url: str | None = Field(None, description="where alerts are posted; unset: a line in the log")
    webhook_secret: SecretStr | None = Field(None, description="signs the webhook's body (HMAC-SHA256)")
    host: str = Field("127.0.0.1", description="address that serve binds; loopback only until there is authentication")
    port: int = Field(8080, ge=0, le=65_535)
    max_body_bytes: int = Field(4 * 2**20, gt=0, description="largest HTTP body: about 10,000 events")

    @property
    def log_path(self) -> Path:
        return self.home / "log.sqlite"

    @property
    def control_path(self) -> Path:
        return self.home / "control.sqlite"

    @property
    def catalogue_path(self) -> Path:
        return self.home / "lake" / "catalogue.sqlite"

    @property
    def data_path(self) -> Path:
        return self.home / "lake" / "data"


def problems_of(error: ValueError) -> str:
    """What is wrong with the settings, each by the name of its variable."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"METERHOUSE_{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
        for problem in error.errors()
    )
