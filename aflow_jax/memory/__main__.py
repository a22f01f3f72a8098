"""Say what a run takes of a device's memory: python -m aflow_jax.memory --config FILE [--device CARD] [key=value …]

Exit codes: 0 it fits; 2 it does not, or a mistake that the user can mend.
"""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from aflow_jax.commands import exit_code
from aflow_jax.config import load_config
from aflow_jax.errors import UserError


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.memory",
        description="Say what a training run takes of a device's memory, without loading anything.",
        epilog="example: python -m aflow_jax.memory --config configs/gpu/t4_16gb.yaml --device t4_16gb",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="YAML settings, or a preset such as gpu/t4_16gb"
    )
    parser.add_argument(
        "--device", metavar="CARD", help="t4_16gb, v100_16gb, a100_40gb, a100_80gb or h200; default: what is here"
    )
    parser.add_argument(
        "--devices", type=int, metavar="N", help="how many such devices; default: those here, or 1 card"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

import jax

from aflow_jax.memory.devices import CARDS, GIB, this_device
from aflow_jax.memory.fit import check_memory
from aflow_jax.memory.plan import TERMS, MemoryPlan, plan_memory
from aflow_jax.memory.shapes import found_shape


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    return exit_code(lambda: _plan(options))


def _plan(options: argparse.Namespace) -> None:
    if options.device not in (None, *CARDS):
        raise UserError(f"--device {options.device}: no such card: choose one of {', '.join(CARDS)}")
    config = load_config(options.config, options.overrides)
    shape = found_shape(config)
    device = CARDS[options.device] if options.device else this_device()
    devices = options.devices or (1 if options.device else jax.device_count())
    show(plan_memory(config, shape, device, devices=devices), devices)
    check_memory(config, shape, device, devices=devices)


def show(plan: MemoryPlan, devices: int = 1) -> None:
    """Print a plan as a table."""
    where = plan.device.name if devices == 1 else f"each of {devices} × {plan.device.name}"
    table = Table(title=f"memory in GiB on {where}", title_justify="left", show_edge=False)
    table.add_column("")
    for phase in plan.phases:
        table.add_column(phase, justify="right")
    for name in TERMS:
        amounts = [terms.get(name, 0) for terms in plan.phases.values()]
        if any(amounts):
            table.add_row(name, *(f"{amount / GIB:.2f}" for amount in amounts))
    table.add_section()
    table.add_row("together", *(f"{sum(terms.values()) / GIB:.2f}" for terms in plan.phases.values()))
    table.add_row("reserve", *(f"{plan.device.reserve / GIB:.2f}" for _ in plan.phases))
    table.add_row("capacity", *(f"{plan.device.capacity / GIB:.2f}" for _ in plan.phases))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
