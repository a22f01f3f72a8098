"""What the host does with memory that was freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
import resource
import sys

from aflow_jax.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def use() -> None:
    memory = ctypes.c_void_p(library.malloc(1 << 26))
    library.memset(memory, 1, 1 << 26)
    library.free(memory)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has nothing to set")
def test_freed_memory_is_taken_again_and_costs_no_fresh_pages():
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True).stdout)

    assert faults("kept") < 100 < faults("given back")
