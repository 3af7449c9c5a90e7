"""Threads of a server share the C library's memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAPS = """
import ctypes, re, tempfile, threading
from meterhouse.api.allocator import share_arenas
{call}
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)
def take():
    together.wait()
    libc.malloc(100_000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as told:
    file = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(len(re.findall(rb"<heap nr", told.read())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's own")
def test_threads_share_two_pools_of_memory_where_each_had_its_own() -> None:
    def heaps(call: str) -> int:
        code = HEAPS.format(call=call)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout)

    assert heaps("pass") > 2
    assert heaps("share_arenas()") <= 2
