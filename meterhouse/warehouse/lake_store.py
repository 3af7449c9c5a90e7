"""Where the lake's Parquet files are: a folder, or a bucket of an S3-compatible store. One port, two twins.

Arrow writes files, DuckDB reads them, DuckLake removes those that nobody needs; a store lets them. A file's
path is what the catalogue calls it: an absolute path, or `s3://bucket/...`. A file is written once and never changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from meterhouse.warehouse.lake_schema import sql_text

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem, S3FileSystem

# A request that stalls is given up after the second try: a commit fails after 35 s, and the meter tries it again.
_CONNECT_TIMEOUT_S: Final = 3
_REQUEST_TIMEOUT_S: Final = 5  # without a byte in either direction
_ATTEMPTS: Final = 2
_DUCKDB_TIMEOUT_S: Final = 10  # of a whole request: a range of a file, or a part of 80 MB at most
_UPLOADS: Final = 8  # at a time, of one commit: seven tables, mostly a file each; each is held in memory until it is up

_ADVICE: Final = (
    ("NO_SUCH_BUCKET", "there is no such bucket: make it, or see METERHOUSE_DATA"),
    ("INVALID_ACCESS_KEY_ID", "it does not know the access key: see METERHOUSE_S3_ACCESS_KEY"),
    ("USER_NOT_FOUND", "it does not know the access key: see METERHOUSE_S3_ACCESS_KEY"),  # versitygw's word
    ("SIGNATURE_DOES_NOT_MATCH", "the secret key is wrong: see METERHOUSE_S3_SECRET_KEY"),
    ("ACCESS_DENIED", "it denies access: the keys need to list, read, write and delete below METERHOUSE_DATA"),
    ("NETWORK_CONNECTION", "it does not answer: see that it runs there, and METERHOUSE_S3_ENDPOINT"),
    ("ERROR FOR HTTP", "it does not answer: see that it runs there, and METERHOUSE_S3_ENDPOINT"),  # DuckDB's words
)
"""What a person can do, by the store's own word for the trouble."""


class StoreTrouble(OSError):
    """The store of files did not do what was asked; it may pass. The message holds no secret."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A Parquet file to be written. `options` are those of pyarrow's writer. The batches of a reader become row groups,
    one held in memory at a time."""

    path: str
    rows: pa.Table | pa.RecordBatchReader
    options: Mapping[str, Any]

    def write_to(self, sink: Any) -> None:
        """`sink`: a path, or an open stream."""
        if isinstance(self.rows, pa.Table):
            pq.write_table(self.rows, sink, **self.options)
            return
        with pq.ParquetWriter(sink, self.rows.schema, **self.options) as writer:
            for batch in self.rows:
                writer.write_batch(batch)


class LakeStore(Protocol):
    """A place of files. `write` and `remove` may be called from any thread; all but `teach` raise OSError."""

    @property
    def root(self) -> str:
        """What every path begins with, without a slash at its end. All Parquet below it is the lake's."""
        ...

    @property
    def extensions(self) -> tuple[str, ...]:
        """DuckDB's extensions that read it."""
        ...

    def teach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Lets a DuckDB that has the extensions read here."""
        ...

    def make_ready(self) -> None:
        """Makes what is missing, as far as a writer may. Raises OSError when nothing can be written here."""
        ...

    def write(self, files: Sequence[NewFile]) -> None:
        """Writes all; when it returns they outlive a power cut. When it raises, some may be there."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file, or what there is of it."""
        ...

    def total_bytes(self, paths: Sequence[str]) -> int:
        """The size of these files together; one that is not there has none."""
        ...


class FolderStore:
    """Files below a folder of this machine."""

    extensions: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def root(self) -> str:
        return str(self._folder)

    def teach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """DuckDB reads folders as it is."""

    def make_ready(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, files: Sequence[NewFile]) -> None:
        for file in files:
            path = Path(file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            file.write_to(path)
            sync_file(path)
            sync_file(path.parent)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def total_bytes(self, paths: Sequence[str]) -> int:
        from pyarrow.fs import LocalFileSystem

        return _total_bytes(LocalFileSystem(), paths)


@dataclass(frozen=True, slots=True)
class S3Place:
    """Files of an S3-compatible store, and the keys to it, which are in no repr."""

    url: str  # s3://bucket/prefix
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    endpoint: str | None = None  # http(s)://host:port; None: Amazon's
    region: str = "us-east-1"

    @property
    def root(self) -> str:
        return self.url.rstrip("/")

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def named(self) -> str:
        return f"{self.root} at {self.endpoint or 'Amazon S3'}"

    @property
    def tls(self) -> bool:
        return self.endpoint is None or urlsplit(self.endpoint).scheme == "https"

    @property
    def host(self) -> str | None:
        """Host and port of the endpoint."""
        return urlsplit(self.endpoint).netloc if self.endpoint else None

    def advice(self, text: str) -> str | None:
        """What to do about a message of Arrow or DuckDB, which write the store's words differently."""
        said = text.upper().replace("_", "")
        found = next((advice for code, advice in _ADVICE if code.replace("_", "") in said), None)
        return found and f"the lake's files at {self.named}: {found}"

    def without_secrets(self, text: str) -> str:
        return text.replace(self.secret_key, "***").replace(self.access_key, "***")


class S3Store:
    """Files of a bucket. Whatever fails here is StoreTrouble."""

    extensions: tuple[str, ...] = ("httpfs",)

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._files = s3_files(place)

    @property
    def root(self) -> str:
        return self._place.root

    def teach(self, connection: duckdb.DuckDBPyConnection) -> None:
        for setting, value in {
            "http_timeout": _DUCKDB_TIMEOUT_S,
            "http_retries": _ATTEMPTS,
            # Files never change, so what was once read of one needs no second look.
            "enable_http_metadata_cache": True,
            "validate_external_file_cache": "NO_VALIDATION",
        }.items():
            connection.execute(f"SET GLOBAL {setting} = '{value}'")
        options = {
            "KEY_ID": self._place.access_key,
            "SECRET": self._place.secret_key,
            "REGION": self._place.region,
            "SCOPE": f"s3://{self._place.bucket}",
            **({"ENDPOINT": self._place.host, "URL_STYLE": "path"} if self._place.host else {}),
        }
        stated = ", ".join(f"{name} {sql_text(value)}" for name, value in options.items())
        connection.execute(f"CREATE SECRET lake_files (TYPE s3, USE_SSL {str(self._place.tls).lower()}, {stated})")

    def make_ready(self) -> None:
        from pyarrow.fs import FileSelector, FileType

        try:
            # A list's refusal says why, a look at a bucket does not; a list of no bucket is as one of no files.
            self._files.get_file_info(FileSelector(_key(self.root), allow_not_found=True))
            if self._files.get_file_info(self._place.bucket).type == FileType.NotFound:
                raise OSError("NO_SUCH_BUCKET")
        except OSError as trouble:
            raise self._told(trouble) from None

    def write(self, files: Sequence[NewFile]) -> None:
        if not files:
            return
        # Waiting for the store is most of it. A file is up when its request is answered.
        with ThreadPoolExecutor(min(len(files), _UPLOADS), thread_name_prefix="upload") as pool:
            uploads = [pool.submit(self._upload, file) for file in files]
        for upload in uploads:
            upload.result()

    def _upload(self, file: NewFile) -> None:
        try:
            with self._files.open_output_stream(_key(file.path)) as stream:
                file.write_to(stream)
        except OSError as trouble:
            raise self._told(trouble) from None

    def remove(self, path: str) -> None:
        try:
            self._files.delete_file(_key(path))
        except FileNotFoundError:
            return
        except OSError as trouble:
            raise self._told(trouble) from None

    def total_bytes(self, paths: Sequence[str]) -> int:
        try:
            return _total_bytes(self._files, [_key(path) for path in paths])
        except OSError as trouble:
            raise self._told(trouble) from None

    def _told(self, trouble: OSError) -> StoreTrouble:
        text = self._place.without_secrets(str(trouble))
        return StoreTrouble(self._place.advice(text) or f"the lake's files at {self._place.named}: {text}")


def s3_files(place: S3Place) -> S3FileSystem:
    """Arrow's client of a store."""
    # It has threads, which no fork outlives, and takes a while to load: not before a lake on S3 is opened.
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(  # type: ignore[call-arg]  # stubs lack allow_delayed_open
        access_key=place.access_key,
        secret_key=place.secret_key,
        endpoint_override=place.host,
        scheme="https" if place.tls else "http",
        region=place.region,
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_REQUEST_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # a file of less than 10 MB is one request
        background_writes=False,
    )


def store_of(place: Path | S3Place) -> LakeStore:
    """The store of a place."""
    return S3Store(place) if isinstance(place, S3Place) else FolderStore(place)


def sync_file(path: Path) -> None:
    """Returns when what was written to a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _total_bytes(files: FileSystem, paths: Sequence[str]) -> int:
    return sum(found.size or 0 for found in files.get_file_info(list(paths)))


def _key(url: str) -> str:
    """What Arrow calls an object: bucket and key."""
    return url.removeprefix("s3://")
