"""The walls around a job (first form: resource limits, a scratch folder, an own session)."""

import os
import resource
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Confinement:
    """How this zygote's jobs are walled in."""

    base_memory: int
    scratch: dict[int, str] = field(default_factory=dict)

    @classmethod
    def enter(cls, settings: dict[str, Any]) -> "Confinement":
        with open("/proc/self/statm") as statistics:
            return cls(int(statistics.read().split()[0]) * resource.getpagesize())

    def describe(self) -> str:
        return "limits"

    def fork(self, order: dict[str, Any]) -> int:
        folder = tempfile.mkdtemp(prefix="sandbox-")
        process = os.fork()
        if process:
            self.scratch[process] = folder
        else:
            order["scratch"] = folder
        return process

    def wall_in(self, order: dict[str, Any]) -> None:
        os.setsid()
        os.chdir(order["scratch"])
        os.environ.update(HOME=order["scratch"], TMPDIR=order["scratch"])
        memory = self.base_memory + order["memory"]
        for limit, value in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, order["cpu"]),
            (resource.RLIMIT_FSIZE, 16 << 20),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_NPROC, 64),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))

    def clear_up(self, process: int) -> None:
        shutil.rmtree(self.scratch.pop(process), ignore_errors=True)
