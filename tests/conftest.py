"""What all tests share: compiled programs, so that equal ones are compiled once, also in processes that tests start."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest

# Processes that share the tests (pytest-xdist) share the folder of the one that started them.
_IS_STARTED = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_STARTED:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="aflow_jax_tests_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_modules() -> Iterator[None]:
    """Forget a module's compiled programs after it.

    Each holds some of the memory maps that Linux grants a process, 65,530 by default: without them XLA ends it by a
    segmentation fault. What is needed again comes from the cache on disk.
    """
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _IS_STARTED:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
