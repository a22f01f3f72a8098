"""Which walls this machine offers, asked of the machine itself, and which of them are used."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from aflow_jax.errors import UserError
from aflow_jax.sandbox.guest import landlock, seccomp
from aflow_jax.sandbox.guest.confine import uids_to_give
from aflow_jax.sandbox.guest.jail import SCRATCH
from aflow_jax.sandbox.process import BackendRefused, ZygoteProcess
from aflow_jax.sandbox.results import SandboxUnavailable

Backend = Literal["auto", "namespaces", "bubblewrap", "landlock", "unsafe"]
PREFERENCE = ("namespaces", "bubblewrap", "landlock")

_PACKAGES = ("numpy", "sympy", "mpmath")
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
# Bubblewrap's scratch is one for all jobs of a zygote; each is held to its share by its quota.
_ALL_SCRATCH_BYTES = 1 << 30
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True)
class SandboxReport:
    """What isolates programs on this machine.

    Attributes:
        backend: the one in use: "namespaces", "bubblewrap", "landlock" or "unsafe".
        mechanisms: what it is made of, in words.
        refused: the better backends that this machine does not offer, with the reason.
    """

    backend: str
    mechanisms: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        why = "".join(f"; not {name}: {reason}" for name, reason in self.refused.items())
        return f"{self.backend} ({', '.join(self.mechanisms)}){why}"


def settings_for(backend: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """What a zygote needs to know: the backend, what a program may read, and what to import ahead."""
    devices = [device for device in _DEVICES if os.path.exists(device)]
    return {
        "backend": backend,
        "readable": list(_readable()),
        "devices": devices,
        "packages": list(packages),
        "launcher": _bubblewrap(devices) if backend == "bubblewrap" else [],
        "scratch_root": SCRATCH if backend == "bubblewrap" else None,
        "package_folders": sorted({str(folder.parent) for folder in _package_folders()}),
    }


def choose(backend: Backend, packages: tuple[str, ...]) -> tuple[ZygoteProcess, SandboxReport]:
    """Starts a zygote behind the walls asked for; "auto" takes the best that this machine offers.

    Args:
        backend: a backend's name or "auto".
        packages: which of numpy and sympy the zygote imports ahead of its jobs.

    Raises:
        UserError: the backend asked for is not to be had here, or with "auto", none is.
        SandboxUnavailable: the zygote did not come up for another reason.
    """
    refused: dict[str, str] = {}
    for name in PREFERENCE if backend == "auto" else (backend,):
        reason = missing(name)
        if reason is None:
            try:
                zygote = _tried(ZygoteProcess(settings_for(name, packages)))
            except SandboxUnavailable as refusal:
                # bwrap refuses by not starting; from the others that is a fault, which may pass.
                if not isinstance(refusal, BackendRefused) and name != "bubblewrap":
                    raise
                reason = str(refusal)
            else:
                return zygote, SandboxReport(name, _mechanisms(name), refused)
        refused[name] = reason
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise UserError(
        f"sandbox: {backend}: this machine does not offer it ({reasons}); use another backend, or `sandbox: unsafe` "
        "to run model-written programs without isolation"
    )


def missing(backend: str) -> str | None:
    """Why a backend cannot work here, as far as can be said without trying it."""
    if backend == "unsafe":
        return None
    if sys.platform != "linux":
        return "it needs Linux"
    if not seccomp.supported():
        return f"no system call table for {os.uname().machine}"
    if backend in ("bubblewrap", "landlock") and not landlock.version():
        return "the kernel has no Landlock"
    if backend in ("bubblewrap", "landlock") and landlock.version() < 3 and not _gives_users():
        return f"jobs without users of their own need Landlock 3, not {landlock.version()}: they could truncate files"
    if backend == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    if backend == "bubblewrap" and os.getuid() == 0:
        return "it gives no users of their own to root's jobs; root makes the namespaces itself"
    return None


def _tried(zygote: ZygoteProcess) -> ZygoteProcess:
    # What a container forbids, such as changing the user, shows only when a job is walled in.
    job = zygote.start({"kind": "program", "slot": 0, "memory": 64 << 20, "cpu": 5})
    try:
        job.await_walls()
        job.end()
    except SandboxUnavailable as error:
        zygote.close()
        raise BackendRefused(str(error)) from error
    return zygote


def _gives_users() -> bool:
    return os.getuid() == 0 and uids_to_give() is not None


def _mechanisms(backend: str) -> tuple[str, ...]:
    user = ("own user for each job",) if _gives_users() else ()
    match backend:
        case "namespaces":
            walls = ("namespaces (mount, process, network, ipc)", "seccomp", *user, "sized tmpfs")
        case "bubblewrap":
            walls = ("bubblewrap", f"Landlock {landlock.version()}", "seccomp", "tmpfs with a quota")
        case "landlock":
            walls = (f"Landlock {landlock.version()}", "seccomp", *user, "disk quota")
        case _:
            return ("resource limits only: programs reach every file, process and network that you reach",)
    return (*walls, "resource limits", "empty environment")


def _bubblewrap(devices: list[str]) -> list[str]:
    shown = [*_readable(), os.path.realpath(sys.executable), str(Path(__file__).parent / "guest")]
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    for path in shown:
        # A link, as /lib is one on a merged system, is shown as what it leads to.
        command += ["--ro-bind", os.path.realpath(path), path]
    for device in devices:
        command += ["--dev-bind", device, device]
    return [*command, "--size", str(_ALL_SCRATCH_BYTES), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", "/"]


@cache
def _readable() -> tuple[str, ...]:
    paths = [sysconfig.get_path("stdlib"), os.path.join(sys.base_prefix, "lib")]
    for folder in _package_folders():
        paths += [str(folder), str(folder.with_name(f"{folder.name}.libs"))]
    kept: list[str] = []
    for path in sorted({*_SYSTEM, *(path for path in paths if path)}, key=len):
        if os.path.exists(path) and not any(path.startswith(other + "/") for other in kept):
            kept.append(path)
    return tuple(kept)


@cache
def _package_folders() -> tuple[Path, ...]:
    specs = (importlib.util.find_spec(package) for package in _PACKAGES)
    return tuple(Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None)
