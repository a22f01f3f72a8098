"""Plans of the presets, each made once."""

from pathlib import Path

import pytest

from aflow_jax.config import load_config
from aflow_jax.memory import CARDS, found_shape, plan_memory

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "gpu"


@pytest.fixture(scope="session")
def preset_plans():
    configs = {name: load_config(PRESETS / f"{name}.yaml") for name in CARDS}
    return {name: plan_memory(config, found_shape(config), CARDS[name]) for name, config in configs.items()}
