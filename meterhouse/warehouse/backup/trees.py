"""Files below a folder, or below a prefix of an S3-compatible store, as a back-up copies and checks them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from meterhouse.warehouse.backup.manifest import BackupError, Part
from meterhouse.warehouse.lake_store import S3Place, s3_files, sync_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_T = TypeVar("_T")
_R = TypeVar("_R")

_CHUNK: Final = 4 * 2**20
"""Bytes held of each file that is copied."""
_AT_A_TIME: Final = 8
"""Files: a store answers each request late, and hashing takes a core."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All files below a place. Names are relative to it, with slashes. Methods raise BackupError when it does not do
    what was asked."""

    place: Path | S3Place
    files: FileSystem
    root: str

    @property
    def named(self) -> str:
        return self.place.named if isinstance(self.place, S3Place) else str(self.place)

    def names(self) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        with self._told():
            found = self.files.get_file_info(FileSelector(self.root, recursive=True, allow_not_found=True))
        return sorted(each.path[len(self.root) + 1 :] for each in found if each.type == FileType.File)

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """A file of at most `most_bytes`; None: there is none."""
        try:
            with self._told(), self.files.open_input_stream(f"{self.root}/{name}") as stream:
                content = bytes(stream.read(most_bytes + 1))
        except FileNotFoundError:
            return None
        if len(content) > most_bytes:
            raise BackupError(f"{name} at {self.named} has more than {most_bytes:,} bytes: it is damaged")
        return content

    def write(self, name: str, content: bytes) -> None:
        """There is the whole file, or none of that name."""
        unfinished = f"{name}.part" if isinstance(self.place, Path) else name  # a store shows an object once it is up
        with self._told():
            self._make_folder(name)
            with self.files.open_output_stream(f"{self.root}/{unfinished}") as stream:
                stream.write(content)
            if isinstance(self.place, Path):
                sync_file(self.place / unfinished)
                (self.place / unfinished).rename(self.place / name)
                sync_file((self.place / name).parent)

    def remove(self, name: str) -> None:
        try:
            with self._told():
                self.files.delete_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return

    def part(self, name: str) -> Part:
        """A file's size and hash. Raises FileNotFoundError."""
        with self._told(), self.files.open_input_stream(f"{self.root}/{name}") as stream:
            return _hashed(name, stream, lambda _: None)

    def copy(self, name: str, source: Tree, of: str) -> Part:
        """Copies the source's file `of` to `name`. Raises FileNotFoundError."""
        with source._told(), source.files.open_input_stream(f"{source.root}/{of}") as stream, self._told():
            self._make_folder(name)
            with self.files.open_output_stream(f"{self.root}/{name}") as sink:
                made = _hashed(name, stream, sink.write)
            if isinstance(self.place, Path):
                sync_file(self.place / name)
                sync_file((self.place / name).parent)
        return made

    def _make_folder(self, name: str) -> None:
        if isinstance(self.place, Path):
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as trouble:
            text = str(trouble)
            if isinstance(self.place, S3Place):
                text = self.place.advice(text) or self.place.without_secrets(text)
            raise BackupError(f"{self.named} cannot be used: {text}") from None


def tree_of(place: Path | S3Place) -> Tree:
    if isinstance(place, S3Place):
        return Tree(place, s3_files(place), place.root.removeprefix("s3://"))
    from pyarrow.fs import LocalFileSystem

    return Tree(place, LocalFileSystem(), str(place.absolute()))


def each_of(items: Sequence[_T], work: Callable[[_T], _R], told: Callable[[int], None]) -> list[_R]:
    """What `work` makes of each, some at a time; `told` hears how many are done. The first that fails ends it."""
    made = []
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="backup") as pool:
        try:
            for number, result in enumerate(pool.map(work, items), start=1):
                made.append(result)
                told(number)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return made


def _hashed(name: str, stream: object, sink: Callable[[bytes], object]) -> Part:
    digest, size = hashlib.sha256(), 0
    for chunk in iter(partial(stream.read, _CHUNK), b""):  # type: ignore[attr-defined]
        sink(chunk)
        digest.update(chunk)
        size += len(chunk)
    return Part(name, size, digest.hexdigest())
