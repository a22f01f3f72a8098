"""Say what a run takes of a device's memory: python -m aflow_jax.memory --config FILE [--device CARD] [key=value …]

Exit codes: 0 it fits; 2 it does not, or a mistake that the user can mend.
"""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from aflow_jax.config import load_config
from aflow_jax.errors import UserError
from aflow_jax.memory.devices import CARDS, GIB, this_device
from aflow_jax.memory.fit import check_memory
from aflow_jax.memory.plan import TERMS, MemoryPlan, plan_memory
from aflow_jax.memory.shapes import found_shape


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.memory",
        description="Say what a training run takes of a device's memory, without loading anything.",
        epilog="example: python -m aflow_jax.memory --config configs/gpu/t4_16gb.yaml --device t4_16gb",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML settings")
    parser.add_argument("--device", choices=CARDS, help="a card to plan for; without it the device that is here")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        shape = found_shape(config)
        device = CARDS[options.device] if options.device else this_device()
        show(plan_memory(config, shape, device))
        check_memory(config, shape, device)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def show(plan: MemoryPlan) -> None:
    """Print a plan as a table."""
    table = Table(title=f"memory in GiB on {plan.device.name}", title_justify="left", show_edge=False)
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
