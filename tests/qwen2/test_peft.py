"""Adapters as PEFT folders, exchanged with peft in both directions."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exchange import CONFIG, LOGITS, torch_logits
from safetensors.numpy import load_file, save_file

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import TARGETS, Adapter, init_adapter, load_peft, load_pretrained, save_peft


def test_peft_loads_our_adapter_and_computes_our_logits(base, adapter, expected, tmp_path):
    pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    import torch
    from transformers import Qwen2ForCausalLM

    save_peft(adapter, tmp_path, base_model=str(base))
    plain = torch_logits(Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32))
    found = logits_with_peft(base, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - plain).max() > 0.1


ONE_OR_ALL_BUT_ONE = [*((name,) for name in TARGETS), *(tuple(set(TARGETS) - {name}) for name in TARGETS), TARGETS]


@pytest.mark.parametrize("rslora", [False, True], ids=["alpha / r", "alpha / sqrt(r)"])
def test_adapters_on_any_targets_go_to_peft_and_back(base, tmp_path, rslora):
    pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    for at, targets in enumerate(ONE_OR_ALL_BUT_ONE):
        theirs, ours = tmp_path / f"theirs {at}", tmp_path / f"ours {at}"
        logits = save_with_peft(base, theirs, target_modules=list(targets), use_rslora=rslora)
        adapter = load_peft(theirs, CONFIG)
        assert (adapter.rank, set(adapter.targets), adapter.dropout) == (4, set(targets), 0.2)
        assert adapter.scale == (6 / 2 if rslora else 6 / 4)
        np.testing.assert_allclose(LOGITS(load_pretrained(base, "float32"), on_all_targets(adapter)), logits, atol=1e-4)
        save_peft(adapter, ours, base_model=str(base))
        np.testing.assert_array_equal(logits_with_peft(base, ours), logits)


@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        ({"target_modules": "all-linear"}, TARGETS),
        ({"target_modules": r"model\.layers\.\d+\.mlp\.(up|down)_proj"}, ("up_proj", "down_proj")),
        ({"target_modules": ["self_attn.q_proj", "self_attn.v_proj"]}, ("q_proj", "v_proj")),
        ({"target_modules": "all-linear", "exclude_modules": ["o_proj"]}, tuple(set(TARGETS) - {"o_proj"})),
    ],
    ids=["all-linear", "a pattern", "longer names", "exclusions"],
)
def test_however_peft_was_told_its_targets_they_are_those_that_it_saved(base, tmp_path, settings, targets):
    pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    logits = save_with_peft(base, tmp_path, **settings)
    adapter = load_peft(tmp_path, CONFIG)
    assert set(adapter.targets) == set(targets)
    np.testing.assert_allclose(LOGITS(load_pretrained(base, "float32"), on_all_targets(adapter)), logits, atol=1e-4)


def test_an_adapter_that_peft_saved_in_bfloat16_is_read_exactly(base, tmp_path):
    peft = pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    import torch
    from transformers import Qwen2ForCausalLM

    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["k_proj"], init_lora_weights=False)
    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16)
    peft.get_peft_model(model, settings, autocast_adapter_dtype=False).save_pretrained(str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    adapter = load_peft(tmp_path, CONFIG)
    for layer in range(CONFIG.num_hidden_layers):
        matrix = saved[f"base_model.model.model.layers.{layer}.self_attn.k_proj.lora_A.weight"]
        assert matrix.dtype.name == "bfloat16"
        np.testing.assert_array_equal(adapter.weights["k_proj"]["a"][layer], matrix.astype(np.float32).T)


def save_with_peft(base: Path, folder: Path, **settings: object) -> np.ndarray:
    """Save an adapter of random matrices as PEFT does; return PEFT's logits with it."""
    import peft
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    values = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.2, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**values, **settings))
    adapted.save_pretrained(str(folder))
    return torch_logits(adapted)


def logits_with_peft(base: Path, folder: Path) -> np.ndarray:
    """Return PEFT's logits with the adapter of a folder."""
    import peft
    import torch
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    return torch_logits(peft.PeftModel.from_pretrained(model, str(folder)))


def on_all_targets(adapter: Adapter) -> Adapter:
    """Return the same adapter with zeros on its other targets, so that one compiled program serves all."""
    zeros = init_adapter(CONFIG, adapter.rank, 1, TARGETS, jax.random.key(0)).weights
    zeros = jax.tree.map(jnp.zeros_like, zeros)
    # Which way the scale came about makes no difference to the program either.
    return dataclasses.replace(adapter, weights={**zeros, **adapter.weights}, rslora=False)


def test_a_rank_stabilised_adapter_survives_its_folder(tmp_path):
    adapter = init_adapter(CONFIG, 8, 16, "q_proj", jax.random.key(0), rslora=True)
    assert adapter.scale == 16 / 8**0.5
    save_peft(adapter, tmp_path, base_model="Qwen/Qwen2.5-7B-Instruct")
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (values["lora_alpha"], values["use_rslora"]) == (16, True)
    again = load_peft(tmp_path, CONFIG)
    assert (again.scale, again.rslora) == (adapter.scale, True)


def test_an_adapter_survives_its_folder(adapter, tmp_path):
    save_peft(adapter, tmp_path, base_model="Qwen/Qwen2.5-7B-Instruct")
    again = load_peft(tmp_path, CONFIG)
    assert (again.scale, again.dropout, again.rslora) == (adapter.scale, adapter.dropout, adapter.rslora)
    jax.tree.map(np.testing.assert_array_equal, again.weights, adapter.weights)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"], values["use_rslora"]) == (3, 6, False)
    assert values["base_model_name_or_path"] == "Qwen/Qwen2.5-7B-Instruct"


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
