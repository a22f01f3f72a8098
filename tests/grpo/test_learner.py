"""The update: its gradient is the objective's, however it is divided, and a step that teaches nothing moves nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aflow_jax.errors import UserError
from aflow_jax.grpo import Batch, Learner, LearnerSettings, policy_loss, token_logprobs
from aflow_jax.grpo import learner as learner_module
from aflow_jax.grpo.microbatches import split_into_microbatches

LENGTHS = ((3, 6), (7, 2), (1, 9), (5, 1), (2, 12), (4, 4))  # prompt and completion of each row
TEMPERATURE = 0.8
SETTINGS = LearnerSettings(microbatch_size=2, max_grad_norm=0.0, kl_coef=0.1)

whole_logprobs = jax.jit(token_logprobs)
whole_logits = jax.jit(lambda model, tokens, lengths, adapter: model.logits(tokens, lengths, adapter))


@pytest.fixture(scope="module")
def batch(model, adapter):
    """A batch whose log-probabilities are the adapter's own."""
    random = np.random.default_rng(0)
    prompts = [list(random.integers(0, 97, prompt)) for prompt, _ in LENGTHS]
    completions = [list(random.integers(0, 97, completion)) for _, completion in LENGTHS]
    blank = Batch.from_rollouts(
        prompts=prompts,
        completions=completions,
        logprobs=[[0.0] * len(completion) for completion in completions],
        advantages=[1.0, -0.5, 0.7, -1.2, 0.4, -0.4],
    )
    sampled = whole_logprobs(model, adapter, blank.tokens, blank.lengths, TEMPERATURE)
    return dataclasses.replace(blank, logprobs=np.asarray(sampled))


def gradient_of(learner):
    """The gradient of the learner's first step, from AdamW's first moment (clipping off)."""
    return jax.tree.map(lambda moment: 10 * moment, optax.tree.get(learner.state.optimizer_state, "mu"))


def assert_close(got, expected, tolerance):
    """Equal up to `tolerance` times the whole gradient's norm."""
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, got, expected))
    assert float(difference / optax.tree.norm(expected)) < tolerance


def assert_same_bits(got, expected):
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(left, right)


def copy(state):
    return jax.tree.map(np.array, state)


@jax.jit
def whole_objective(model, adapter, batch, old, weights):
    """Value, metrics and gradient of the objective with KL coefficient 0.1, in one piece."""
    reference = token_logprobs(model, None, batch["tokens"], batch["lengths"], TEMPERATURE)

    def loss(adapter_weights):
        current = adapter.replace_weights(adapter_weights)
        logprobs = token_logprobs(model, current, batch["tokens"], batch["lengths"], TEMPERATURE)
        return policy_loss(
            logprobs, old, reference, batch["advantages"], batch["loss_mask"], kl_coef=0.1, importance_weights=weights
        )

    return jax.value_and_grad(loss, has_aux=True)(adapter.weights)


def arrays(batch):
    return {name: getattr(batch, name) for name in ("tokens", "lengths", "advantages", "loss_mask")}


def test_the_step_follows_the_gradient_of_the_whole_batchs_objective(model, adapter, batch):
    learner = Learner(model, adapter, SETTINGS)
    metrics = learner.update(batch, TEMPERATURE)
    weights = np.ones_like(batch.logprobs)
    (loss, expected_metrics), gradient = whole_objective(model, adapter, arrays(batch), batch.logprobs, weights)
    assert_close(gradient_of(learner), gradient, 1e-5)
    assert metrics["loss"] == pytest.approx(float(loss), abs=1e-6)
    assert metrics["kl"] == pytest.approx(float(expected_metrics["kl"]), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert metrics["learning_rate"] == pytest.approx(2e-5 / 101)


def test_a_batch_sampled_ahead_takes_the_sampler_as_old_and_truncates_the_ratio(model, adapter, batch):
    noise = np.random.default_rng(2).normal(0, 0.6, batch.logprobs.shape)
    sampler = np.where(batch.loss_mask, np.float32(batch.logprobs + noise), np.float32(np.nan))
    learner = Learner(model, adapter, SETTINGS)
    metrics = learner.update(dataclasses.replace(batch, logprobs=sampler), TEMPERATURE, off_policy=True)
    ratio = np.exp(np.where(batch.loss_mask, batch.logprobs - sampler, 0.0))
    assert ratio.max() > 2
    weights = np.minimum(1.0, 2.0 / ratio).astype(np.float32)
    (loss, expected_metrics), gradient = whole_objective(model, adapter, arrays(batch), sampler, weights)
    assert_close(gradient_of(learner), gradient, 1e-5)
    assert metrics["loss"] == pytest.approx(float(loss), abs=1e-5)
    for name in ("ratio/max", "clip_ratio/low_mean", "clip_ratio/high_mean"):
        assert metrics[name] == pytest.approx(float(expected_metrics[name]), rel=1e-4)
    assert min(metrics["clip_ratio/low_mean"], metrics["clip_ratio/high_mean"]) > 0


def test_microbatches_give_the_gradient_of_the_whole_batch(model, adapter, batch):
    divided = Learner(model, adapter, SETTINGS)
    whole = Learner(model, adapter, dataclasses.replace(SETTINGS, microbatch_size=6))
    metrics, expected = divided.update(batch, TEMPERATURE), whole.update(batch, TEMPERATURE)
    assert_close(gradient_of(divided), gradient_of(whole), 1e-6)
    assert (metrics["update/microbatch_size"], expected["update/microbatch_size"]) == (2, 6)
    for name in expected.keys() - {"update/padding_ratio", "update/microbatch_size"}:
        assert metrics[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_the_first_ratio_is_exactly_one_and_the_samplers_logprobs_agree(model, adapter, batch):
    metrics = Learner(model, adapter, SETTINGS).update(batch, TEMPERATURE)
    assert metrics["ratio/mean"] == metrics["ratio/max"] == 1.0
    assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0.0
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-5


def test_the_gap_to_the_sampler_is_measured_in_log_probabilities_and_in_probabilities(model, adapter, batch):
    off = np.random.default_rng(1).normal(0, 0.5, batch.logprobs.shape).astype(np.float32)
    metrics = Learner(model, adapter, SETTINGS).update(
        dataclasses.replace(batch, logprobs=batch.logprobs + off), TEMPERATURE
    )
    gap = np.abs(off)[batch.loss_mask]
    probability_gap = np.abs(np.exp(batch.logprobs + off) - np.exp(batch.logprobs))[batch.loss_mask]
    for name, values in (("sampling_logp_difference", gap), ("probability_difference", probability_gap)):
        assert metrics[f"sampling/{name}/mean"] == pytest.approx(values.mean(), rel=1e-4)
        assert metrics[f"sampling/{name}/max"] == pytest.approx(values.max(), rel=1e-4)


def test_an_update_with_learning_rate_zero_changes_no_greedy_token(model, adapter, batch):
    learner = Learner(model, adapter, dataclasses.replace(SETTINGS, learning_rate=0.0, ppo_epochs=2))
    before = np.asarray(whole_logits(model, batch.tokens, batch.lengths, adapter))
    for _ in range(2):
        learner.update(batch, TEMPERATURE)
    assert_same_bits(learner.state.adapter_weights, adapter.weights)
    after = np.asarray(whole_logits(model, batch.tokens, batch.lengths, learner.adapter))
    np.testing.assert_array_equal(after.argmax(-1), before.argmax(-1))


def test_void_rows_change_no_bit(model, adapter, batch):
    void = np.array([False, True, False, False, True, False])
    spoiled = dataclasses.replace(
        batch,
        loss_mask=batch.loss_mask & ~void[:, None],
        logprobs=np.where(void[:, None], np.nan, batch.logprobs),
        advantages=np.where(void, np.nan, batch.advantages),
    )
    fewer = Batch(
        tokens=batch.tokens[~void],
        lengths=batch.lengths[~void],
        loss_mask=batch.loss_mask[~void],
        logprobs=batch.logprobs[~void],
        advantages=batch.advantages[~void],
    )
    learners = Learner(model, adapter, SETTINGS), Learner(model, adapter, SETTINGS)
    metrics = [learner.update(rows, TEMPERATURE) for learner, rows in zip(learners, (spoiled, fewer), strict=True)]
    assert metrics[0] == metrics[1]
    assert_same_bits(learners[0].state, learners[1].state)


def test_a_step_that_is_all_void_leaves_the_state_untouched(model, adapter, batch):
    learner = Learner(model, adapter, SETTINGS)
    learner.update(batch, TEMPERATURE)
    before = copy(learner.state)
    metrics = learner.update(dataclasses.replace(batch, loss_mask=np.zeros_like(batch.loss_mask)), TEMPERATURE)
    assert_same_bits(learner.state, before)
    assert metrics["update/skipped"] == 1.0
    assert metrics["update/tokens"] == 0.0


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(model, adapter, batch):
    learner = Learner(model, adapter, SETTINGS)
    before = copy(learner.state)
    metrics = learner.update(dataclasses.replace(batch, advantages=np.full(6, np.inf)), TEMPERATURE)
    assert metrics["update/skipped"] == 1.0
    assert_same_bits(learner.state, before)
    assert learner.update(batch, TEMPERATURE)["update/skipped"] == 0.0


def test_truncated_completions_leave_the_loss_when_asked(model, adapter, batch):
    truncated = np.array([True, False, True, False, False, True])
    asked = Learner(model, adapter, dataclasses.replace(SETTINGS, mask_truncated=True))
    asked.update(dataclasses.replace(batch, truncated=truncated), TEMPERATURE)
    by_hand = Learner(model, adapter, dataclasses.replace(SETTINGS, mask_truncated=True))
    by_hand.update(dataclasses.replace(batch, loss_mask=batch.loss_mask & ~truncated[:, None]), TEMPERATURE)
    assert_same_bits(asked.state, by_hand.state)


def test_later_epochs_move_away_from_the_sampler_and_learn_the_batch(model, adapter, batch):
    settings = dataclasses.replace(SETTINGS, ppo_epochs=4, learning_rate=5e-3, warmup_steps=0)
    learner = Learner(model, adapter, settings)
    metrics = learner.update(batch, TEMPERATURE)
    assert int(learner.state.step) == 4
    assert metrics["ratio/max"] > 1.0
    after = np.asarray(whole_logprobs(model, learner.adapter, batch.tokens, batch.lengths, TEMPERATURE))
    gained = ((after - batch.logprobs) * batch.loss_mask).sum(1)
    assert np.sum(np.sign(gained) * batch.advantages) > 0
    assert np.all(gained[batch.advantages > 0] > 0)


def test_the_same_state_and_batch_give_the_same_step_and_dropout_comes_from_seed_and_step(model, adapter, batch):
    dropped = dataclasses.replace(adapter, dropout=0.3)
    first, second = Learner(model, dropped, SETTINGS), Learner(model, dropped, SETTINGS)
    metrics = first.update(batch, TEMPERATURE)
    assert metrics == second.update(batch, TEMPERATURE)
    # The gap to the sampler is measured with dropout off.
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-5
    saved = copy(first.state)
    again = first.update(batch, TEMPERATURE)
    assert again["loss"] != metrics["loss"]  # another step, another mask
    second.state = jax.tree.map(jnp.asarray, saved)
    assert second.update(batch, TEMPERATURE) == again
    assert_same_bits(first.state, second.state)


def out_of_memory_when(monkeypatch, fails, message="RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 GiB."):
    """Let the compiled gradient fail as a device does: the runtime's own error, the donated buffers gone.

    `fails` is asked with the sizes of all microbatches so far; those sizes are returned.
    """
    compiled, sizes = learner_module.add_policy_gradient, []

    def call(model, adapter, gradient, part, *others, **options):
        sizes.append(len(part.tokens))
        if fails(sizes):
            jax.tree.map(lambda donated: donated.delete(), gradient)
            raise jax.errors.JaxRuntimeError(message)
        return compiled(model, adapter, gradient, part, *others, **options)

    monkeypatch.setattr(learner_module, "add_policy_gradient", call)
    return sizes


@pytest.fixture
def four(batch):
    """The first four rows of the batch."""
    cut = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return Batch(**{name: None if values is None else values[:4] for name, values in cut.items()})


def test_a_step_that_runs_out_of_memory_is_made_with_smaller_microbatches_then_and_later(
    model, adapter, four, monkeypatch, caplog
):
    steady = Learner(model, adapter, dataclasses.replace(SETTINGS, microbatch_size=1))
    expected = steady.update(four, TEMPERATURE), steady.update(four, TEMPERATURE)
    learner = Learner(model, adapter, dataclasses.replace(SETTINGS, microbatch_size=4))
    # Four rows are too many at once; two are too many for the second microbatch, when the first is accumulated.
    sizes = out_of_memory_when(monkeypatch, lambda sizes: sizes in ([4], [4, 2, 2]))
    metrics = learner.update(four, TEMPERATURE)
    assert sizes == [4, 2, 2, 1, 1, 1, 1]
    assert [record.getMessage()[:64] for record in caplog.records] == [
        "out of device memory with 4 sequences at a time: the step is mad",
        "out of device memory with 2 sequences at a time: the step is mad",
    ]
    assert (metrics, learner.update(four, TEMPERATURE)) == expected
    assert sizes[7:] == [1, 1, 1, 1]
    assert_same_bits(learner.state, steady.state)


def test_short_sequences_that_took_the_room_of_long_ones_are_fewer_after_running_out_of_memory(
    model, adapter, four, monkeypatch, caplog
):
    longest = max(part.longest for part in split_into_microbatches(four, 1))
    settings = dataclasses.replace(SETTINGS, microbatch_size=1, longest_sequence=4 * longest)
    learner = Learner(model, adapter, settings)
    sizes = out_of_memory_when(monkeypatch, lambda sizes: max(sizes) > 1 and len(sizes) < 3)
    learner.update(four, TEMPERATURE)
    assert (sizes[0], sizes[1], set(sizes[2:])) == (4, 2, {1})
    assert [record.getMessage() for record in caplog.records] == [
        "out of device memory: the step is made with as many tokens at a time as 1 sequences of "
        f"{size * longest} have, and so are later ones; the gradient is the same"
        for size in (2, 1)
    ]


def test_one_sequence_that_does_not_fit_names_what_to_lower_and_costs_nothing(model, adapter, four, monkeypatch):
    learner = Learner(model, adapter, SETTINGS)
    learner.update(four, TEMPERATURE)
    before = copy(learner.state)
    out_of_memory_when(monkeypatch, lambda sizes: True)
    with pytest.raises(
        UserError, match=r"one sequence at a time: lower response_max_length or prompt_max_length"
    ) as error:
        learner.update(four, TEMPERATURE)
    assert "\n" not in str(error.value)
    assert_same_bits(learner.state, before)


def test_another_failure_of_the_device_is_no_matter_of_memory(model, adapter, four, monkeypatch):
    learner = Learner(model, adapter, SETTINGS)
    before = copy(learner.state)
    sizes = out_of_memory_when(monkeypatch, lambda sizes: True, "INTERNAL: the device is lost")
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is lost"):
        learner.update(four, TEMPERATURE)
    assert sizes == [2]
    assert_same_bits(learner.state, before)


def test_supervised_updates_minimise_the_cross_entropy_of_the_masked_tokens(model, adapter, batch):
    settings = LearnerSettings(learning_rate=0.05, warmup_steps=0, max_steps=40, microbatch_size=6, weight_decay=0.0)
    learner = Learner(model, adapter, settings)
    logprobs = np.asarray(whole_logprobs(model, adapter, batch.tokens, batch.lengths, 1.0))
    losses = [learner.supervised_update(batch.tokens, batch.lengths, batch.loss_mask)["loss"] for _ in range(25)]
    assert losses[0] == pytest.approx(-logprobs[batch.loss_mask].mean(), rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


def test_dr_grpo_needs_its_constant():
    with pytest.raises(ValueError, match="needs max_completion_length"):
        LearnerSettings(loss_type="dr_grpo")
