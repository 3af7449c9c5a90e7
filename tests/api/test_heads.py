"""Clients that send their heads slowly or without end are cut off; the others are not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from ssl import create_default_context

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meterhouse.api import heads
from meterhouse.api.app import create_app
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from tests.api.serving import served

ASK = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    settings = Settings(home=tmp_path / "home")  # type: ignore[call-arg]
    with House(settings, writer=True) as house, served(create_app(house)) as client:
        yield client


def connected(http: httpx.Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=30)


def test_a_head_that_does_not_come_ends_the_connection(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_S", 0.1)
    for sent in (b"", ASK):
        with closing(connected(http)) as connection:
            connection.sendall(sent)
            assert connection.recv(1_000) == b""


def test_a_second_head_on_a_connection_has_its_time_too(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(connected(http)) as connection:
        connection.sendall(ASK + b"\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(heads, "HEAD_S", 0.1)
        connection.sendall(ASK)
        while connection.recv(10_000):
            pass


def test_a_head_without_end_ends_the_connection(http: httpx.Client) -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(ASK)
        while True:
            connection.sendall(b"x-more: " + b"x" * 8_000 + b"\r\n")

    with closing(connected(http)) as connection, pytest.raises(ConnectionError):
        flood(connection)


def test_a_head_of_the_usual_length_is_answered_however_it_is_cut(http: httpx.Client) -> None:
    with closing(connected(http)) as connection:
        for byte in ASK + b"x-more: " + b"x" * 100 + b"\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200")


def test_a_server_with_a_certificate_speaks_tls_and_says_so_for_a_year(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    settings = Settings(home=tmp_path / "home", tls_cert=cert, tls_key=key)  # type: ignore[call-arg]
    with (
        House(settings, writer=True) as house,
        served(create_app(house), settings=settings) as plain,
        httpx.Client(verify=create_default_context(cafile=str(cert))) as client,
    ):
        answer = client.get(f"https://127.0.0.1:{plain.base_url.port}/v1/me")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine that it signed itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file
