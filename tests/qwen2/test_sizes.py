"""All published Qwen2.5 sizes: parameter counts, and the tensors that their checkpoints hold."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from aflow_jax.qwen2 import Qwen2Config, init_adapter, init_random, parameter_count, published_shape
from aflow_jax.qwen2.checkpoint import tensor_shapes

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "qwen25_configs"

# parameters, tensors, parameters of rank 64 on q, k, v, o
SIZES = {
    "0.5B": (494_032_768, 290, 8_650_752),
    "1.5B": (1_543_714_304, 338, 17_432_576),
    "3B": (3_085_938_688, 434, 29_491_200),
    "7B": (7_615_616_512, 339, 40_370_176),
    "14B": (14_770_033_664, 579, 100_663_296),
    "32B": (32_763_876_352, 771, 134_217_728),
    "72B": (72_706_203_648, 963, 262_144_000),
}


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_published_number_of_parameters(size):
    config, (parameters, tensors, adapter) = published_shape(size), SIZES[size]
    model = jax.eval_shape(lambda key: init_random(config, key, jnp.bfloat16), jax.random.key(0))
    shapes = tensor_shapes(config)
    assert parameter_count(model) == sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert len(shapes) == tensors
    new = jax.eval_shape(
        lambda key: init_adapter(config, 64, 64, "q_proj,k_proj,v_proj,o_proj", key), jax.random.key(0)
    )
    assert parameter_count(new) == adapter


@pytest.mark.parametrize("size", SIZES)
def test_published_config_files_are_read_as_that_shape(size):
    folder = PUBLISHED / f"{size}-Instruct"
    if not folder.is_dir():
        pytest.skip(f"the published configurations are not at {PUBLISHED}")
    assert Qwen2Config.from_folder(folder) == published_shape(size)


@pytest.mark.parametrize("size", SIZES)
def test_transformers_gives_that_shape_the_same_tensors(size):
    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    from transformers import Qwen2Config as TheirConfig
    from transformers import Qwen2ForCausalLM

    config = published_shape(size)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(TheirConfig(**config.to_dict()))
    named = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert named == tensor_shapes(config)
