"""The GPU: what the driver reports, what of CUDA is installed, and whether JAX reaches it."""

from __future__ import annotations

import glob
import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from aflow_jax.doctor.cards import Gpu, preset_for
from aflow_jax.doctor.findings import Finding, Subject

# The oldest driver and compute capability of each CUDA that JAX is built for (JAX's and CUDA 13's installation notes).
_OLDEST = {12: ((525, 60), (5, 2)), 13: ((580, 0), (7, 5))}
_PROBE = "import json, jax; print(json.dumps([[d.platform, str(d.device_kind)] for d in jax.devices()]))"


def check_gpu(subject: Subject) -> Iterator[Finding]:
    """Find whether there is a GPU, and whether its driver answers."""
    for gpu in subject.gpus:
        held = gpu.memory - gpu.free
        text = f"{gpu.name}, driver {gpu.driver}, {gpu.free / 1024:.1f} of {gpu.memory / 1024:.1f} GiB free"
        if held > max(1024, gpu.memory // 20):
            mend = "other processes hold the rest: stop them (nvidia-smi names them), or run out of memory"
            yield Finding("warn", "gpu", text, mend)
        else:
            yield Finding("ok", "gpu", text)
    if subject.gpus and subject.config is None and (preset := preset_for(subject.gpus[0])):
        yield Finding("ok", "preset", f"--config {preset} is made for this much memory")
    if subject.gpus:
        return
    if glob.glob("/dev/nvidia[0-9]*") or Path("/proc/driver/nvidia/version").exists():
        mend = "reboot or reinstall the driver; in a container start it with --gpus all"
        yield Finding("FAIL", "gpu", "there is an NVIDIA device, but nvidia-smi does not work", mend)
    elif subject.config is None or subject.config.create_model:
        yield Finding(
            "ok", "gpu", "none: JAX computes on the CPU, which is enough for --config configs/quickstart.yaml"
        )
    else:
        mend = "use a machine with a GPU (scripts/colab.ipynb), or start with --config configs/quickstart.yaml"
        yield Finding("warn", "gpu", f"none: {subject.config.base_model} on a CPU takes days", mend)


def check_cuda(subject: Subject) -> Iterator[Finding]:
    """Find whether JAX's CUDA plugin is there, fits JAX and the driver, and reaches the GPU."""
    plugins = _plugins()
    if not subject.gpus:
        if plugins:
            yield Finding("ok", "cuda", f"plugin for CUDA {', '.join(map(str, plugins))} installed, and no GPU to use")
        return
    gpu = subject.gpus[0]
    if not plugins:
        extra = f"cuda{_newest_cuda(gpu)}"
        yield Finding("FAIL", "cuda", "JAX has no CUDA plugin", f"pip install -e '.[{extra}]'")
        return
    unfit = list(_unfit(plugins, gpu))
    yield from unfit
    if not unfit:
        yield _reached(subject)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _plugins() -> dict[int, str]:
    """Return the versions of JAX's CUDA plugins by CUDA's major version."""
    found: dict[int, str] = {}
    for cuda in _OLDEST:
        try:
            found[cuda] = importlib.metadata.version(f"jax-cuda{cuda}-plugin")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _newest_cuda(gpu: Gpu) -> int:
    """Return the newest CUDA that a GPU and its driver can take."""
    fitting = [
        cuda
        for cuda, (driver, capability) in _OLDEST.items()
        if _version(gpu.driver) >= driver and gpu.compute_capability >= capability
    ]
    return max(fitting, default=min(_OLDEST))


def _unfit(plugins: dict[int, str], gpu: Gpu) -> Iterator[Finding]:
    jaxlib = importlib.metadata.version("jaxlib")
    best = _newest_cuda(gpu)
    reinstall = f"pip install -U 'jax[cuda{best}]'"
    if len(plugins) > 1:
        other = next(cuda for cuda in plugins if cuda != best)
        mend = f"pip uninstall jax-cuda{other}-plugin jax-cuda{other}-pjrt"
        yield Finding("FAIL", "cuda", "plugins for CUDA 12 and CUDA 13 are installed together", mend)
        return
    cuda, version = next(iter(plugins.items()))
    driver, capability = _OLDEST[cuda]
    if version != jaxlib:
        text = f"jax-cuda{cuda}-plugin {version} is not of jaxlib {jaxlib}, so JAX passes over it"
        yield Finding("FAIL", "cuda", text, reinstall)
    if _version(gpu.driver) < driver:
        text = f"CUDA {cuda} needs driver {driver[0]} or later, and {gpu.driver} is installed"
        mend = reinstall if best < cuda else "update the NVIDIA driver"
        yield Finding("FAIL", "cuda", text, mend)
    if gpu.compute_capability < capability:
        text = f"CUDA {cuda} does not support compute capability {'.'.join(map(str, gpu.compute_capability))}"
        yield Finding("FAIL", "cuda", text, reinstall if best < cuda else "use a newer GPU")


def _reached(subject: Subject) -> Finding:
    """Ask JAX, in a process of its own; where it does not reach the GPU, try what mends that."""
    environment = subject.environment
    devices, why = _devices(environment)
    if devices:
        return Finding("ok", "cuda", f"JAX sees {len(devices)} GPU{'s' if len(devices) > 1 else ''}: {devices[0]}")
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return Finding("FAIL", "cuda", "JAX_PLATFORMS=cpu keeps JAX from the GPU", "unset JAX_PLATFORMS")
    if environment.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return Finding("FAIL", "cuda", "CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    path = environment.get("LD_LIBRARY_PATH")
    if path and _devices({**environment, "LD_LIBRARY_PATH": ""})[0]:
        text = f"the libraries in LD_LIBRARY_PATH ({path}) hide those that JAX was installed with"
        return Finding("FAIL", "cuda", text, "unset LD_LIBRARY_PATH")
    folders = ":".join(_library_folders())
    if folders and _devices({**environment, "LD_LIBRARY_PATH": folders})[0]:
        text = f"JAX does not find CUDA's libraries ({why})"
        return Finding("FAIL", "cuda", text, f"export LD_LIBRARY_PATH={folders}")
    mend = f"pip install -U --force-reinstall 'jax[cuda{_newest_cuda(subject.gpus[0])}]'"
    return Finding("FAIL", "cuda", f"JAX does not reach the GPU: {why}", mend)


def _devices(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the GPUs that JAX sees in an environment, and where it sees none, why."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return [], "JAX did not answer within 120 s"
    if done.returncode == 0:
        found = json.loads(done.stdout.splitlines()[-1])
        if names := [kind for platform, kind in found if platform == "gpu"]:
            return names, ""
    missing = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file", done.stderr)
    if missing:
        return [], f"{missing[1]} cannot be opened"
    errors = re.findall(r"^\w*(?:Error|Exception): (.+)$", done.stderr, re.MULTILINE)
    return [], errors[-1][:200] if errors else "it sees only the CPU"


def _library_folders() -> tuple[str, ...]:
    """Return where CUDA's libraries are on this machine: the Python packages' folders, then the system's."""
    packages = [sysconfig.get_path("platlib"), *sys.path]
    patterns = [f"{glob.escape(folder)}/nvidia/*/lib" for folder in dict.fromkeys(packages) if folder]
    folders = [folder for pattern in patterns for folder in sorted(glob.glob(pattern))]
    folders = folders or sorted(glob.glob("/usr/local/cuda*/lib64"))
    return tuple(folders) if any(glob.glob(f"{glob.escape(folder)}/libcudart.so*") for folder in folders) else ()
