"""Prompt lookup: drafts change how often the model is run, and nothing else."""

import dataclasses

import jax
import numpy as np
import pytest

from aflow_jax.sampling import Engine, Request, SamplingParams
from aflow_jax.sampling.lookup import find_draft

PARAMS = SamplingParams(max_new_tokens=40, temperature=1.0, stop_token_ids=())


def draft_of(*tokens, drafted=3, padding=(7, 8, 7, 8)):
    history = np.array([[*tokens, *padding]], np.int32)
    return np.asarray(find_draft(history, np.array([len(tokens)]), drafted))[0].tolist()


def test_a_draft_is_what_followed_the_last_two_tokens_before():
    assert draft_of(1, 2, 3, 4, 5, 1, 2) == [3, 4, 5]


def test_the_latest_of_several_places_is_taken():
    assert draft_of(1, 2, 3, 9, 9, 1, 2, 4, 9, 9, 1, 2) == [4, 9, 9]


def test_a_draft_ends_where_the_history_does():
    assert draft_of(1, 2, 1, 2) == [1, 2, -1]
    assert draft_of(5, 5, 5) == [5, -1, -1]


@pytest.mark.parametrize("tokens", [(1,), (1, 2), (1, 2, 3), (2, 1, 3, 1, 2), (7, 8)])
def test_there_is_no_draft_where_the_pair_is_new(tokens):
    assert draft_of(*tokens) == [-1, -1, -1]


def test_padding_behind_a_row_is_never_looked_at():
    assert draft_of(7, 8, padding=(7, 8, 1, 1)) == [-1, -1, -1]
    assert draft_of(1, 7, padding=(8, 7, 8, 7, 8)) == [-1, -1, -1]


def make_engine(model, tokenizer, drafted):
    return Engine(model, tokenizer, slots=4, prompt_max_length=128, chunk_length=8, drafted=drafted)


def sample(model, tokenizer, adapter, requests, params, *, drafted, engine=None):
    engine = engine or make_engine(model, tokenizer, drafted)
    scheduler = engine.scheduler()
    for request, own in zip(requests, params, strict=True):
        scheduler.submit(request, own, adapter)
    ended = {}
    while not scheduler.idle:
        for progress in scheduler.step():
            if progress.completion:
                ended[progress.request, progress.sample] = progress.completion
    return ended, scheduler


@pytest.fixture(scope="module")
def requests(prompts):
    """Prompts of unequal length, more completions than slots, and one prompt that repeats itself."""
    own = [*prompts[:5], (3, 1, 4, 1, 5, 9) * 6]
    return [Request(prompt_tokens=prompt, seeds=((place, 0), (place, 1))) for place, prompt in enumerate(own)]


@pytest.fixture(scope="module")
def params():
    """Greedy ones repeat themselves, so that drafts are right; the others bring every filter and both kinds of end."""
    greedy = dataclasses.replace(PARAMS, temperature=0.0)
    return [
        greedy,
        dataclasses.replace(PARAMS, temperature=0.05),
        dataclasses.replace(PARAMS, temperature=0.7, top_k=5, top_p=0.9, max_new_tokens=17),
        dataclasses.replace(PARAMS, temperature=0.3, min_p=0.1, stop_token_ids=tuple(range(40, 48))),
        dataclasses.replace(greedy, max_new_tokens=1),
        greedy,
    ]


@pytest.mark.parametrize("drafted", [4])
def test_completions_are_those_without_drafts_in_fewer_passes(model, tokenizer, adapter, requests, params, drafted):
    plain, without = sample(model, tokenizer, adapter, requests, params, drafted=0)
    looked_up, with_drafts = sample(model, tokenizer, adapter, requests, params, drafted=drafted)

    assert looked_up.keys() == plain.keys()
    for place, completion in plain.items():
        assert looked_up[place].tokens == completion.tokens
        assert looked_up[place].finish_reason == completion.finish_reason
        np.testing.assert_allclose(looked_up[place].logprobs, completion.logprobs, atol=1e-5, rtol=0)
    # Every token is reported once, and costs a pass unless a draft brought it.
    assert with_drafts.tokens == without.tokens == without.passes == sum(len(at.tokens) for at in plain.values())
    assert with_drafts.passes < 0.8 * without.passes


def test_a_drafted_token_is_kept_as_often_as_it_is_drawn_without_drafts(model, tokenizer, prompts):
    """The second token after a prompt that proposes one: its distribution over seeds, with drafts and without."""
    prompt = (3, 1, 4, 1, 5, 9, 3, 1)
    request = Request(prompt_tokens=prompt, seeds=tuple((seed,) for seed in range(400)))
    params = dataclasses.replace(PARAMS, max_new_tokens=3, top_k=4)
    counts = []
    for drafted in (0, 4):
        ended, _ = sample(model, tokenizer, None, [request], [params], drafted=drafted)
        counts.append([ended[0, number].tokens for number in range(400)])
    assert counts[0] == counts[1]
    assert len({tokens[1] for tokens in counts[0]}) > 1


def test_more_drafted_tokens_than_a_chunk_has_room_for_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="drafted must be from 0 to 7, found 8"):
        Engine(model, tokenizer, slots=1, prompt_max_length=8, chunk_length=8, drafted=8)


def test_drafts_compile_once_whatever_the_parameters(model, tokenizer, adapter, requests, params):
    from aflow_jax.sampling.lookup import decode_with_lookup

    engine = make_engine(model, tokenizer, 4)
    sample(model, tokenizer, adapter, requests, params, drafted=4, engine=engine)
    compiled = decode_with_lookup._cache_size()
    sample(model, tokenizer, adapter, requests[::-1], params[::-1], drafted=4, engine=engine)
    assert decode_with_lookup._cache_size() == compiled
    assert jax.default_backend() != "cpu" or compiled > 0
