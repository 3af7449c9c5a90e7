"""A real S3-compatible store for tests, on a free port of 127.0.0.1: moto's server, which checks keys as S3 does.

The fixture `s3` is one server for a test run, with a new prefix per call of `new_place`; tests that stop the server
start their own by `own_s3`. With METERHOUSE_TEST_S3_ENDPOINT, METERHOUSE_TEST_S3_ACCESS_KEY and _SECRET_KEY the
fixture `s3` is that store.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import pytest

from meterhouse.warehouse.lake_store import S3Place

BUCKET: Final = "meterhouse"
_PATIENCE_S: Final = 60.0
_GIVEN: Final = {
    name: os.environ.get(f"METERHOUSE_TEST_S3_{name.upper()}") for name in ("endpoint", "access_key", "secret_key")
}
"""Read before tests clear the environment."""
_POLICY: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


class S3:
    """An S3-compatible store that has a bucket for us. Keys stay as they are however often its server starts."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self.endpoint, self.access_key, self.secret_key = endpoint, access_key, secret_key

    def new_place(self) -> S3Place:
        """A place of files that nobody has used."""
        return S3Place(f"s3://{BUCKET}/lake-{uuid4().hex}", self.access_key, self.secret_key, self.endpoint)

    def settings(self, place: S3Place) -> dict[str, str]:
        """The place as settings of Meterhouse."""
        return {
            "METERHOUSE_DATA": place.url,
            "METERHOUSE_S3_ENDPOINT": self.endpoint,
            "METERHOUSE_S3_ACCESS_KEY": self.access_key,
            "METERHOUSE_S3_SECRET_KEY": self.secret_key,
        }

    def files(self, place: S3Place) -> set[str]:
        """All Parquet files below a place, as the catalogue names them."""
        pages = (
            self.client()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=BUCKET, Prefix=place.root.removeprefix(f"s3://{BUCKET}/") + "/")
        )
        keys = (found["Key"] for page in pages for found in page.get("Contents", ()))
        return {f"s3://{BUCKET}/{key}" for key in keys if key.endswith(".parquet")}

    def client(self, service: str = "s3") -> Any:
        # Here, since it takes longer to load than most tests take.
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


class MotoServer(S3):
    """A server of our own, which holds everything in memory: `pause` keeps it, `stop` loses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"http://127.0.0.1:{self.port}", "nobody", "nobody")

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"moto's server does not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        self._make_keys()
        self.client().create_bucket(Bucket=BUCKET)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(_PATIENCE_S)

    def pause(self) -> None:
        """From now on it takes connections and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/moto-api/data.json", timeout=2).close()
        except OSError:
            return False
        return True

    def _make_keys(self) -> None:
        """A user, and from then on nobody else."""
        iam = self.client("iam")
        iam.create_user(UserName="meterhouse")
        iam.put_user_policy(UserName="meterhouse", PolicyName="all", PolicyDocument=_POLICY)
        key = iam.create_access_key(UserName="meterhouse")["AccessKey"]
        self.access_key, self.secret_key = key["AccessKeyId"], key["SecretAccessKey"]
        checked = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(checked, timeout=_PATIENCE_S).close()


@contextmanager
def own_s3() -> Iterator[MotoServer]:
    """A server that a test may stop."""
    with tempfile.TemporaryDirectory(prefix="meterhouse-s3-") as folder, MotoServer(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A store that nobody stops."""
    if _GIVEN["endpoint"]:
        given = S3(_GIVEN["endpoint"], _GIVEN["access_key"] or "", _GIVEN["secret_key"] or "")
        client = given.client()
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        yield given
        return
    with own_s3() as server:
        yield server
