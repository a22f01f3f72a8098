"""The plan of a run on several devices: each one's share, and what does not shrink."""

import pytest

from aflow_jax.config import Config
from aflow_jax.memory import Device, found_shape, plan_memory

CPU = Device(name="a CPU", platform="cpu", capacity=2**40)
CREATED = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 4096,
}


def plan(devices: int, **mesh: object) -> dict[str, dict[str, int]]:
    config = Config(
        create_model=CREATED,
        synthetic_data={"train": 8, "test": 4},
        prompt_max_length=256,
        generation_config={"max_new_tokens": 256},
        rollout_batch_size=8,
        num_return_sequences_in_group=8,
        gradient_accumulation_steps=2,
        sampling_slots=64,
        lora_rank=8,
        mesh=mesh,
        eval_every=0,
    )
    return plan_memory(config, found_shape(config), CPU, devices=devices).phases


@pytest.mark.parametrize("mesh", [{"model": 1, "fsdp": True}, {"model": 2, "fsdp": True}, {"model": 8}])
def test_what_stays_falls_as_one_over_the_devices(mesh: dict) -> None:
    one, eight = plan(1)["update"], plan(8, **mesh)["update"]
    for term in ("weights", "adapter", "optimizer", "gradients"):
        assert one[term] / eight[term] == pytest.approx(8, rel=0.05), term


def test_a_base_that_every_row_of_the_mesh_holds_falls_with_model_alone() -> None:
    one, eight = plan(1)["update"], plan(8, model=2)["update"]
    assert one["weights"] / eight["weights"] == pytest.approx(2, rel=0.02)
    assert one["optimizer"] / eight["optimizer"] == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("mesh", [{"model": 1}, {"model": 4}])
def test_slots_are_divided_over_data_and_heads_over_model(mesh: dict) -> None:
    one, eight = plan(1), plan(8, **mesh)
    # Prompts on their way to their places are beside them, on every row of the mesh.
    assert one["sampling"]["KV cache"] / eight["sampling"]["KV cache"] > 4
