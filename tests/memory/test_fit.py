"""A run that cannot fit is refused before anything is loaded, with settings that would fit."""

import dataclasses

import pytest

from aflow_jax.config import Config, load_config
from aflow_jax.errors import UserError
from aflow_jax.memory import CARDS, Device, check_memory, found_shape, mends, plan_memory
from aflow_jax.memory.__main__ import main
from aflow_jax.memory.fit import _ways
from aflow_jax.train import main as train

CPU = Device(name="a CPU", platform="cpu", capacity=2**40)
CREATED = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 1, "vocab_size": 512}
CONFIG = Config(
    create_model=CREATED,
    synthetic_data={"train": 8, "test": 4},
    prompt_max_length=64,
    response_max_length=1536,
    lora_rank=8,
    num_return_sequences_in_group=2,
    rollout_batch_size=4,
    gradient_accumulation_steps=1,
    sampling_slots=8,
    eval_every=0,
)
SHAPE = found_shape(CONFIG)


def device_with(plan, missing):
    """A device on which the plan's fullest phase is `missing` bytes too large."""
    return dataclasses.replace(CPU, capacity=plan.peak + CPU.reserve - missing)


def test_a_run_that_fits_is_planned():
    assert check_memory(CONFIG, SHAPE, CPU) == plan_memory(CONFIG, SHAPE, CPU)


def test_each_change_that_is_named_fits_by_itself_and_no_smaller_change_of_its_key_does():
    plan = plan_memory(CONFIG, SHAPE, CPU)
    device = device_with(plan, plan.peak // 4)
    with pytest.raises(UserError) as error:
        check_memory(CONFIG, SHAPE, device)
    message = str(error.value)
    assert "\n" not in message
    assert f"the phase {plan.fullest!r}" in message
    found = mends(CONFIG, SHAPE, device)
    for change in found:
        ((key, value),) = change.items()
        assert f"{key}={value}" in message
        assert plan_memory(CONFIG.model_copy(update=change), SHAPE, device).fits
    (accumulation,) = (change["gradient_accumulation_steps"] for change in found if "gradient" in next(iter(change)))
    fewer = CONFIG.model_copy(update={"gradient_accumulation_steps": accumulation - 1})
    assert not plan_memory(fewer, SHAPE, device).fits


def mends_plainly(config, device):
    """Every value of every key in turn."""

    def fits(change):
        return plan_memory(config.model_copy(update=change), SHAPE, device).fits

    ways = [list(way) for way in _ways(config)]
    single = [next(iter(enough)) for way in ways if (enough := [change for change in way if fits(change)])]
    if single:
        return single
    together = {}
    for way in ways:
        together |= way[-1]
        if fits(together):
            return [together]
    return []


@pytest.mark.parametrize("missing", [0.02, 0.3, 0.7, 0.97])
def test_the_changes_are_those_that_a_search_through_all_values_finds(missing):
    config = CONFIG.model_copy(update={"gradient_checkpointing": False, "rollout_batch_size": 3})
    plan = plan_memory(config, SHAPE, CPU)
    device = device_with(plan, int(plan.peak * missing))
    assert mends(config, SHAPE, device) == mends_plainly(config, device)


@pytest.mark.parametrize(
    ("preset", "card", "changes"),
    [
        ("training", "t4_16gb", [{"gradient_accumulation_steps": 10, "sampling_slots": 1, "quantization": "nf4"}]),
        ("gpu/a100_80gb", "a100_40gb", [{"gradient_accumulation_steps": 5}]),
        ("gpu/h200", "a100_80gb", [{"gradient_accumulation_steps": 3}, {"response_max_length": 1536}]),
    ],
)
def test_what_presets_of_7b_would_need_on_a_smaller_card(request, preset, card, changes):
    config = load_config(request.config.rootpath / "configs" / f"{preset}.yaml")
    assert mends(config, found_shape(config), CARDS[card]) == changes


def test_the_trainer_refuses_before_it_makes_or_loads_a_model(tmp_path, capsys, request):
    large = "{hidden_size: 131072, intermediate_size: 524288, num_hidden_layers: 2, vocab_size: 150000}"
    quickstart = str(request.config.rootpath / "configs" / "quickstart.yaml")
    folder = tmp_path / "run"
    assert (
        train(["--config", quickstart, f"run_dir={folder}", "warm_start=null", "eval_every=0", f"create_model={large}"])
        == 2
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "does not fit" in line
    assert line.endswith("no setting but a smaller base_model will do")
    assert not (folder / "model").exists()


def test_the_command_shows_a_table(capsys, request):
    root = request.config.rootpath
    preset = str(root / "configs" / "gpu" / "a100_40gb.yaml")
    assert main(["--config", preset, "--device", "a100_40gb"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("KV cache", "14.19", "capacity", "reserve"))
    assert main(["--config", preset, "--device", "a100_40gb", "sampling_slot=64"]) == 2
    assert "did you mean 'sampling_slots'?" in capsys.readouterr().err


def test_a_published_name_gives_its_shape_without_a_download():
    shape = found_shape(Config(base_model="Qwen/Qwen2.5-Coder-14B-Instruct"))
    assert (shape.hidden_size, shape.num_hidden_layers) == (5120, 48)
