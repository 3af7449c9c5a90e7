"""Settings: the only reader of the environment. `METERHOUSE_*` variables, or `--home` on the command line; a secret may
stand in a file instead, which `METERHOUSE_<NAME>_FILE` names."""

from __future__ import annotations

import re
import shlex
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from meterhouse.api.addresses import is_postgresql, is_safe_address, without_secrets
from meterhouse.api.auth.caller import Family
from meterhouse.api.secret_files import Environment
from meterhouse.streams.reconciliation import Limits, Terms
from meterhouse.warehouse.retention_terms import Retention

_S3_PREFIX: Final = "METERHOUSE_S3_"
_CLIENT_OPTIONS: Final = ("security.", "sasl.", "ssl.", "enable.ssl.", "https.ca.", "socket.", "broker.", "client.")
"""What the options of Kafka's client that an operator may set begin with: how to reach the cluster, and as whom."""
_SIGNATURES: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Of key pairs only: a shared secret would let whoever can check a token make one."""
_RATE: Final = re.compile("[1-9][0-9]{0,6}")
RATES: Final = "ingest=60000 admissions=600000 reports=600 exports=60"
"""Ten times what a busy gateway sends in bodies of one event; admissions come with each of its requests, and nothing
that a person or a nightly program does comes near the others."""
_RETAINED: Final = ("charges", "node_events", "rejects", "quality")
_S3_PLACE: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)+/?")


class Settings(BaseSettings):
    """Everything an operator can set. Embedded unless a Kafka address is given."""

    # A refused value may be a password: errors say what is wrong, never what was given.
    model_config = SettingsConfigDict(
        env_prefix="METERHOUSE_", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)

    home: Path = Field(Path("meterhouse-data"), description="folder of the embedded log, lake and control data")
    kafka_bootstrap: str | None = Field(None, description="address of a Kafka cluster; unset: the embedded log")
    kafka_group: str = Field("meterhouse-meter", min_length=1, max_length=200, description="consumer group of meters")
    kafka_session_timeout_s: float = Field(
        6.0, ge=1, le=1_800, description="a meter that is silent for so long loses its partitions to others"
    )
    kafka_instance: str | None = Field(
        None, min_length=1, max_length=200, description="this process's name in its group, the same after a restart"
    )
    kafka_options: SecretStr | None = Field(
        None, description="more options of Kafka's client, as key=value pairs, or @FILE of them: TLS, SASL"
    )
    replication: int = Field(1, ge=1, le=7, description="copies of each topic in Kafka when it is created; 3 for good")
    catalogue: SecretStr | None = Field(
        None, description="postgresql:// of the lake's catalogue; unset: SQLite in home"
    )
    control: SecretStr | None = Field(None, description="postgresql:// of control data; unset: SQLite in home")
    data: str | None = Field(None, description="s3://bucket/prefix of the lake's files; unset: a folder in home")
    s3_endpoint: str | None = Field(None, description="http(s):// of an S3-compatible store; unset: Amazon's")
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str = Field("us-east-1", min_length=1)
    metrics_port: int | None = Field(None, ge=0, le=65_535, description="serves /metrics of this process; 0: any port")
    metrics_host: str = Field("127.0.0.1", description="address that /metrics binds")
    traces_url: str | None = Field(
        None, description="http(s):// that OpenTelemetry's traces are posted to; unset: none"
    )
    traces_share: float = Field(0.1, ge=0, le=1, description="of the traces that begin here, how many are sent")
    partitions: int = Field(4, ge=1, le=64, description="partitions of usage.events when it is created")
    log_max_bytes: int = Field(64 * 2**30, gt=0, description="size limit of the embedded log, bytes")
    log_retention_days: int = Field(35, ge=1, description="how long the log keeps usage events")
    dedupe_window_hours: int = Field(35 * 24, ge=1, description="how long a resent event is recognised, by arrival")
    dedupe_path: Path | None = Field(None, description="folder of the dedupe window's local files; unset: in home")
    dedupe_memory_mib: int = Field(2560, ge=64, description="memory of the dedupe window: newest ids and filters")
    max_ahead_s: int = Field(3_600, ge=0, description="an event whose time is further ahead of its arrival is rejected")
    max_behind_s: int = Field(35 * 86_400, ge=0, description="an event older than this at its arrival is rejected")
    commit_every_s: float = Field(1.0, gt=0, le=300)
    commit_events: int = Field(200_000, ge=1, le=2_000_000)
    poll_records: int = Field(20_000, ge=1, le=200_000)
    retention: str = Field(
        "",
        description="days that rows of charges, node_events, rejects and results of quality are kept; unset: for ever",
    )
    maintain_every_s: float = Field(60.0, gt=0, description="merging of small files, expiry of old snapshots")
    webhook_url: str | None = Field(None, description="where alerts are posted; no channel set: a line in the log")
    webhook_secret: SecretStr | None = Field(None, description="signs the webhook's body (HMAC-SHA256)")
    lookout_every_s: float = Field(
        30.0, ge=1, le=3_600, description="how often to look for forecasts that exceed, missing prices, meters behind"
    )
    meter_stuck_s: float = Field(60.0, ge=1, description="a partition that does not move on for so long is news")
    meter_behind_s: float = Field(300.0, ge=1, description="so is one whose oldest unmetered record is so old")
    reconcile_grace_s: int = Field(
        3_600, ge=0, le=86_400, description="how far apart, and how late, events of one request may be"
    )
    reconcile_share: Decimal | None = Field(
        Decimal("0.01"), ge=0, le=1, description="more of a tenant's requests than this do not reconcile: exceeded"
    )
    reconcile_requests: int | None = Field(None, ge=0, description="so are more of them than this")
    reconcile_device_s: int | None = Field(None, ge=0, description="so is more device time without a request")
    alertmanager_url: str | None = Field(None, description="http(s):// of an Alertmanager that alerts are posted to")
    apprise_urls: SecretStr | None = Field(
        None, description="addresses of services that Apprise reaches, blanks between them; alerts go to each"
    )
    host: str = Field("127.0.0.1", description="address that serve binds; beyond loopback only with authentication")
    port: int = Field(8080, ge=0, le=65_535)
    billing_account: str = Field("meterhouse", min_length=1, max_length=200, description="BillingAccountId of exports")
    billing_account_name: str = Field(
        "Meterhouse", min_length=1, max_length=200, description="who bills the tenants: BillingAccountName of exports"
    )
    tls_cert: FilePath | None = Field(None, description="PEM file of serve's certificate and those above it")
    tls_key: FilePath | None = Field(None, description="PEM file of its private key")
    auth: Literal["auto", "on", "off"] = Field(
        "auto", description="whether callers say who they are; auto: once there is a key or an issuer"
    )
    oidc_issuer: str | None = Field(None, description="https:// of an OpenID Connect issuer whose tokens are taken")
    oidc_audience: str | None = Field(None, min_length=1, description="what those tokens must be for")
    oidc_jwks_url: str | None = Field(None, description="https:// of its keys; unset: its discovery document says it")
    oidc_algorithms: str = Field("RS256 ES256", description="signatures that are taken, blanks between them")
    oidc_client_id: str | None = Field(
        None, min_length=1, max_length=200, description="this server at the issuer: people sign in to the pages there"
    )
    oidc_client_secret: SecretStr | None = Field(
        None, description="its secret at the issuer; unset: a public client, which PKCE alone protects"
    )
    oidc_scopes: str = Field("openid profile email", description="what is asked of the issuer, blanks between them")
    public_url: str | None = Field(
        None, description="https:// of the pages as browsers reach them; the issuer sends people back to it"
    )
    oidc_clock_skew_s: int = Field(60, ge=0, le=300, description="how far the issuer's clock may be from ours")
    oidc_role_claim: str = Field("meterhouse_role", min_length=1, description="the claim that names the role")
    oidc_grants_claim: str = Field("meterhouse_grants", min_length=1, description="and its tenants, a list")
    session_secret: SecretStr | None = Field(
        None, min_length=32, description="signs who signed in to the pages; unset: until this process ends"
    )
    rate_per_minute: str = Field(RATES, description="most requests a minute and caller, by family, blanks between them")
    gates: int = Field(1, ge=1, le=10_000, description="how many gates admit against the same budgets, serve's too")
    max_body_bytes: int = Field(4 * 2**20, gt=0, description="largest HTTP body: about 10,000 events")

    @field_validator("catalogue", "control")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not is_postgresql(url.get_secret_value()):
            raise ValueError("write postgresql://user:password@host:port/database, or unset it for SQLite in the home")
        return url

    @field_validator("kafka_options")
    @classmethod
    def _are_options(cls, text: SecretStr | None) -> SecretStr | None:
        if text is not None:
            parse_options(text.get_secret_value())
        return text

    @field_validator("data")
    @classmethod
    def _is_s3(cls, place: str | None) -> str | None:
        if place is not None and not _S3_PLACE.fullmatch(place):
            raise ValueError(
                "write s3://bucket/prefix, of letters, digits and - _ . / (the prefix is the lake's alone: whatever"
                " other Parquet file is there goes), or unset it for a folder in the home"
            )
        return place

    @field_validator("s3_endpoint")
    @classmethod
    def _is_http(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if (
                parts.scheme not in {"http", "https"}
                or not parts.netloc
                or "@" in parts.netloc
                or parts.path.strip("/")
            ):
                raise ValueError("write http://host:port or https://host, without user, password or path")
        return endpoint

    @field_validator("alertmanager_url", "traces_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc or parts.query:
                raise ValueError("write http://host:port, or https://host with its path, without user or password")
        return url

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _is_issuer(cls, url: str | None) -> str | None:
        if url is not None and not is_safe_address(url):
            raise ValueError("write https://host/path as the issuer does (http:// on this machine only)")
        return url

    @field_validator("public_url")
    @classmethod
    def _is_public(cls, url: str | None) -> str | None:
        if url is not None and (not is_safe_address(url) or urlsplit(url).path.strip("/") or urlsplit(url).query):
            raise ValueError("write https://host as browsers reach it, without a path (http:// on this machine only)")
        return None if url is None else url.rstrip("/")

    @field_validator("oidc_scopes")
    @classmethod
    def _are_scopes(cls, text: str) -> str:
        if "openid" not in text.split():
            raise ValueError("write openid among them: without it the issuer says nothing of who signs in")
        return text

    @field_validator("oidc_algorithms")
    @classmethod
    def _are_signatures(cls, text: str) -> str:
        if not text.split() or set(text.split()) - _SIGNATURES:
            raise ValueError(
                f"write some of {' '.join(sorted(_SIGNATURES))}: with HS* whoever can check a token can make one, and"
                " `none` is no signature"
            )
        return text

    @field_validator("rate_per_minute")
    @classmethod
    def _are_rates(cls, text: str) -> str:
        parse_rates(text)
        return text

    @model_validator(mode="after")
    def _keep_the_window(self) -> Self:
        kept = parse_retention(self.retention)
        for name in ("charges", "node_events"):
            if name in kept and kept[name] * 24 < self.dedupe_window_hours:
                raise ValueError(
                    f"METERHOUSE_RETENTION keeps {name} for {kept[name]} days, and a resent event is recognised by them"
                    f" for {self.dedupe_window_hours} hours (METERHOUSE_DEDUPE_WINDOW_HOURS): keep them for longer"
                )
        return self

    @model_validator(mode="after")
    def _know_the_issuer(self) -> Self:
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("set METERHOUSE_OIDC_ISSUER and METERHOUSE_OIDC_AUDIENCE both, or neither")
        if self.oidc_jwks_url is not None and self.oidc_issuer is None:
            raise ValueError("METERHOUSE_OIDC_JWKS_URL is set without METERHOUSE_OIDC_ISSUER: set it too")
        if self.oidc_client_id is not None and (self.oidc_issuer is None or self.public_url is None):
            raise ValueError(
                "METERHOUSE_OIDC_CLIENT_ID is set: set METERHOUSE_OIDC_ISSUER and METERHOUSE_PUBLIC_URL too"
            )
        if self.oidc_client_secret is not None and self.oidc_client_id is None:
            raise ValueError("METERHOUSE_OIDC_CLIENT_SECRET is set without METERHOUSE_OIDC_CLIENT_ID: set it too")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("set METERHOUSE_TLS_CERT and METERHOUSE_TLS_KEY both, or neither")
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        keys = {"ACCESS_KEY": self.s3_access_key, "SECRET_KEY": self.s3_secret_key}
        given = [name for name, key in keys.items() if key is not None]
        if self.data is not None and len(given) < len(keys):
            missing = " and ".join(_S3_PREFIX + name for name in keys if name not in given)
            raise ValueError(f"METERHOUSE_DATA is on S3: set {missing} too")
        if self.data is None and (given or self.s3_endpoint is not None):
            raise ValueError(
                "METERHOUSE_S3_* is set without METERHOUSE_DATA: set it to s3://bucket/prefix, or unset them"
            )
        return self

    @property
    def one_meter_only(self) -> bool:
        """A SQLite catalogue has one writer: of a group of meters only the first would open the lake."""
        return self.catalogue is None

    @property
    def kept_for(self) -> Retention:
        """What `retention` says."""
        return Retention(**parse_retention(self.retention))

    def client_options(self) -> dict[str, str]:
        """What `kafka_options` says, for every client of Kafka. Holds secrets."""
        return parse_options(self.kafka_options.get_secret_value()) if self.kafka_options else {}

    def rates(self) -> dict[str, int]:
        """What `rate_per_minute` says, with the default where it says nothing."""
        return parse_rates(RATES) | parse_rates(self.rate_per_minute)

    @property
    def reconciliation(self) -> Terms:
        """What `reconcile_*` say."""
        limits = Limits(self.reconcile_share, self.reconcile_requests, self.reconcile_device_s)
        return Terms(limits, self.reconcile_grace_s * 1_000_000)

    def connections(self) -> str:
        """What this process is connected to, in two lines without secrets: log and control data, then the lake."""
        log = f"Kafka {self.kafka_bootstrap}" if self.kafka_bootstrap else f"embedded {self.log_path}"
        control = without_secrets(self.control) or f"SQLite {self.control_path}"
        catalogue = without_secrets(self.catalogue) or f"SQLite {self.catalogue_path}"
        files = f"{self.data} at {self.s3_endpoint or 'Amazon S3'}" if self.data else str(self.data_path)
        return f"log: {log}; control data: {control}\nlake: catalogue {catalogue}; files {files}"

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
    def dedupe_folder(self) -> Path:
        return self.dedupe_path or self.home / "dedupe"

    @property
    def data_path(self) -> Path:
        return self.home / "lake" / "data"


def parse_options(text: str) -> dict[str, str]:
    """`key=value` pairs between blanks, quoted as in a shell, or `@FILE`: a line each, `#` begins a comment. Raises
    ValueError, which names keys and never values."""
    try:
        pairs = _lines(Path(text[1:])) if text.startswith("@") else shlex.split(text)
    except OSError as trouble:
        raise ValueError(f"{text[1:]} cannot be read ({trouble.strerror})") from None
    except ValueError:
        raise ValueError("a quote is not closed: write key=value pairs, or @FILE") from None
    options = {}
    for number, pair in enumerate(pairs, start=1):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise ValueError(f"pair {number} has no key or no `=`: write key=value pairs, or @FILE")
        if not key.startswith(_CLIENT_OPTIONS):
            raise ValueError(
                f"{key} is not an option to set here: those that begin with {', '.join(_CLIENT_OPTIONS)} are; what"
                " keeps events from being lost or read twice is set by Meterhouse"
            )
        options[key] = value
    return options


def parse_rates(text: str) -> dict[str, int]:
    """`family=number` pairs between blanks. Raises ValueError."""
    rates = {}
    for pair in text.split():
        family, _, number = pair.partition("=")
        if family not in tuple(Family) or not _RATE.fullmatch(number):
            raise ValueError(f"write {RATES}: families among {', '.join(Family)}, numbers of 1 to 9,999,999")
        rates[family] = int(number)
    return rates


def parse_retention(text: str) -> dict[str, int]:
    """`table=days` pairs between blanks. Raises ValueError."""
    kept = {}
    for pair in text.split():
        name, _, days = pair.partition("=")
        if name not in _RETAINED or not _RATE.fullmatch(days):
            raise ValueError(f"write charges=400 rejects=90: names among {', '.join(_RETAINED)}, and days")
        kept[name] = int(days)
    return kept


def _lines(file: Path) -> list[str]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def problems_of(error: ValueError) -> str:
    """What is wrong with the settings, each by the name of its variable."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        ": ".join([*(f"METERHOUSE_{str(part).upper()}" for part in problem["loc"][:1]), problem["msg"]])
        for problem in error.errors(include_input=False, include_url=False)
    )
