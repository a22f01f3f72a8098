"""What a step costs: tokens, floating-point operations and bytes, as model, batch and lengths grow.

Counted are products of matrices, two operations for each multiplication and addition, as in Kaplan et al., 2020
(arXiv:2001.08361, section 2.1): everything else is less than a few per cent of them, and less the larger the model.

    sampling   every prompt once, and every token of every completion: layers, attention to what is before, head
    update     every completion, and its prompt once for those that run with it: the policy forward, perhaps forward
               again for what was not kept, and backward to the adapter; the frozen base has no gradient, so backward
               costs what forward does; the KL reference forward
    head       of completions alone; the gradient's product with it is made while the logits are there

Executing and grading workflows costs the device nothing.
"""

import dataclasses

from aflow_jax.assembly import learner_settings, planned_rules
from aflow_jax.config import Config
from aflow_jax.grpo.microbatches import completions_at_once, microbatch_rows
from aflow_jax.qwen2 import Qwen2Config
from aflow_jax.qwen2.adapter import parse_targets, target_sizes
from aflow_jax.qwen2.layers import layer_shapes

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 4.25 / 8}
"""Of a weight of the layers; NF4 has the scales of its blocks besides."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one GRPO step costs all devices together.

    Attributes:
      prompt_tokens: Tokens of prompts, each prompt once: what prefill runs.
      completion_tokens: Tokens drawn.
      update_tokens: Tokens that go through the model in the update, a pass: a prompt once for those that run with it.
      sampling_flops, update_flops: Floating-point operations.
      decode_bytes: Bytes that decoding reads from memory: the weights at each pass of the slots, and the caches.
      exchanged_bytes: Bytes that a device sends to others in the update: the adapter's gradient, and with `model` above
        1 the sums after attention and MLP.
    """

    prompt_tokens: int
    completion_tokens: int
    update_tokens: int
    sampling_flops: float
    update_flops: float
    decode_bytes: float
    exchanged_bytes: float

    @property
    def flops(self) -> float:
        """Floating-point operations of the step."""
        return self.sampling_flops + self.update_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Floating-point operations of one token in one forward pass.

    Attributes:
      layers: All projections, the adapter's products included.
      attention: With one token that it attends to, all layers.
      head: Its logits.
    """

    layers: float
    attention: float
    head: float

    def forward(self, length: float) -> float:
        """Of a token's layers when it attends to so many tokens."""
        return self.layers + self.attention * length


def token_cost(shape: Qwen2Config, *, rank: int = 0, targets: str = "") -> TokenCost:
    """Return what a token costs in a model of this shape, with an adapter where the rank is above 0."""
    matrices = sum(size[0] * size[1] for size in layer_shapes(shape).values() if len(size) == 2)
    sizes = target_sizes(shape)
    adapter = sum(rank * sum(sizes[target]) for target in parse_targets(targets)) if rank else 0
    return TokenCost(
        layers=2.0 * shape.num_hidden_layers * (matrices + adapter),
        # A product with the keys and one with the values.
        attention=4.0 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim,
        head=2.0 * shape.vocab_size * shape.hidden_size,
    )


def step_cost(
    config: Config,
    shape: Qwen2Config,
    *,
    prompt_length: int | None = None,
    completion_length: int | None = None,
    dtype: str = "bfloat16",
    devices: int = 1,
) -> StepCost:
    """Return the cost of a step whose prompts and completions have these lengths; None takes the longest allowed.

    With B problems and K completions of each, B · prompts are run and B · K completions drawn; the update runs B · K
    completions, and a prompt once for as many of them as a microbatch has room for. Attention grows with the square of
    the length, all else with the tokens. What padding adds is not counted (`update/padding_ratio` says how much it is).
    `devices` are laid out as `config.mesh` says.
    """
    problems, samples = config.rollout_batch_size, config.num_return_sequences_in_group
    prompt = prompt_length or config.prompt_max_length
    completion = completion_length or config.max_new_tokens
    settings, sequences = learner_settings(config), problems * samples
    base, tuned = token_cost(shape), token_cost(shape, rank=config.lora_rank, targets=config.lora_target_modules)

    prefill = problems * prompt * tuned.forward(prompt / 2)
    decoding = sequences * completion * (tuned.forward(prompt + completion / 2) + tuned.head)

    rules = planned_rules(config, devices)
    most = max(1, microbatch_rows(sequences, settings.microbatch_size) // rules.data)
    room = most * (config.prompt_max_length + config.max_new_tokens)
    runs = problems * -(-samples // min(samples, completions_at_once(prompt, completion, room)))
    tokens = runs * prompt + sequences * completion
    # Attention runs each sequence whole, and a token of it attends to half of the length on average.
    pairs = sequences * (prompt + completion) ** 2 / 2
    heads = sequences * completion * base.head
    update = _update_flops(base, tuned, tokens, pairs, heads, settings.remat, bool(settings.kl_coef))
    return StepCost(
        prompt_tokens=problems * prompt,
        completion_tokens=sequences * completion,
        update_tokens=tokens,
        sampling_flops=prefill + decoding,
        update_flops=settings.ppo_epochs * update,
        decode_bytes=_decode_bytes(config, shape, prompt, completion, dtype),
        exchanged_bytes=settings.ppo_epochs * _exchanged_bytes(config, shape, tokens, rules.data, rules.model),
    )


def _update_flops(
    base: TokenCost, tuned: TokenCost, tokens: int, pairs: float, heads: float, remat: str, with_reference: bool
) -> float:
    """Given the tokens, the pairs of a token and one that it attends to, and what the completions' logits cost once."""
    attention = pairs * tuned.attention
    forward = tokens * tuned.layers + attention
    adapter = tokens * (tuned.layers - base.layers)
    # Backward to the inputs costs what forward does, to the adapter's matrices what their products did; attention's has
    # five products where forward has two.
    backward = tokens * tuned.layers + 2.5 * attention + adapter
    again = forward if remat == "full" else 0.0
    reference = tokens * base.layers + attention + heads if with_reference else 0.0
    return forward + again + backward + 2 * heads + reference


def _decode_bytes(config: Config, shape: Qwen2Config, prompt: int, completion: int, dtype: str) -> float:
    problems = config.rollout_batch_size
    sequences = problems * config.num_return_sequences_in_group
    matrices = sum(size[0] * size[1] for size in layer_shapes(shape).values() if len(size) == 2)
    layers = shape.num_hidden_layers * matrices * _BYTES[config.quantization or dtype]
    head = shape.vocab_size * shape.hidden_size * _BYTES[dtype]
    passes = completion * -(-sequences // config.sampling_slots)
    a_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * _BYTES[dtype]
    # A prompt is read once for all its completions.
    return passes * (layers + head) + completion * (problems * prompt + sequences * completion / 2) * a_token


def _exchanged_bytes(config: Config, shape: Qwen2Config, tokens: int, data: int, model: int) -> float:
    """Of a ring's sum of n bytes over d devices each sends 2 n (d − 1) / d (Thakur et al., 2005)."""
    sizes = target_sizes(shape)
    adapter = shape.num_hidden_layers * sum(
        config.lora_rank * sum(sizes[target]) for target in parse_targets(config.lora_target_modules)
    )
    gradient = 2 * 4 * adapter * (data - 1) / data
    passes = 2 + (learner_settings(config).remat == "full") + bool(config.kl_loss_coef)
    sums = 2 * shape.num_hidden_layers * passes * 4 * shape.hidden_size * tokens / data
    return gradient + 2 * sums * (model - 1) / model
