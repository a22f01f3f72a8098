"""The engine: exact, streaming, independent of company, compiled once.

Nearly all calls here have the longest prompt and four slots, so that they share their compiled programs.
"""

import gc

import jax
import numpy as np
import pytest

from aflow_jax.errors import UserError
from aflow_jax.grpo import token_logprobs
from aflow_jax.qwen2 import load_pretrained
from aflow_jax.sampling import Engine, Request, SamplingParams, device_slots, sizes

GREEDY = SamplingParams(max_new_tokens=12, temperature=0.0, stop_token_ids=())
CHUNK = 5


def make_engine(model, tokenizer, slots=4, **settings):
    return Engine(model, tokenizer, slots=slots, prompt_max_length=128, chunk_length=CHUNK, **settings)


def make_requests(prompts, samples=1):
    return [
        Request(prompt_tokens=prompt, seeds=tuple((7, place, sample) for sample in range(samples)))
        for place, prompt in enumerate(prompts)
    ]


def by_place(completions):
    return {(completion.request, completion.sample): completion for completion in completions}


_token_logprobs = jax.jit(token_logprobs)


def teacher_forced(model, adapter, completion, temperature, width=128):
    """Log-probabilities of the completion's tokens, as the learner computes them."""
    row = np.array([completion.prompt_tokens + completion.tokens], np.int32)
    padded = np.pad(row, ((0, 0), (0, width - row.shape[1])))
    logprobs = _token_logprobs(model, adapter, padded, np.array([row.shape[1]], np.int32), temperature)
    return np.asarray(logprobs)[0, len(completion.prompt_tokens) : row.shape[1]]


def test_greedy_is_the_argmax_of_the_full_forward_pass_at_every_step(model, tokenizer, adapter, prompts):
    full = jax.jit(lambda model, adapter, row: model.logits(row, None, adapter))
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:6]), GREEDY, adapter))
    assert len(completions) == 6
    for completion in completions:
        row = np.array([completion.prompt_tokens + completion.tokens], np.int32)
        predicted = np.asarray(full(model, adapter, np.pad(row, ((0, 0), (0, 128 - row.shape[1]))))).argmax(-1)[0]
        start = len(completion.prompt_tokens) - 1
        assert completion.tokens == tuple(predicted[start : row.shape[1] - 1])


def test_greedy_is_what_transformers_generates_for_200_prompts(folder, model, tokenizer):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    generator = np.random.default_rng(11)
    lengths = [70, *generator.integers(1, 64, 199)]
    prompts = [tuple(generator.integers(0, 250, length).tolist()) for length in lengths]
    params = SamplingParams(max_new_tokens=12, temperature=0.0, stop_token_ids=())
    ours = by_place(make_engine(model, tokenizer).generate(make_requests(prompts), params))
    assert len(ours) == 200

    theirs = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    padded = torch.tensor([[0] * (70 - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (70 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    generated = theirs.generate(
        padded, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0
    )
    for place in range(200):
        assert ours[place, 0].tokens == tuple(generated[place, 70:].tolist())


@pytest.mark.parametrize("filters", [{"top_k": 20, "top_p": 0.9}, {"top_p": 0.8, "min_p": 0.02}], ids=str)
def test_a_completion_depends_on_its_prompt_and_seeds_alone(model, tokenizer, adapter, prompts, filters):
    params = SamplingParams(max_new_tokens=9, temperature=1.2, stop_token_ids=(3, 4, 5, 6), **filters)
    requests = make_requests(prompts[:3], samples=3)
    together = by_place(make_engine(model, tokenizer, slots=16).generate(requests, params, adapter))
    assert len(together) == 9

    waiting = by_place(make_engine(model, tokenizer).generate(requests, params, adapter))
    backwards = by_place(make_engine(model, tokenizer).generate(requests[::-1], params, adapter))
    for (place, sample), completion in together.items():
        assert waiting[place, sample].tokens == completion.tokens
        assert backwards[2 - place, sample].tokens == completion.tokens

    alone = Request(prompt_tokens=prompts[0], seeds=(requests[0].seeds[2],))
    (completion,) = make_engine(model, tokenizer).generate([alone], params, adapter)
    assert completion.tokens == together[0, 2].tokens


def test_other_seeds_draw_other_tokens_and_equal_seeds_the_same(model, tokenizer, adapter, prompts):
    seeds = ((1, 2, 3), (1, 3, 2), (1, 2, 4), (2, 2, 3), (1, 2), (1, 2, 3, 0), (1, 2, 3))
    params = SamplingParams(max_new_tokens=9, temperature=2.0, stop_token_ids=())
    request = Request(prompt_tokens=prompts[0], seeds=seeds)
    completions = by_place(make_engine(model, tokenizer).generate([request], params, adapter))
    tokens = [completions[0, sample].tokens for sample in range(len(seeds))]
    assert len(set(tokens)) == 6
    assert tokens[0] == tokens[-1]


def test_noise_differs_from_position_to_position(model, tokenizer, adapter, prompts):
    """Where every token is equally likely, what is drawn is the noise itself."""
    flat = jax.tree.map(np.zeros_like, model)
    params = SamplingParams(max_new_tokens=50, stop_token_ids=())
    for completion in make_engine(flat, tokenizer).generate(make_requests(prompts[:1], 4), params, adapter):
        assert len(set(completion.tokens)) > 35
        np.testing.assert_allclose(completion.logprobs, -np.log(model.config.vocab_size), rtol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "filters"),
    [(1.0, {}), (0.6, {"top_p": 0.9}), (1.3, {"top_k": 20, "min_p": 0.01}), (0.0, {})],
    ids=str,
)
def test_log_probabilities_are_those_that_the_learner_computes(
    model, tokenizer, adapter, prompts, temperature, filters
):
    params = SamplingParams(max_new_tokens=12, temperature=temperature, **filters)
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:4], 2), params, adapter))
    assert len(completions) == 8
    for completion in completions:
        assert completion.logprobs.dtype == np.float32
        expected = teacher_forced(model, adapter, completion, temperature or 1.0)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_probabilities_in_bfloat16_are_those_of_the_learner_to_a_thousandth(folder, tokenizer, adapter, prompts):
    model = load_pretrained(folder, "bfloat16")
    params = SamplingParams(max_new_tokens=12, stop_token_ids=())
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:4], 8), params, adapter))
    gaps = [
        np.exp(completion.logprobs) - np.exp(teacher_forced(model, adapter, completion, 1.0))
        for completion in completions
    ]
    assert len(gaps) == 32
    assert 0 < np.abs(gaps).mean() < 1e-3
    assert model.is_cut, "decoding in bfloat16 takes the model's own weights, not a copy of them"


def test_a_completion_longer_than_the_first_cache_goes_on_in_a_longer_one(model, tokenizer, adapter, prompts):
    params = SamplingParams(max_new_tokens=330, temperature=0.8, stop_token_ids=())
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:4]), params, adapter))
    assert [len(completion.tokens) for completion in completions] == [330] * 4
    for completion in completions:
        expected = teacher_forced(model, adapter, completion, 0.8, width=512)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_it_stops_at_any_end_token_and_keeps_it(model, tokenizer, adapter, prompts):
    engine, requests = make_engine(model, tokenizer), make_requests(prompts[:4])
    free = by_place(engine.generate(requests, GREEDY, adapter))
    assert {completion.finish_reason for completion in free.values()} == {"length"}
    ends = (319, *(completion.tokens[6] for completion in free.values()))
    params = SamplingParams(max_new_tokens=12, temperature=0.0, stop_token_ids=ends)
    for place, completion in by_place(engine.generate(requests, params, adapter)).items():
        stop = min(free[place].tokens.index(end) for end in ends if end in free[place].tokens) + 1
        assert completion.tokens == free[place].tokens[:stop]
        np.testing.assert_allclose(completion.logprobs, free[place].logprobs[:stop], atol=1e-6)
        assert completion.finish_reason == "stop"


def test_an_end_token_at_the_length_limit_is_a_stop(model, tokenizer, adapter, prompts):
    engine, requests = make_engine(model, tokenizer), make_requests(prompts[:1], 4)
    first = next(engine.generate(requests, GREEDY, adapter)).tokens[0]
    params = SamplingParams(max_new_tokens=1, temperature=0.0, stop_token_ids=(first,))
    for completion in engine.generate(requests, params, adapter):
        assert (completion.tokens, completion.finish_reason) == ((first,), "stop")


def test_the_tokenizers_end_tokens_stop_when_none_are_given(model, tokenizer, adapter, prompts):
    params = SamplingParams(max_new_tokens=50, temperature=8.0)
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:4], 4), params, adapter))
    stopped = [completion for completion in completions if completion.finish_reason == "stop"]
    assert stopped
    for completion in stopped:
        assert completion.tokens[-1] in tokenizer.eos_token_ids
        assert not set(completion.tokens[:-1]) & set(tokenizer.eos_token_ids)
        assert completion.text == tokenizer.decode(completion.tokens[:-1])


def test_completions_leave_the_moment_they_end_and_others_take_their_slots(model, tokenizer, adapter, prompts):
    params = SamplingParams(max_new_tokens=50, temperature=3.0, stop_token_ids=tuple(range(100, 108)))
    requests = make_requests(prompts[:2], samples=6)
    stream = list(make_engine(model, tokenizer, slots=16).generate(requests, params, adapter))
    chunks = [-(-len(completion.tokens) // CHUNK) for completion in stream]
    assert len(set(chunks)) > 2
    assert chunks == sorted(chunks)

    order = [
        (completion.request, completion.sample)
        for completion in make_engine(model, tokenizer).generate(requests, params, adapter)
    ]
    assert sorted(order) == sorted(by_place(stream))
    assert order != sorted(order), "a short completion that started later ends before a long one"


def test_nothing_compiles_after_warm_up(model, tokenizer, adapter, prompts):
    engine = make_engine(model, tokenizer)
    # The longest prompt, in all slots: each of them has its place.
    list(engine.generate(make_requests(prompts[:5], 5), SamplingParams(max_new_tokens=20), adapter))
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for temperature, top_k, top_p, min_p, limit, samples, count in [
            (0.0, 0, 1.0, 0.0, 7, 2, 9),
            (0.7, 0, 0.9, 0.0, 20, 5, 3),
            (1.0, 50, 1.0, 0.1, 13, 1, 12),
            (1.4, 3, 0.5, 0.2, 1, 12, 1),
        ]:
            trained = adapter.replace_weights({
                target: {name: matrix * (temperature + 0.5) for name, matrix in pair.items()}
                for target, pair in adapter.weights.items()
            })  # fmt: skip
            params = SamplingParams(
                max_new_tokens=limit, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, stop=("fox",)
            )
            requests = make_requests(prompts[:count], samples)
            assert len(list(engine.generate(requests, params, trained))) == count * samples
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_the_cache_is_updated_in_place(model, tokenizer, adapter, prompts, monkeypatch):
    seen = []
    decode = device_slots.decode

    def watched(weights, state, settings, **static):
        before = state.cache.keys[0].unsafe_buffer_pointer()
        after, chunk = decode(weights, state, settings, **static)
        seen.append((before, after.cache.keys[0].unsafe_buffer_pointer(), state.cache.keys[0].is_deleted()))
        return after, chunk

    monkeypatch.setattr(device_slots, "decode", watched)
    list(make_engine(model, tokenizer).generate(make_requests(prompts[:6]), GREEDY, adapter))
    assert len(seen) > 3
    assert len({before for before, _, _ in seen}) == 1, "admission moved the cache"
    assert all(before == after and given_up for before, after, given_up in seen)


def test_a_prompt_is_run_once_for_all_its_samples(model, tokenizer, adapter, prompts, monkeypatch):
    runs = []
    prefill = device_slots.prefill

    def counted(model, adapter, tokens, lengths, room):
        runs.extend(lengths.tolist())
        return prefill(model, adapter, tokens, lengths, room)

    monkeypatch.setattr(device_slots, "prefill", counted)
    completions = list(make_engine(model, tokenizer).generate(make_requests(prompts[:3], 7), GREEDY, adapter))
    assert (len(completions), sorted(runs)) == (21, sorted(map(len, prompts[:3])))


@pytest.mark.parametrize(("prompt_readers", "page_tokens"), [(2, 64), (5, 64), (2, 2), (1, 4)])
def test_completions_are_the_same_however_prompts_are_held(
    model, tokenizer, adapter, prompts, prompt_readers, page_tokens, monkeypatch
):
    params = SamplingParams(max_new_tokens=30, temperature=1.2, stop_token_ids=tuple(range(0, 256, 32)))
    requests = [
        Request(prompt_tokens=prompts[at], seeds=tuple((at, sample) for sample in range(samples)))
        for at, samples in enumerate([7, 1, 5, 2, 4])
    ]
    alone = by_place(make_engine(model, tokenizer, slots=6).generate(requests, params, adapter))
    monkeypatch.setattr(sizes, "PAGE_TOKENS", page_tokens)
    engine = make_engine(model, tokenizer, slots=6, prompt_readers=prompt_readers)
    shared = by_place(engine.generate(requests, params, adapter))
    assert len(shared) == 19
    for at, completion in shared.items():
        assert completion.tokens == alone[at].tokens
        np.testing.assert_allclose(completion.logprobs, alone[at].logprobs, atol=1e-5)


def test_a_prompt_takes_the_room_of_one_for_all_its_samples(model, tokenizer, adapter):
    engine = make_engine(model, tokenizer, slots=16, prompt_readers=8)
    allocated, needed = most_cache_tokens(engine, [128, 128], 8, adapter)
    assert needed == 2 * 128 + 16 * 64
    assert allocated <= 1.05 * needed


def test_a_short_prompt_takes_less_room_than_a_long_one(model, tokenizer, adapter):
    engine = make_engine(model, tokenizer, slots=16)
    lengths = [120, *range(8, 128, 8)]
    allocated, needed = most_cache_tokens(engine, lengths, 1, adapter)
    assert needed == sum(lengths) + 16 * 64
    pages = sum(-(-length // 64) for length in lengths)
    assert allocated <= 16 * 64 + 1.125 * pages * 64


def most_cache_tokens(engine, lengths, samples, adapter):
    """The tokens that there was room for, and those needed, when most were."""
    scheduler, params = engine.scheduler(), SamplingParams(max_new_tokens=64, temperature=0.0, stop_token_ids=())
    for at, length in enumerate(lengths):
        seeds = tuple((sample,) for sample in range(samples))
        scheduler.submit(Request(prompt_tokens=(at + 1,) * length, seeds=seeds), params, adapter)
    most = (0, 0)
    while not scheduler.idle:
        scheduler.step()
        most = max(most, scheduler.cache_tokens, key=lambda tokens: tokens[1])
    return most


def test_closing_frees_all_that_the_call_holds(model, tokenizer, adapter, prompts):
    engine, requests = make_engine(model, tokenizer), make_requests(prompts[:6], 2)
    list(engine.generate(requests, GREEDY, adapter))
    gc.collect()
    before = len(jax.live_arrays())
    stream = engine.generate(requests, GREEDY, adapter)
    next(stream)
    assert len(jax.live_arrays()) > before
    stream.close()
    gc.collect()
    assert len(jax.live_arrays()) == before


def test_a_prompt_that_is_too_long_is_refused_by_place_and_length(model, tokenizer):
    requests = [Request(prompt_tokens=(1,) * length, seeds=((0,),)) for length in (5, 129)]
    with pytest.raises(UserError, match="request 1 has 129 tokens, prompt_max_length is 128"):
        make_engine(model, tokenizer).generate(requests, GREEDY)


def test_a_prompt_that_is_too_long_keeps_its_end_when_truncated_and_is_counted(model, tokenizer, adapter, prompts):
    engine = Engine(model, tokenizer, slots=4, prompt_max_length=70, chunk_length=CHUNK, long_prompts="truncate")
    long = prompts[1] + prompts[0]
    completions = by_place(engine.generate(make_requests([long, prompts[0]], 2), GREEDY, adapter))
    assert engine.truncated_prompts == 1
    assert completions[0, 0].prompt_tokens == prompts[0]
    assert completions[0, 0].tokens == completions[1, 0].tokens


def test_more_positions_than_the_model_knows_are_refused(model, tokenizer):
    params = SamplingParams(max_new_tokens=1020)
    with pytest.raises(UserError, match="max_position_embeddings 1024: lower max_new_tokens"):
        make_engine(model, tokenizer).generate([Request(prompt_tokens=(1,) * 5, seeds=((0,),))], params)


def test_no_requests_give_no_completions(model, tokenizer):
    assert list(make_engine(model, tokenizer).generate([], GREEDY)) == []
    assert list(make_engine(model, tokenizer).generate([Request(prompt_tokens=(1,), seeds=())], GREEDY)) == []
