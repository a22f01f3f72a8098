"""The plan of a run: closed forms of what stays, what the settings change, and presets that fit their cards."""

import dataclasses
import runpy

import pytest

from aflow_jax.config import Config, load_config
from aflow_jax.memory import CARDS, Device, found_shape, plan_memory
from aflow_jax.memory.programs import PolicyShape, tree_bytes
from aflow_jax.qwen2 import published_shape

PARAMETERS_7B = 7_615_616_512
ADAPTER_7B = 40_370_176  # rank 64 on q, k, v, o
A100 = CARDS["a100_40gb"]
CPU = Device(name="a CPU", platform="cpu", capacity=2**40)


def small(**settings):
    created = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 512}
    values = {"create_model": created, "synthetic_data": {"train": 8, "test": 4}, "prompt_max_length": 64}
    generation = {"max_new_tokens": 64}
    return Config(**values | {"generation_config": generation, "lora_rank": 8, "sampling_slots": 4} | settings)


def plan_of(config, device=CPU):
    return plan_memory(config, found_shape(config), device)


def test_what_stays_is_counted_exactly(preset_plans):
    sampling = preset_plans["a100_40gb"].phases["sampling"]
    assert sampling["weights"] == 2 * PARAMETERS_7B
    assert sampling["adapter"] == 2 * 4 * ADAPTER_7B
    # Two moments, and two counters of steps.
    assert sampling["optimizer"] == 2 * 4 * ADAPTER_7B + 8
    assert preset_plans["a100_40gb"].phases["update"]["gradients"] == 4 * ADAPTER_7B


def test_the_cache_is_the_slots_and_the_prompts_keys_and_values(preset_plans):
    layers, heads, width, new, prompt = 28, 4, 128, 4096, 3072
    one = 2 * 2 * layers * heads * width
    cache = preset_plans["a100_40gb"].phases["sampling"]["KV cache"]
    # Five problems with two samples each, and one more prompt on its way to its place.
    assert cache == pytest.approx(10 * new * one + 6 * prompt * one, rel=1e-3)


def test_decoding_reads_the_models_own_weights_and_a_slice_of_the_adapter_for_each_layer(preset_plans):
    for name in ("a100_40gb", "t4_16gb"):
        assert preset_plans[name].phases["sampling"]["decode weights"] == 4 * ADAPTER_7B
        assert "decode weights" not in preset_plans[name].phases["update"]


def test_moving_the_layers_takes_their_largest_stack_beside_the_model():
    # So many layers for a few tokens that the move is the fullest moment of both phases.
    created = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 24, "vocab_size": 512}
    config = small(create_model=created, prompt_max_length=16, generation_config={"max_new_tokens": 4}, eval_every=0)
    plan = plan_of(config, A100)
    stack = 2 * 24 * 256 * 2048
    assert plan.phases["sampling"]["workspace"] == plan.phases["update"]["workspace"] == stack
    assert "KV cache" not in plan.phases["sampling"]
    assert "gradients" not in plan.phases["update"]


@pytest.mark.parametrize(("quantization", "most"), [("int8", 8.8e9), ("nf4", 5.6e9)])
def test_quantised_weights_of_7b_are_as_small_as_they_are_to_be(quantization, most):
    policy = PolicyShape(
        config=published_shape("7B"), device=A100, quantization=quantization, rank=64, targets="q_proj", dropout=0.0
    )
    assert tree_bytes(policy.model) <= most


@pytest.mark.parametrize("name", CARDS)
def test_each_preset_fits_its_card_with_the_reserve(preset_plans, name):
    plan = preset_plans[name]
    assert plan.peak + plan.device.reserve <= plan.device.capacity
    assert plan.fits


@pytest.mark.parametrize(
    ("name", "sampling", "update", "evaluation"),
    [
        ("t4_16gb", 8_846_833_228, 12_784_597_592, 10_843_752_080),
        ("v100_16gb", 9_492_799_086, 12_784_597_592, 10_843_752_080),
        ("a100_40gb", 19_922_784_434, 31_578_119_348, 29_848_357_416),
        ("h200", 25_618_778_664, 99_566_484_120, 69_314_564_232),
    ],
)
def test_a_preset_takes_what_it_always_took(preset_plans, name, sampling, update, evaluation):
    phases = {phase: sum(terms.values()) for phase, terms in preset_plans[name].phases.items()}
    # JAX's versions differ by a few small buffers.
    assert phases == pytest.approx({"sampling": sampling, "update": update, "evaluation": evaluation}, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "group", "batch", "accumulation"),
    [("t4_16gb", 2, 2, 8), ("v100_16gb", 2, 3, 6), ("a100_40gb", 2, 5, 4), ("a100_80gb", 4, 8, 2)],
)
def test_the_presets_keep_their_group_batch_and_accumulation(request, name, group, batch, accumulation):
    config = load_config(request.config.rootpath / "configs" / "gpu" / f"{name}.yaml")
    assert config.num_return_sequences_in_group == group
    assert config.rollout_batch_size == batch
    assert config.gradient_accumulation_steps == accumulation


def test_training_yaml_is_the_a100_presets_run(request, preset_plans):
    config = load_config(request.config.rootpath / "configs" / "training.yaml")
    assert plan_memory(config, found_shape(config), A100) == preset_plans["a100_40gb"]


def test_the_dtype_follows_the_device_that_is_planned_for():
    weights = {
        device.name: plan_of(small(), device).phases["sampling"]["weights"] for device in (CPU, A100, CARDS["t4_16gb"])
    }
    assert weights[CPU.name] == 2 * weights[A100.name] == 2 * weights[CARDS["t4_16gb"].name]


def test_slots_beyond_the_completions_of_a_step_take_nothing_while_it_samples():
    few, many = plan_of(small(sampling_slots=16)), plan_of(small(sampling_slots=64))
    assert few.phases["sampling"] == many.phases["sampling"]
    # How many problems an evaluation has is not known: all slots are taken.
    assert many.phases["evaluation"]["KV cache"] > 3 * few.phases["evaluation"]["KV cache"]


def test_an_evaluation_of_few_problems_takes_few_slots():
    config = small(sampling_slots=64)
    known = plan_memory(config, found_shape(config), CPU, evaluated=3)
    assert known.phases["evaluation"]["KV cache"] < plan_of(config).phases["evaluation"]["KV cache"] / 8
    assert "evaluation" not in plan_of(small(eval_every=0)).phases


def test_smaller_microbatches_and_recomputation_take_less():
    whole = plan_of(small(gradient_accumulation_steps=1)).phases["update"]
    halved = plan_of(small(gradient_accumulation_steps=2)).phases["update"]
    kept = plan_of(small(gradient_accumulation_steps=1, gradient_checkpointing=False)).phases["update"]
    assert sum(halved.values()) < sum(whole.values()) < sum(kept.values())
    assert halved["saved activations"] < 0.6 * whole["saved activations"]
    assert kept["saved activations"] > 2 * whole["saved activations"]


def test_a_warm_start_has_a_second_learner():
    phases = plan_of(small(warm_start={"steps": 1, "batch_size": 4})).phases
    assert phases["warm start"]["optimizer"] == 2 * phases["sampling"]["optimizer"]
    assert 2 * phases["warm start"]["adapter"] == 3 * phases["sampling"]["adapter"]


def test_the_summary_is_one_line_with_every_phase():
    plan = plan_of(small())
    line = plan.summary()
    assert "\n" not in line
    assert all(phase in line for phase in plan.phases)


def test_a_plan_that_takes_all_but_the_reserve_fits_and_one_byte_less_does_not():
    plan = plan_of(small())
    exact = dataclasses.replace(CPU, capacity=plan.peak + CPU.reserve)
    assert dataclasses.replace(plan, device=exact).fits
    assert not dataclasses.replace(plan, device=dataclasses.replace(exact, capacity=exact.capacity - 1)).fits


def test_the_table_in_the_docs_is_in_step(request, preset_plans):
    root = request.config.rootpath
    scope = runpy.run_path(str(root / "scripts" / "memory_table.py"))
    assert scope["table"](preset_plans) in (root / "docs" / "memory.md").read_text(encoding="utf-8")
