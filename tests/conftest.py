"""What all tests share: compiled programs, so that equal ones are compiled once, also in processes that tests start."""

import os
import shutil
import tempfile

import pytest

_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_WORKER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="aflow_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["WANDB_MODE"] = "offline"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _IS_WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
