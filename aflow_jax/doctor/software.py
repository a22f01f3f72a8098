"""Python and the packages."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

from aflow_jax.doctor.findings import Finding, Subject

_OLDEST_PYTHON = (3, 11)


def check_python(_: Subject) -> Iterator[Finding]:
    """Find whether Python and the operating system are supported."""
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        yield Finding("FAIL", "python", version, "use Python 3.11 or later")
    elif sys.platform != "linux":
        text = f"{version} on {platform.system()}"
        yield Finding("warn", "python", text, "use Linux (WSL2 on Windows): the sandbox and CUDA need it")
    else:
        yield Finding("ok", "python", version)


def check_packages(_: Subject) -> Iterator[Finding]:
    """Find whether what the package requires is installed in versions that it takes."""
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("aflow-jax") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("warn", "packages", "aflow-jax itself is not installed", "pip install -e .")
        return
    wrong = [
        problem
        for requirement in requirements
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        and (problem := _problem(requirement))
    ]
    if wrong:
        yield Finding("FAIL", "packages", "; ".join(wrong), "pip install -U -e .")
        return
    versions = {name: importlib.metadata.version(name) for name in ("aflow-jax", "jax", "jaxlib", "flax")}
    yield Finding("ok", "packages", ", ".join(f"{name} {version}" for name, version in versions.items()))
    if versions["jax"] != versions["jaxlib"]:
        mend = "pip install -U jax jaxlib"
        yield Finding("warn", "packages", f"jax {versions['jax']} beside jaxlib {versions['jaxlib']}", mend)


def _problem(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version} is not {requirement.specifier}"
