"""Constrained completions: only allowed tokens, the learner's log-probabilities, and nobody else notices.

Lanes here have four slots and a first prompt of bucket 128, so that they share their compiled programs.
"""

import dataclasses

import jax
import numpy as np
import pytest

from aflow_jax.errors import UserError
from aflow_jax.grpo import token_logprobs
from aflow_jax.sampling import Engine, Request, SamplingParams
from aflow_jax.workflow import Limits, WorkflowConstraint, operator_names, parse_completion

VOCABULARY = 320


@dataclasses.dataclass
class Rota:
    """Allows a set of tokens that depends on the place in the completion and on the token before."""

    place: int = 0
    before: int = 0

    def allowed(self) -> np.ndarray:
        return np.random.default_rng((self.place, self.before)).choice(VOCABULARY, 40, replace=False)

    def mask(self) -> np.ndarray:
        bits = np.zeros(VOCABULARY, bool)
        bits[self.allowed()] = True
        return np.packbits(bits, bitorder="little").view("<u4")

    def accept(self, token: int) -> None:
        assert token in self.allowed()
        self.place, self.before = self.place + 1, token


class RotaConstraint:
    def matcher(self, max_new_tokens: int) -> Rota:
        if max_new_tokens < 2:
            raise UserError("a rota needs two tokens")
        return Rota()


FREE = SamplingParams(max_new_tokens=12, temperature=0.9, stop_token_ids=())
ROTA = dataclasses.replace(FREE, constraint=RotaConstraint())


def make_engine(model, tokenizer):
    return Engine(model, tokenizer, slots=4, prompt_max_length=128, chunk_length=5)


def make_requests(prompts, samples=2):
    return [
        Request(prompt_tokens=prompt, seeds=tuple((place, sample) for sample in range(samples)))
        for place, prompt in enumerate(prompts)
    ]


def by_place(completions):
    return {(completion.request, completion.sample): completion for completion in completions}


_token_logprobs = jax.jit(token_logprobs)


def teacher_forced(model, adapter, completion, temperature):
    row = np.array([completion.prompt_tokens + completion.tokens], np.int32)
    padded = np.pad(row, ((0, 0), (0, 128 - row.shape[1])))
    logprobs = _token_logprobs(model, adapter, padded, np.array([row.shape[1]], np.int32), temperature)
    return np.asarray(logprobs)[0, len(completion.prompt_tokens) : row.shape[1]]


@pytest.mark.parametrize(
    ("temperature", "filters"),
    [(1.0, {}), (0.6, {"top_p": 0.7}), (1.3, {"top_k": 20, "min_p": 0.01}), (0.0, {})],
    ids=str,
)
def test_log_probabilities_are_those_that_the_learner_computes(
    model, tokenizer, adapter, prompts, temperature, filters
):
    params = dataclasses.replace(ROTA, temperature=temperature, **filters)
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:3]), params, adapter))
    assert len(completions) == 6
    for completion in completions:
        matcher = Rota()
        for token in completion.tokens:
            matcher.accept(token)
        expected = teacher_forced(model, adapter, completion, temperature or 1.0)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_the_most_probable_allowed_token_is_taken_at_temperature_zero(model, tokenizer, adapter, prompts):
    params = dataclasses.replace(ROTA, temperature=0.0)
    full = jax.jit(lambda model, adapter, row: model.logits(row, None, adapter))
    for completion in make_engine(model, tokenizer).generate(make_requests(prompts[:2], 1), params, adapter):
        row = np.array([completion.prompt_tokens + completion.tokens], np.int32)
        logits = np.asarray(full(model, adapter, np.pad(row, ((0, 0), (0, 128 - row.shape[1])))))[0]
        matcher = Rota()
        for place, token in enumerate(completion.tokens, start=len(completion.prompt_tokens) - 1):
            allowed = matcher.allowed()
            assert token == allowed[logits[place, allowed].argmax()]
            matcher.accept(token)


def run(engine, submissions):
    """Submit all, then step until nothing is left; return each completion by (request, sample)."""
    scheduler = engine.scheduler()
    for submission in submissions:
        scheduler.submit(*submission)
    ended = {}
    while not scheduler.idle:
        ended |= {(p.request, p.sample): p.completion for p in scheduler.step() if p.completion}
    return ended


def test_others_are_the_same_bit_for_bit_and_compile_nothing(model, tokenizer, adapter, prompts):
    engine, requests = make_engine(model, tokenizer), make_requests(prompts[:6])
    free = [(request, FREE, adapter) for request in requests[:3]]
    alone = run(engine, free)
    constrained = [(request, ROTA, adapter) for request in requests[3:]]
    constrained_alone = run(engine, constrained)
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        mixed = run(engine, [free[0], constrained[0], free[1], constrained[1], free[2], constrained[2]])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    for place in range(3):
        for sample in range(2):
            for found, expected in (
                (mixed[2 * place, sample], alone[place, sample]),
                (mixed[2 * place + 1, sample], constrained_alone[place, sample]),
            ):
                assert found.tokens == expected.tokens
                assert found.logprobs.tobytes() == expected.logprobs.tobytes()


def test_a_constrained_completion_depends_on_its_prompt_and_seeds_alone(model, tokenizer, adapter, prompts):
    engine, requests = make_engine(model, tokenizer), make_requests(prompts[:5])
    together = run(engine, [(request, ROTA, adapter) for request in requests])
    for place, request in enumerate(requests):
        for sample, completion in by_place(engine.generate([request], ROTA, adapter)).items():
            assert completion.tokens == together[place, sample[1]].tokens


def test_a_constraint_that_the_tokens_cannot_meet_is_refused_at_once(model, tokenizer, prompts):
    with pytest.raises(UserError, match="a rota needs two tokens"):
        run(
            make_engine(model, tokenizer),
            [(make_requests(prompts[:1])[0], dataclasses.replace(ROTA, max_new_tokens=1))],
        )


def test_a_random_model_writes_nothing_but_workflows_however_few_tokens_it_has(model, tokenizer, adapter, prompts):
    constraint = WorkflowConstraint(
        tokenizer.spellings(), VOCABULARY, tokenizer.eos_token_ids, operator_names(), Limits()
    )
    assert constraint.minimum_tokens > 20, "the tokenizer knows no words of the language"
    engine, requests = make_engine(model, tokenizer), make_requests(prompts[:4], 4)
    texts = set()
    for spare, temperature, filters in (
        (0, 1.0, {}),
        (1, 2.0, {}),
        (9, 3.0, {"top_k": 50, "top_p": 0.9}),
        (30, 0.0, {}),
    ):
        params = SamplingParams(
            max_new_tokens=constraint.minimum_tokens + spare, temperature=temperature, constraint=constraint, **filters
        )
        completions = list(engine.generate(requests, params, adapter))
        assert len(completions) == 16
        for completion in completions:
            assert completion.finish_reason == "stop"
            assert completion.tokens[-1] in tokenizer.eos_token_ids
            parse_completion(completion.text)
            texts.add(completion.text)
    assert len(texts) > 20
    with pytest.raises(UserError, match=f"needs {constraint.minimum_tokens} tokens"):
        list(engine.generate(requests, SamplingParams(max_new_tokens=4, constraint=constraint), adapter))
