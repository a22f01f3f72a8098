"""What a step costs: counted in closed form, and held against XLA's own count of small programs."""

import jax
import jax.numpy as jnp
import pytest

from aflow_jax.config import Config
from aflow_jax.grpo import LearnerSettings
from aflow_jax.grpo.gradients import add_policy_gradient
from aflow_jax.grpo.microbatches import MicrobatchShape
from aflow_jax.memory.cost import step_cost, token_cost
from aflow_jax.memory.devices import Device
from aflow_jax.memory.programs import PolicyShape, gradient_arguments
from aflow_jax.qwen2 import Qwen2Config, init_adapter, parameter_count, published_shape
from aflow_jax.sampling.prefill import prefill

# One layer, one block of attention and one chunk of logits: XLA counts what is in a loop once, whatever its turns.
ONE_LAYER = Qwen2Config(
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=1,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=2048,
    tie_word_embeddings=True,
)
RANK, TARGETS = 16, "q_proj,k_proj,v_proj,o_proj"
POLICY = PolicyShape(
    config=ONE_LAYER, device=Device(name="CPU", platform="cpu", capacity=1), rank=RANK, targets=TARGETS, dropout=0.0
)
TUNED, BASE = token_cost(ONE_LAYER, rank=RANK, targets=TARGETS), token_cost(ONE_LAYER)


def flops(compiled: jax.stages.Compiled) -> float:
    counted = compiled.cost_analysis()
    return (counted[0] if isinstance(counted, list) else counted)["flops"]


def test_a_prompt_costs_what_xla_counts() -> None:
    length = 128
    tokens, number = jax.ShapeDtypeStruct((1, length), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    counted = flops(prefill.lower(POLICY.model, POLICY.adapter, tokens, number, room=length).compile())
    # One block of queries meets all of its keys.
    assert length * TUNED.forward(length) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_an_update_costs_what_xla_counts(kl_coef: float) -> None:
    rows, length, window = 2, 128, 64
    settings = LearnerSettings(kl_coef=kl_coef, remat="none", logprob_chunk=rows * window)
    shape = MicrobatchShape(prompts=rows, samples=1, prompt_width=length - window, width=window)
    arguments, static = gradient_arguments(POLICY, settings, shape)
    counted = flops(add_policy_gradient.lower(*arguments, **static).compile())
    forward = length * TUNED.forward(length)
    backward = length * (TUNED.layers + 2.5 * TUNED.attention * length) + length * (TUNED.layers - BASE.layers)
    reference = length * BASE.forward(length) + window * BASE.head if kl_coef else 0.0
    assert rows * (forward + backward + 2 * window * BASE.head + reference) == pytest.approx(counted, rel=0.08)


def config(**settings: object) -> Config:
    return Config(
        base_model="Qwen/Qwen2.5-7B-Instruct",
        synthetic_data={"train": 8, "test": 4},
        lora_target_modules=TARGETS,
        **settings,
    )


def test_tokens_and_flops_grow_with_problems_and_samples() -> None:
    shape, lengths = published_shape("7B"), {"prompt_length": 1000, "completion_length": 500}
    one, four, twelve = (
        step_cost(
            config(rollout_batch_size=problems, num_return_sequences_in_group=samples, gradient_accumulation_steps=1),
            shape,
            **lengths,
        )
        for problems, samples in ((1, 1), (1, 4), (3, 4))
    )
    assert (one.prompt_tokens, one.completion_tokens, one.update_tokens) == (1000, 500, 1500)
    # A prompt is run once for all of its samples.
    assert (four.prompt_tokens, four.completion_tokens) == (1000, 2000)
    assert twelve.flops == pytest.approx(3 * four.flops)


def test_an_update_runs_a_prompt_once_for_as_many_completions_as_a_microbatch_has_room_for() -> None:
    shape, lengths = published_shape("7B"), {"prompt_length": 1000, "completion_length": 500}
    costs = {
        steps: step_cost(
            config(
                num_return_sequences_in_group=4,
                rollout_batch_size=1,
                gradient_accumulation_steps=steps,
                prompt_max_length=1000,
                response_max_length=500,
            ),
            shape,
            **lengths,
        )
        for steps in (1, 2, 4)
    }
    # At once; two sequences' 3,000 positions hold a prompt and all four completions; each by itself.
    assert {steps: cost.update_tokens for steps, cost in costs.items()} == {1: 3000, 2: 3000, 4: 6000}
    assert 0.5 < costs[1].update_flops / costs[4].update_flops < 0.6


def test_flops_grow_with_the_model_and_the_square_of_long_sequences() -> None:
    settings = config(rollout_batch_size=1, num_return_sequences_in_group=1, kl_loss_coef=0.0)
    small, large = (
        step_cost(settings, published_shape(size), prompt_length=1000, completion_length=500) for size in ("7B", "72B")
    )
    # 6.5 and 70.2 billion weights in the layers and 0.5 and 1.2 billion in the head.
    assert 10 < large.update_flops / small.update_flops < 11.5
    shape = published_shape("7B")
    lengths = [
        step_cost(settings, shape, prompt_length=n, completion_length=1).update_flops for n in (1000, 2000, 4000)
    ]
    square = (lengths[2] - 2 * lengths[1]) / 4000**2 * 2
    # Forward twice, backward two and a half times: 4.5 · 4 · L · H · h · T² / 2.
    assert square == pytest.approx(4.5 * 4 * 28 * 3584 / 2, rel=0.01)


def test_decoding_reads_the_weights_once_for_all_slots() -> None:
    shape, lengths = published_shape("7B"), {"prompt_length": 1000, "completion_length": 500}
    settings = config(rollout_batch_size=8, num_return_sequences_in_group=8)
    wide = step_cost(settings.model_copy(update={"sampling_slots": 64}), shape, **lengths)
    narrow = step_cost(settings.model_copy(update={"sampling_slots": 16}), shape, **lengths)
    weights = 500 * 2 * (6_525_288_448 + 152_064 * 3584)
    assert narrow.decode_bytes - wide.decode_bytes == pytest.approx(3 * weights, rel=0.001)


def test_a_base_in_fewer_bits_is_read_faster() -> None:
    shape, lengths = published_shape("7B"), {"prompt_length": 10, "completion_length": 10}
    settings = config(rollout_batch_size=1, num_return_sequences_in_group=1)
    whole, bits = (
        step_cost(settings.model_copy(update={"quantization": kind}), shape, **lengths).decode_bytes
        for kind in (None, "int8")
    )
    assert whole - bits == pytest.approx(10 * 6_525_288_448, rel=0.001)


def test_devices_exchange_the_adapters_gradient_and_between_parts_of_the_model_its_sums() -> None:
    shape, lengths = published_shape("7B"), {"prompt_length": 1000, "completion_length": 500}
    settings = config(lora_rank=64, rollout_batch_size=4, num_return_sequences_in_group=8)
    alone, four = (step_cost(settings, shape, devices=devices, **lengths) for devices in (1, 4))
    adapter = jax.eval_shape(lambda: init_adapter(shape, 64, 64, TARGETS, jax.random.key(0)))
    gradient = 4 * parameter_count(adapter.weights)
    assert alone.exchanged_bytes == 0
    assert four.exchanged_bytes == 2 * gradient * 3 / 4
    parts = config(lora_rank=64, rollout_batch_size=4, num_return_sequences_in_group=8, mesh={"model": 4})
    # Forward, twice where nothing is kept, backward and the reference: two sums of a float32 residual stream in each.
    sums = 2 * 28 * 4 * 4 * 3584 * step_cost(parts, shape, devices=4, **lengths).update_tokens
    assert step_cost(parts, shape, devices=4, **lengths).exchanged_bytes == 2 * sums * 3 / 4
