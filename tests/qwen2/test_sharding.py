"""What is cut over which axis of a mesh, and how a mesh comes of the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import ShardingRules, init_adapter, init_random, planned_mesh, published_shape
from aflow_jax.qwen2.sharding import interleave_rows, uninterleave_rows

SEVEN = published_shape("7B")


def rules(data: int, model: int, *, fsdp: bool = True) -> ShardingRules:
    return ShardingRules(planned_mesh(data, model, data * model), fsdp=fsdp)


@pytest.mark.parametrize(
    ("data", "model", "found"), [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, -1, (2, 4)), (1, 8, (1, 8))]
)
def test_one_axis_takes_what_the_other_leaves(data: int, model: int, found: tuple[int, int]) -> None:
    assert tuple(planned_mesh(data, model, 8).shape.values()) == found


@pytest.mark.parametrize(("data", "model"), [(-1, 3), (4, 4), (3, -1)])
def test_a_mesh_of_other_devices_than_there_are_is_refused(data: int, model: int) -> None:
    with pytest.raises(UserError, match=f"mesh: data {data} × model {model} does not make 8 devices"):
        planned_mesh(data, model, 8)


def test_outputs_of_one_projection_are_cut_where_inputs_of_the_next_are() -> None:
    of = rules(2, 4)
    assert of.weight("up_proj", (28, 18944, 3584)).spec == P(None, "model", "data")
    assert of.weight("down_proj", (28, 3584, 18944)).spec == P(None, "data", "model")
    assert of.weight("embedding", (152064, 3584)).spec == P("model", "data")
    assert of.weight("q_proj_bias", (28, 3584)).spec == P(None, "model")
    assert of.weight("input_layernorm", (28, 3584)).spec == P(None, None)
    assert rules(2, 4, fsdp=False).weight("up_proj", (28, 18944, 3584)).spec == P(None, "model", None)


def test_a_dimension_that_an_axis_does_not_divide_stays_whole() -> None:
    assert rules(1, 3).weight("up_proj", (28, 18944, 3584)).spec == P(None, None, "data")


def test_heads_of_the_cache_are_cut_or_where_they_are_too_few_their_width() -> None:
    keys, values = (64, 4, 128, 8192), (64, 4, 8192, 128)
    assert rules(2, 4).cache(keys, 2).spec == P("data", "model", None, None)
    assert rules(1, 8).cache(keys, 2).spec == P("data", None, "model", None)
    assert rules(1, 8).cache(values, 3).spec == P("data", None, None, "model")


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (2, 4), (1, 8)])
@pytest.mark.parametrize("quantization", [None, "int8", "nf4"])
def test_a_device_of_eight_holds_an_eighth(data: int, model: int, quantization: str | None) -> None:
    key = jax.eval_shape(lambda: jax.random.key(0))
    base = jax.eval_shape(lambda key: init_random(SEVEN, key, jnp.bfloat16, quantization), key)
    adapter = jax.eval_shape(lambda key: init_adapter(SEVEN, 64, 64, "q_proj,k_proj,v_proj,o_proj", key), key).weights
    one, eight = rules(1, 1), rules(data, model)
    # Norms are everywhere, and so are the numbers that a group of NF4's scales shares.
    assert one.model_bytes(base) / eight.model_bytes(base) == pytest.approx(8, rel=0.02)
    assert one.adapter_bytes(adapter) == 8 * eight.adapter_bytes(adapter)


def test_chunks_take_equally_many_values_of_each_device() -> None:
    values = np.arange(24).reshape(2, 12)
    chunks = interleave_rows(None, jnp.asarray(values), 3)
    np.testing.assert_array_equal(
        chunks, [[0, 1, 2, 3, 12, 13, 14, 15], [4, 5, 6, 7, 16, 17, 18, 19], [8, 9, 10, 11, 20, 21, 22, 23]]
    )
    np.testing.assert_array_equal(uninterleave_rows(chunks, 2), values)
