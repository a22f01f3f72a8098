"""All published Qwen2.5 sizes: parameter counts, and the tensors that their checkpoints hold."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from aflow_jax.qwen2 import Qwen2Config, init_adapter, init_random, parameter_count
from aflow_jax.qwen2.checkpoint import tensor_shapes

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "qwen25_configs"

# hidden, intermediate, layers, heads, key/value heads, vocabulary, tied: parameters, tensors, rank 64 on q, k, v, o
SIZES = {
    "0.5B": ((896, 4864, 24, 14, 2, 151936, True), 494_032_768, 290, 8_650_752),
    "1.5B": ((1536, 8960, 28, 12, 2, 151936, True), 1_543_714_304, 338, 17_432_576),
    "3B": ((2048, 11008, 36, 16, 2, 151936, True), 3_085_938_688, 434, 29_491_200),
    "7B": ((3584, 18944, 28, 28, 4, 152064, False), 7_615_616_512, 339, 40_370_176),
    "14B": ((5120, 13824, 48, 40, 8, 152064, False), 14_770_033_664, 579, 100_663_296),
    "32B": ((5120, 27648, 64, 40, 8, 152064, False), 32_763_876_352, 771, 134_217_728),
    "72B": ((8192, 29568, 80, 64, 8, 152064, False), 72_706_203_648, 963, 262_144_000),
}


def config_of(size: str) -> Qwen2Config:
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SIZES[size][0]
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_published_number_of_parameters(size):
    config, (_, parameters, tensors, adapter) = config_of(size), SIZES[size]
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
    assert Qwen2Config.from_folder(folder) == config_of(size)


@pytest.mark.parametrize("size", SIZES)
def test_transformers_gives_that_shape_the_same_tensors(size):
    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    from transformers import Qwen2Config as TheirConfig
    from transformers import Qwen2ForCausalLM

    config = config_of(size)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(TheirConfig(**config.to_dict()))
    named = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert named == tensor_shapes(config)
