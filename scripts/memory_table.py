"""Write the table of docs/memory.md anew: python scripts/memory_table.py"""

from pathlib import Path

from aflow_jax.config import load_config
from aflow_jax.memory import CARDS, TERMS, MemoryPlan, found_shape, plan_memory

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- table: scripts/memory_table.py -->\n", "<!-- end of table -->\n"


def main() -> None:
    """Plan every preset, and replace the table."""
    plans = {}
    for name, card in CARDS.items():
        config = load_config(ROOT / "configs" / "gpu" / f"{name}.yaml")
        plans[name] = plan_memory(config, found_shape(config), card)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(plans) + END + rest.partition(END)[2], encoding="utf-8")


def table(plans: dict[str, MemoryPlan]) -> str:
    """Return the plans as a Markdown table, in GiB."""
    lines = [f"| preset | phase | {' | '.join(TERMS)} | together | reserve | capacity |"]
    lines.append("|---" * (len(TERMS) + 5) + "|")
    for name, plan in plans.items():
        for phase, terms in plan.phases.items():
            amounts = [terms.get(term, 0) for term in TERMS]
            amounts += [sum(terms.values()), plan.device.reserve, plan.device.capacity]
            cells = " | ".join(f"{amount / 2**30:.2f}" if amount else "" for amount in amounts)
            lines.append(f"| {name} | {phase} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
