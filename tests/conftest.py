"""What all tests share: compiled programs, so that equal ones are compiled once, also in processes that tests start."""

import os
import shutil
import tempfile

import pytest

_CACHE = tempfile.mkdtemp(prefix="aflow_jax_tests_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["WANDB_MODE"] = "offline"


def pytest_sessionfinish(session: pytest.Session) -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)
