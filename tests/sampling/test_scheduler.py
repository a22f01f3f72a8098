"""The scheduler: requests come and go at any time, and none of that shows in what each one gets.

Lanes here have four slots and a first prompt of bucket 128, so that they share their compiled programs.
"""

import dataclasses

import numpy as np
import pytest

from aflow_jax.errors import UserError
from aflow_jax.sampling import Engine, Request, SamplingParams

PARAMS = SamplingParams(max_new_tokens=12, temperature=1.0, stop_token_ids=())
VARIETY = [
    PARAMS,
    dataclasses.replace(PARAMS, temperature=0.0),
    dataclasses.replace(PARAMS, temperature=1.4, top_k=20, max_new_tokens=3),
    dataclasses.replace(PARAMS, temperature=0.7, top_p=0.8, max_new_tokens=17),
    dataclasses.replace(PARAMS, temperature=2.0, min_p=0.05, stop_token_ids=(3, 4, 5)),
]


def make_scheduler(model, tokenizer, slots=4, chunk_length=5):
    engine = Engine(model, tokenizer, slots=slots, prompt_max_length=128, chunk_length=chunk_length)
    return engine.scheduler()


def make_request(prompt, place, samples=1):
    return Request(prompt_tokens=prompt, seeds=tuple((place, sample) for sample in range(samples)))


def drain(scheduler, steps=None):
    """Step until nothing is left; return each completion by (request, sample)."""
    ended = {}
    for _ in range(10_000 if steps is None else steps):
        if scheduler.idle:
            break
        for progress in scheduler.step():
            if progress.completion:
                ended[progress.request, progress.sample] = progress.completion
    return ended


@pytest.fixture(scope="module")
def alone(model, tokenizer, adapter, prompts):
    """Ten requests of various parameters, base and adapter in turn, and what each gives with all slots to itself."""
    requests = [make_request(prompts[place], place, samples=2) for place in range(10)]
    params = [VARIETY[place % 5] for place in range(10)]
    adapters = [(None, adapter)[place % 2] for place in range(10)]
    completions = []
    for arguments in zip(requests, params, adapters, strict=True):
        scheduler = make_scheduler(model, tokenizer)
        scheduler.submit(*arguments)
        ended = drain(scheduler)
        completions.append([ended[0, sample] for sample in range(2)])
    return requests, params, adapters, completions


@pytest.mark.parametrize("chunk_length", [5, 2])
def test_a_completion_is_the_same_among_others_of_other_parameters_and_adapters(model, tokenizer, alone, chunk_length):
    requests, params, adapters, expected = alone
    scheduler = make_scheduler(model, tokenizer, chunk_length=chunk_length)
    ended = {}
    for place in range(10):
        # They arrive while others decode, more than there are slots.
        assert scheduler.submit(requests[place], params[place], adapters[place]) == place
        ended |= drain(scheduler, steps=2)
    ended |= drain(scheduler)
    assert sorted(ended) == [(place, sample) for place in range(10) for sample in range(2)]
    for (place, sample), completion in ended.items():
        assert completion.tokens == expected[place][sample].tokens
        assert completion.text == expected[place][sample].text
        np.testing.assert_allclose(completion.logprobs, expected[place][sample].logprobs, atol=1e-5)


def test_cancelling_frees_the_slots_and_touches_nobody_else(model, tokenizer, alone):
    requests, params, adapters, expected = alone
    scheduler = make_scheduler(model, tokenizer)
    endless = dataclasses.replace(PARAMS, max_new_tokens=800)
    cancelled = [scheduler.submit(make_request((1, 2, 3), place, samples=3), endless) for place in range(2)]
    kept = scheduler.submit(requests[0], params[0], adapters[0])
    drain(scheduler, steps=3)
    scheduler.cancel(cancelled[1])
    scheduler.cancel(cancelled[0])
    ended = drain(scheduler)
    assert sorted(ended) == [(kept, 0), (kept, 1)]
    assert [ended[kept, sample].tokens for sample in range(2)] == [at.tokens for at in expected[0]]


def test_cancelling_all_leaves_nothing(model, tokenizer, prompts):
    scheduler = make_scheduler(model, tokenizer)
    number = scheduler.submit(make_request(prompts[0], 0, samples=6), PARAMS)
    scheduler.step()
    scheduler.cancel(number)
    assert scheduler.idle
    assert scheduler.step() == []


def test_the_steps_of_a_completion_add_up_to_it(model, tokenizer, prompts):
    scheduler = make_scheduler(model, tokenizer)
    scheduler.submit(make_request(prompts[0], 0, samples=3), PARAMS)
    steps = []
    while not scheduler.idle:
        steps += scheduler.step()
    for sample in range(3):
        own = [progress for progress in steps if progress.sample == sample]
        assert [progress.completion is None for progress in own] == [True, True, False]
        assert [len(progress.tokens) for progress in own] == [5, 5, 2]
        completion = own[-1].completion
        assert sum((progress.tokens for progress in own), ()) == completion.tokens
        assert "".join(progress.text for progress in own) == completion.text == tokenizer.decode(completion.tokens)
        np.testing.assert_array_equal(np.concatenate([progress.logprobs for progress in own]), completion.logprobs)


@pytest.mark.parametrize("chunk_length", [5, 2])
def test_a_stop_string_ends_a_completion_at_the_token_that_completes_it(model, tokenizer, alone, chunk_length):
    requests, params, _, expected = alone
    free = expected[0][0]
    # A string across three tokens, from their middle; random bytes are left out, as nobody stops at them.
    ends = [count for count in range(len(free.tokens)) if tokenizer.decode(free.tokens[count : count + 3]).isascii()]
    stop = tokenizer.decode(free.tokens[ends[0] : ends[0] + 3])
    count = next(n for n in range(len(free.tokens) + 1) if stop in tokenizer.decode(free.tokens[:n]))
    scheduler = make_scheduler(model, tokenizer, chunk_length=chunk_length)
    scheduler.submit(requests[0], dataclasses.replace(params[0], stop=("never", stop)))
    completion = drain(scheduler)[0, 0]
    assert completion.tokens == free.tokens[:count]
    assert completion.logprobs.shape == (count,)
    assert completion.text == free.text[: free.text.index(stop)]
    assert completion.finish_reason == "stop"


def test_lanes_take_turns_and_a_lane_serves_first_come_first_served(model, tokenizer, adapter, prompts):
    scheduler = make_scheduler(model, tokenizer)
    for place in range(3):
        scheduler.submit(make_request(prompts[place], place, samples=4), PARAMS)
    late = scheduler.submit(make_request(prompts[3], 3), PARAMS, adapter)
    order = []
    while not scheduler.idle:
        order += [progress.request for progress in scheduler.step() if progress.completion]
    assert [request for request in order if request != late] == [0] * 4 + [1] * 4 + [2] * 4
    assert order.index(late) <= 4, "the adapter's request waited for more than one round of the base's"


def test_it_counts_the_cache_that_is_there_and_that_is_needed(model, tokenizer, prompts):
    scheduler = make_scheduler(model, tokenizer)
    assert scheduler.cache_tokens == (0, 0)
    for place in range(2):
        scheduler.submit(make_request(prompts[place], place, samples=2), PARAMS)
    scheduler.step()
    scheduler.step()
    allocated, needed = scheduler.cache_tokens
    # Ten: the chunk in flight is counted.
    assert needed == len(prompts[0]) + len(prompts[1]) + 4 * 10
    # A prompt has its pages, two of 64 tokens or one, for each slot that continues it, as long as no more are told to
    # read them.
    assert allocated == 4 * 64 + (2 + 2 + 1 + 1) * 64
    drain(scheduler)
    assert scheduler.cache_tokens == (0, 0)


def test_a_request_is_refused_when_it_comes(model, tokenizer):
    scheduler = make_scheduler(model, tokenizer)
    scheduler.submit(make_request((1, 2), 0), PARAMS)
    with pytest.raises(UserError, match="request 1 has 129 tokens, prompt_max_length is 128"):
        scheduler.submit(make_request((1,) * 129, 1), PARAMS)
    with pytest.raises(UserError, match="max_position_embeddings 1024"):
        scheduler.submit(make_request((1, 2), 1), dataclasses.replace(PARAMS, max_new_tokens=1023))
    assert scheduler.submit(make_request((1, 2), 1), PARAMS) == 1
