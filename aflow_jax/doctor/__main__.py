"""Say what works and what to do: python -m aflow_jax.doctor [--config FILE] [key=value …]

Exit codes: 0 all is well; 1 a run would start, with something amiss or unknown; 2 a run would stop, or the settings
cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

from aflow_jax.config import load_config
from aflow_jax.doctor.findings import Check, Finding, State, Subject, examine
from aflow_jax.doctor.gpu import check_cuda, check_gpu
from aflow_jax.doctor.local import check_data, check_disk, check_memory, check_sandbox
from aflow_jax.doctor.network import check_executor, check_hub, check_wandb
from aflow_jax.doctor.software import check_packages, check_python
from aflow_jax.errors import UserError

CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_gpu,
    check_cuda,
    check_data,
    check_disk,
    check_sandbox,
    check_hub,
    check_executor,
    check_wandb,
    check_memory,  # it takes longest
)
_EXIT: dict[State, int] = {"ok": 0, "warn": 1, "FAIL": 2}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.doctor",
        description="Say what works on this machine, and what to do about what does not.",
        epilog="example: python -m aflow_jax.doctor --config configs/training.yaml aflow_executor_model=vllm",
    )
    parser.add_argument("--config", metavar="FILE", help="settings of a run; without it only the machine is examined")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    options = parser.parse_intermixed_args(arguments)
    if options.overrides and not options.config:
        parser.error("key=value settings need a --config to override")
    worst = 0
    for finding in _findings(options):
        print(finding, flush=True)
        worst = max(worst, _EXIT[finding.state])
    return worst


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    subject = Subject()
    if options.config:
        try:
            subject.config = load_config(options.config, options.overrides)
            yield Finding("ok", "settings", options.config)
        except UserError as error:
            yield Finding("FAIL", "settings", str(error), "mend them; what depends on them is not examined")
    if "jax" not in sys.modules:
        # Plans are made on the CPU, so that the GPU stays free, and a broken CUDA breaks only its own check.
        os.environ["JAX_PLATFORMS"] = "cpu"
    yield from examine(subject, CHECKS)


if __name__ == "__main__":
    sys.exit(main())
