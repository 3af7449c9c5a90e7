"""What an operator may set, what is refused with which words, and that no secret is ever shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from meterhouse.api.settings import Settings, problems_of
from meterhouse.warehouse.retention_terms import Retention

SECRET = "c4n4ry"
URL = f"postgresql://meter:{SECRET}@db.example:5432/books"
S3: dict[str, Any] = {"data": "s3://lake/books", "s3_access_key": "key-" + SECRET, "s3_secret_key": SECRET}


def refused(**given: Any) -> str:
    with pytest.raises(ValueError) as wrong:
        Settings(**given)
    assert SECRET not in str(wrong.value) + repr(wrong.value)
    return problems_of(wrong.value)


def test_the_four_lines_of_production_are_taken_and_show_no_secret() -> None:
    settings = Settings(kafka_bootstrap="broker:9092", catalogue=URL, control=URL, **S3)
    assert SECRET not in repr(settings) + str(settings) + settings.connections()
    assert settings.connections() == (
        "log: Kafka broker:9092; control data: PostgreSQL db.example:5432/books\n"
        "lake: catalogue PostgreSQL db.example:5432/books; files s3://lake/books at Amazon S3"
    )
    assert not settings.one_meter_only


def test_nothing_set_is_a_laptop(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.kafka_bootstrap is None
    assert settings.one_meter_only
    assert settings.connections().count(str(tmp_path)) == 4


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@/d",
        f"{SECRET}",
    ],
)
@pytest.mark.parametrize("name", ["catalogue", "control"])
def test_a_database_that_is_not_postgresql_is_refused_by_the_name_of_its_variable(name: str, url: str) -> None:
    said = refused(**{name: url})
    assert f"METERHOUSE_{name.upper()}: " in said
    assert "postgresql://user:password@host:port/database" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "place", ["/data", "s3://", "s3://bucket", "s3://bucket/a*b", "https://host/bucket", f"s3://k:{SECRET}@bucket"]
)
def test_files_are_on_s3_or_in_the_home(place: str) -> None:
    assert "METERHOUSE_DATA: " in refused(**(S3 | {"data": place}))


def test_s3_without_a_key_names_the_variable_that_is_missing() -> None:
    said = refused(data="s3://lake/books", s3_access_key=SECRET)
    assert "METERHOUSE_S3_SECRET_KEY" in said
    assert "METERHOUSE_S3_ACCESS_KEY" not in said


def test_an_s3_key_without_a_place_for_files_is_refused() -> None:
    assert "METERHOUSE_DATA" in refused(s3_secret_key=SECRET)


def test_an_endpoint_with_a_password_in_it_is_refused() -> None:
    assert "METERHOUSE_S3_ENDPOINT: " in refused(**S3, s3_endpoint=f"http://k:{SECRET}@store:9000")


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERHOUSE_CATALOGUE", "")
    assert Settings().catalogue is None


# --- options of Kafka's client ---------------------------------------------------------------------------------------


def test_client_options_are_pairs_quoted_as_in_a_shell_and_are_never_shown() -> None:
    settings = Settings(kafka_options=f"security.protocol=SASL_SSL sasl.username=meter 'sasl.password=a b={SECRET}'")
    assert settings.client_options() == {
        "security.protocol": "SASL_SSL",
        "sasl.username": "meter",
        "sasl.password": f"a b={SECRET}",
    }
    assert SECRET not in repr(settings) + str(settings) + settings.connections()


def test_client_options_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text(f"# who we are\nsasl.username = meter\n\nsasl.password={SECRET} 'as it is'\n", encoding="utf-8")
    assert Settings(kafka_options=f"@{file}").client_options() == {
        "sasl.username": "meter",
        "sasl.password": f"{SECRET} 'as it is'",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"acks=0 sasl.password={SECRET}", "acks is not an option to set here"),
        (f"sasl.password {SECRET}", "pair 1 has no key or no `=`"),
        (f"'sasl.password={SECRET}", "a quote is not closed"),
        ("@/no/such/file", "cannot be read"),
    ],
)
def test_client_options_that_are_refused_are_named_by_key(given: str, said: str) -> None:
    refusal = refused(kafka_options=given)
    assert "METERHOUSE_KAFKA_OPTIONS: " in refusal
    assert said in refusal


@pytest.mark.parametrize(
    "url", ["alertmanager.example:9093", "ftp://h", "http://", f"http://u:{SECRET}@h", f"http://h/?key={SECRET}"]
)
def test_an_alertmanager_that_is_no_web_address_is_refused(url: str) -> None:
    assert refused(alertmanager_url=url).startswith("METERHOUSE_ALERTMANAGER_URL: ")
    assert Settings(alertmanager_url="https://h.example/alerts").alertmanager_url == "https://h.example/alerts"


def test_addresses_of_apprise_are_never_shown() -> None:
    settings = Settings(apprise_urls=f"slack://{SECRET} mailto://u:{SECRET}@h")
    assert SECRET not in repr(settings) + str(settings) + settings.connections()


# --- who may ask -----------------------------------------------------------------------------------------------------


ISSUER: dict[str, Any] = {"oidc_issuer": "https://id.example", "oidc_audience": "meterhouse"}
CLIENT: dict[str, Any] = {**ISSUER, "oidc_client_id": "pages", "public_url": "https://meterhouse.example"}


def test_an_issuer_may_speak_http_on_this_machine_only() -> None:
    assert Settings(**ISSUER | {"oidc_issuer": "http://127.0.0.1:9000/realm"}).oidc_issuer
    for url in ("http://id.example", "id.example", "https://", f"https://u:{SECRET}@id.example", "ftp://id.example"):
        assert "METERHOUSE_OIDC_ISSUER: " in refused(**ISSUER | {"oidc_issuer": url})
        assert "METERHOUSE_OIDC_JWKS_URL: " in refused(**ISSUER, oidc_jwks_url=url)


@pytest.mark.parametrize("algorithms", ["HS256", "none", "RS256 HS512", "", "rs256"])
def test_only_signatures_of_key_pairs_are_taken(algorithms: str) -> None:
    assert "whoever can check a token can make one" in refused(**ISSUER, oidc_algorithms=algorithms)


def test_people_sign_in_at_the_issuer_of_tokens_and_come_back_to_a_known_address() -> None:
    for name in ("oidc_issuer", "public_url"):
        lacking = {key: value for key, value in CLIENT.items() if key not in (name, "oidc_audience")}
        lacking |= {} if name == "oidc_issuer" else ISSUER
        assert f"METERHOUSE_{name.upper()}" in refused(**lacking)
    assert "METERHOUSE_OIDC_CLIENT_ID" in refused(**ISSUER, oidc_client_secret=SECRET)
    assert Settings(**CLIENT | {"public_url": "http://localhost:8080/"}).public_url == "http://localhost:8080"
    for url in (
        "http://meterhouse.example",
        "https://meterhouse.example/pages",
        f"https://a:{SECRET}@b",
        "https://a?b",
    ):
        assert "METERHOUSE_PUBLIC_URL: Value error, write https://host" in refused(**CLIENT | {"public_url": url})
    assert "write openid among them" in refused(**CLIENT, oidc_scopes="profile email")


@pytest.mark.parametrize("name", ["oidc_issuer", "oidc_audience", "tls_cert", "tls_key", "oidc_jwks_url"])
def test_what_goes_together_is_set_together(name: str) -> None:
    refused(**{name: "https://id.example/x"})


def test_rates_that_are_not_said_are_the_usual_ones() -> None:
    assert Settings(rate_per_minute="reports=5").rates() == {
        "ingest": 60_000, "admissions": 600_000, "reports": 5, "exports": 60,
    }  # fmt: skip
    for text in ("reports", "reports=0", "reports=x", "colours=5", "reports=-1", "reports=10000000", "reports=²"):
        assert "families among ingest, admissions, reports, exports" in refused(rate_per_minute=text)


def test_rows_are_kept_for_no_less_than_the_dedupe_window() -> None:
    assert Settings(retention="charges=35 rejects=1").kept_for == Retention(charges=35, rejects=1)
    assert Settings().kept_for == Retention()
    said = refused(retention="node_events=34")
    assert "METERHOUSE_RETENTION keeps node_events for 34 days" in said
    assert "METERHOUSE_DEDUPE_WINDOW_HOURS" in said
    for wrong in ("charges=0", "charges", "rollup_day=90", "charges=-1", "charges=1.5"):
        assert "write charges=400 rejects=90" in refused(retention=wrong)


# --- secrets by file -------------------------------------------------------------------------------------------------


SECRETS = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | bytes], Path]:
    """A function that has a setting's file say something."""

    def tell(name: str, text: str | bytes) -> Path:
        file = tmp_path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        monkeypatch.setenv(f"METERHOUSE_{name.upper()}_FILE", str(file))
        return file

    return tell


@pytest.mark.parametrize("name", SECRETS)
def test_each_secret_may_stand_in_a_file(name: str, told: Callable[[str, str | bytes], Path]) -> None:
    texts = {"catalogue": URL, "control": URL, "kafka_options": f"sasl.password={SECRET}", "session_secret": SECRET * 6}
    text = texts.get(name, SECRET)
    told(name, f"{text}\n")
    beside = {key: value for key, value in S3.items() if key != name} if name.startswith("s3") else {}
    beside |= CLIENT if name.startswith("oidc") else {}
    assert getattr(Settings(**beside), name).get_secret_value() == text


def test_a_file_of_what_is_no_secret_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERHOUSE_PORT_FILE", "/no/such/file")
    assert Settings().port == 8080


def test_a_secret_is_not_told_twice(told: Callable[[str, str | bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told("webhook_secret", SECRET)
    monkeypatch.setenv("METERHOUSE_WEBHOOK_SECRET", SECRET)
    assert refused() == "set METERHOUSE_WEBHOOK_SECRET or METERHOUSE_WEBHOOK_SECRET_FILE, not both"
    monkeypatch.setenv("METERHOUSE_WEBHOOK_SECRET", "")  # is an unset one
    assert Settings().webhook_secret == SecretStr(SECRET)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("\n", "is empty"), (SECRET * 20_000, "more than 65,536 bytes"), (b"\xff", "no text in UTF-8")],
)
def test_a_file_that_holds_no_secret_is_refused_by_its_name(
    text: str | bytes, said: str, told: Callable[[str, str | bytes], Path]
) -> None:
    file = told("s3_secret_key", text)
    assert refused().startswith(f"METERHOUSE_S3_SECRET_KEY_FILE: {file}")
    assert said in refused()


def test_a_file_that_is_not_there_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERHOUSE_CONTROL_FILE", "/no/such/file")
    assert refused() == "METERHOUSE_CONTROL_FILE: /no/such/file cannot be read (No such file or directory)"


def test_what_a_file_says_is_checked_as_a_variable_is(told: Callable[[str, str | bytes], Path]) -> None:
    told("catalogue", f"mysql://u:{SECRET}@h/d")
    assert refused().startswith("METERHOUSE_CATALOGUE: ")
