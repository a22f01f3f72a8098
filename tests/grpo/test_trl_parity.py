"""The objective against TRL's GRPOTrainer: its own `compute_loss`, given the same log-probabilities.

Where TRL defines a thing otherwise, the test says so and states the relation between both.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aflow_jax.grpo import policy_loss, truncated_importance_weights

torch = pytest.importorskip("torch", reason="TRL is compared with where it is installed")
trl = pytest.importorskip("trl", reason="TRL is compared with where it is installed")

LOSS_TYPES = ["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo"]
LENGTHS = np.array([9, 1, 4, 7, 6, 9])
CONSTANT = 11  # dr_grpo's, not the width of the batch


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A real trainer over a model of a few hundred weights; only its log-probabilities are given to it."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    class GivenLogprobs(trl.GRPOTrainer):
        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            return self.given

    words = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 2}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "eos_token_id": 1, "bos_token_id": 0}
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        per_device_train_batch_size=len(LENGTHS),
        num_generations=2,
        max_completion_length=CONSTANT,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    return GivenLogprobs(
        model=Qwen2ForCausalLM(Qwen2Config(**shape, **heads)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>"),
    )


def example(seed):
    """Log-probabilities of the policy, old, reference and sampler; advantages; mask; entropies."""
    random = np.random.default_rng(seed)
    shape = (len(LENGTHS), LENGTHS.max())
    logprobs = -random.exponential(1.0, shape)
    old, ref, sampler = (logprobs + random.normal(0, deviation, shape) for deviation in (0.4, 0.5, 0.5))
    advantages = np.array([1.3, -0.7, -1.1, 0.9, 0.4, -0.2])
    mask = np.arange(shape[1]) < LENGTHS[:, None]
    return logprobs, old, ref, sampler, advantages, mask, random.exponential(1.0, shape)


def trl_loss(
    trainer, arrays, loss_type, *, beta=0.0, correct_kl=False, low=0.2, high=0.2, delta=None, weights=None,
    entropy_coef=0.0, on_policy=False,
):  # fmt: skip
    """TRL's loss, its gradient with respect to the log-probabilities, and the metrics it logs."""
    logprobs, old, ref, _, advantages, mask, entropies = (torch.tensor(array) for array in arrays)
    trainer.loss_type = "grpo" if loss_type == "gspo" else loss_type
    trainer.importance_sampling_level = "sequence" if loss_type == "gspo" else "token"
    trainer.beta, trainer.epsilon_low = beta, low
    # TRL's cispo takes the bound of the ratio itself.
    trainer.epsilon_high = 1 + high if loss_type == "cispo" else high
    trainer.args.delta, trainer.args.use_bias_correction_kl = delta, correct_kl
    trainer.entropy_coef, trainer._entropy_bonus_enabled = entropy_coef, entropy_coef != 0
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = weights is not None, weights is not None
    trainer.current_gradient_accumulation_steps = 1
    trainer._metrics["train"].clear()
    trainer.model.train()
    logprobs.requires_grad_(True)
    trainer.given = (logprobs, entropies, None)
    inputs = {
        "prompt_ids": torch.zeros((len(mask), 1), dtype=torch.long),
        "prompt_mask": torch.ones((len(mask), 1), dtype=torch.long),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    if not on_policy:
        inputs["old_per_token_logps"] = old
    if weights is not None:
        inputs["importance_sampling_ratio"] = torch.tensor(weights)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    metrics = {name: values[0] for name, values in trainer._metrics["train"].items()}
    return float(loss), logprobs.grad.numpy(), metrics


def our_loss(arrays, loss_type, *, on_policy=False, **options):
    logprobs, old, ref, _, advantages, mask, entropies = (
        np.asarray(array, np.float32) if array.dtype != bool else array for array in arrays
    )
    if loss_type == "cispo":
        options["clip_low"] = 1.0  # TRL's cispo has no lower clip

    def loss(logprobs):
        return policy_loss(
            logprobs, None if on_policy else old, ref, advantages, mask, loss_type=loss_type, entropies=entropies,
            max_completion_length=CONSTANT, **options,
        )  # fmt: skip

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logprobs))
    return float(value), np.asarray(gradient), metrics


def assert_same(ours, theirs, scale=1.0):
    assert ours[0] == pytest.approx(theirs[0] * scale, rel=5e-6, abs=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1] * scale, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(("beta", "correct_kl"), [(0.0, False), (0.05, False), (0.05, True)])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_gradient_and_metrics_are_trls(trainer, loss_type, beta, correct_kl):
    arrays = list(example(0))
    arrays[1] = arrays[1] + np.array([0.6, 0.4, 0.4, -0.5, 0.0, 0.4])[:, None]  # sequences' ratios clip too
    ours = our_loss(arrays, loss_type, clip_low=0.1, clip_high=0.3, kl_coef=beta, kl_bias_correction=correct_kl)
    theirs = trl_loss(trainer, arrays, loss_type, low=0.1, high=0.3, beta=beta, correct_kl=correct_kl)
    assert_same(ours, theirs)
    names = {"entropy"} | ({"kl"} if beta else set())
    if loss_type != "cispo":  # TRL counts cispo's clips under another name, and those with positive advantages only
        names |= {"clip_ratio/low_mean", "clip_ratio/high_mean"}
        assert min(theirs[2]["clip_ratio/low_mean"], theirs[2]["clip_ratio/high_mean"]) > 0
    for name in names:
        assert float(ours[2][name]) == pytest.approx(theirs[2][name], rel=1e-5), name


@pytest.mark.parametrize("correct_kl", [False, True])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_first_update_is_trls(trainer, loss_type, correct_kl):
    arrays = example(1)
    ours = our_loss(arrays, loss_type, on_policy=True, kl_coef=0.02, kl_bias_correction=correct_kl)
    assert_same(ours, trl_loss(trainer, arrays, loss_type, beta=0.02, correct_kl=correct_kl, on_policy=True))


@pytest.mark.parametrize("loss_type", LOSS_TYPES[:-1])
def test_dual_clip_is_trls_delta(trainer, loss_type):
    arrays = list(example(2))
    arrays[1] = arrays[1] - 1.0
    ours, theirs = (
        our_loss(arrays, loss_type, dual_clip=1.5, kl_coef=0.0),
        trl_loss(trainer, arrays, loss_type, delta=1.5),
    )
    assert_same(ours, theirs)
    assert theirs[0] < trl_loss(trainer, arrays, loss_type)[0]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_truncated_importance_sampling_is_trls(trainer, loss_type, level):
    """TRL's modes `token_truncate` and `sequence_truncate`: its trainer clamps these ratios outside `compute_loss`."""
    arrays = example(3)
    _, old, _, sampler, _, mask, _ = arrays
    difference = (torch.tensor(old) - torch.tensor(sampler)) * torch.tensor(mask)
    difference = difference.sum(dim=-1, keepdim=True) if level == "sequence" else difference
    ratio = torch.clamp(torch.exp(difference), max=2.0).numpy()
    weights = truncated_importance_weights(np.float32(old), np.float32(sampler), mask, cap=2.0, level=level)
    np.testing.assert_allclose(weights, ratio, rtol=1e-5)
    assert_same(
        our_loss(arrays, loss_type, importance_weights=weights),
        trl_loss(trainer, arrays, loss_type, beta=0.005, weights=ratio),
    )


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo", "cispo"])
def test_the_entropy_bonus_is_trls_where_both_are_means_over_tokens(trainer, loss_type):
    """Under the others TRL's stays a mean over tokens, and ours is averaged as the rest of a token's cost is."""
    arrays = example(4)
    ours = our_loss(arrays, loss_type, entropy_coef=0.1, kl_coef=0.0)
    assert_same(ours, trl_loss(trainer, arrays, loss_type, entropy_coef=0.1))
    assert ours[0] < our_loss(arrays, loss_type, kl_coef=0.0)[0] - 0.05


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_sequence_that_is_masked_out_whole_counts_only_in_trls_means_over_sequences(trainer, loss_type):
    arrays = list(example(5))
    arrays[5] = arrays[5] & np.array([True, False, True, True, True, True])[:, None]
    scale = 6 / 5 if loss_type in ("grpo", "gspo", "dr_grpo") else 1.0
    assert_same(our_loss(arrays, loss_type, kl_coef=0.0), trl_loss(trainer, arrays, loss_type), scale)
