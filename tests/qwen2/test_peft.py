"""Adapters and merged models, exchanged with peft and transformers in both directions."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY, write_model
from safetensors.numpy import load_file, save_file

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import TARGETS, Adapter, export_merged, init_adapter, load_peft, load_pretrained, save_peft

CONFIG = SHAPES["heads 4 over 4, untied"].config()
ROWS = np.random.default_rng(2).integers(0, VOCABULARY, (2, 9)).astype(np.int32)
LOGITS = jax.jit(lambda model, adapter: model.logits(ROWS, None, adapter))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_model(CONFIG, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    new = init_adapter(CONFIG, 3, 6, TARGETS, jax.random.key(1), dropout=0.1)
    noise = np.random.default_rng(5)
    return new.replace_weights(
        jax.tree.map(lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32), new.weights)
    )


@pytest.fixture(scope="module")
def expected(base, adapter) -> np.ndarray:
    """Our logits with the adapter, which no part of this file may change."""
    return np.asarray(LOGITS(load_pretrained(base), adapter))


def torch_logits(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(ROWS, dtype=torch.long)).logits.numpy()


def test_peft_loads_our_adapter_and_computes_our_logits(base, adapter, expected, tmp_path):
    peft = pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    import torch
    from transformers import Qwen2ForCausalLM

    save_peft(adapter, tmp_path, base_model=str(base))
    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    plain = torch_logits(model)
    found = torch_logits(peft.PeftModel.from_pretrained(model, str(tmp_path)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - plain).max() > 0.1


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["alpha / r", "alpha / sqrt(r)"])
def test_we_load_what_peft_saved_and_compute_its_logits(base, tmp_path, rank_stabilised):
    peft = pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=0.2,
        target_modules=["q_proj", "v_proj", "down_proj"],
        init_lora_weights=False,
        use_rslora=rank_stabilised,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32), settings)
    model.save_pretrained(str(tmp_path))
    ours = load_peft(tmp_path, CONFIG)
    assert (ours.rank, ours.targets, ours.dropout) == (4, ("q_proj", "v_proj", "down_proj"), 0.2)
    assert ours.scale == pytest.approx(6 / 2 if rank_stabilised else 6 / 4)
    np.testing.assert_allclose(LOGITS(load_pretrained(base), ours), torch_logits(model), atol=1e-4)


def test_an_adapter_survives_its_folder(adapter, tmp_path):
    save_peft(adapter, tmp_path, base_model="Qwen/Qwen2.5-7B-Instruct")
    again = load_peft(tmp_path, CONFIG)
    assert (again.scale, again.dropout) == (adapter.scale, adapter.dropout)
    jax.tree.map(np.testing.assert_array_equal, again.weights, adapter.weights)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"], values["use_rslora"]) == (3, 6, False)
    assert values["base_model_name_or_path"] == "Qwen/Qwen2.5-7B-Instruct"


def test_the_merged_model_needs_no_adapter_here_or_in_transformers(base, adapter, expected, tmp_path):
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        (base / name).write_text(f'{{"file": "{name}"}}')
    export_merged(base, adapter, tmp_path)
    np.testing.assert_allclose(LOGITS(load_pretrained(tmp_path), None), expected, atol=1e-4)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (base / name).read_bytes()
        (base / name).unlink()
    (tmp_path / "generation_config.json").unlink()

    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    from transformers import Qwen2ForCausalLM

    found = torch_logits(Qwen2ForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_merging_keeps_the_dtype_of_the_base(base, adapter, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, half / "model.safetensors")
    export_merged(half, adapter, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {np.dtype(np.float16)}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["torch_dtype"] == "float16"
    name = "model.layers.1.self_attn.q_proj.weight"
    product = np.float64(adapter.weights["q_proj"]["a"][1]) @ np.float64(adapter.weights["q_proj"]["b"][1])
    np.testing.assert_allclose(merged[name], tensors[name] + adapter.scale * product.T, rtol=2e-3, atol=2e-3)


def test_the_base_is_never_overwritten(base, adapter):
    with pytest.raises(UserError, match="is the base model itself"):
        export_merged(base, adapter, base)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', found 'IA3'"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias must be 'none', found 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is not supported, found \['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base"),
        ({"r": 4}, r"layers\.0\.self_attn\.q_proj\.lora_A\.weight: expected shape \[4, 32\], found \[3, 32\]"),
        ({"r": None}, "r must be a positive integer"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(adapter, tmp_path, values, message):
    save_peft(adapter, tmp_path, base_model="base")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=message):
        load_peft(tmp_path, CONFIG)


def test_incomplete_folders_are_refused(adapter, tmp_path):
    with pytest.raises(UserError, match=r"has no adapter_config\.json: give a PEFT adapter folder"):
        load_peft(tmp_path, CONFIG)
    save_peft(adapter, tmp_path, base_model="base")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"up_proj\.lora_B\.weight is missing, expected shape \[72, 3\]"):
        load_peft(tmp_path, CONFIG)
    save_file(tensors | {"base_model.model.lm_head.lora_A.weight": np.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.lora_A\.weight is not part of an adapter on this model"):
        load_peft(tmp_path, CONFIG)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load_peft(tmp_path, CONFIG)
