"""Text as it comes: it adds up to the decoded whole, and stop strings are found at the token that completes them."""

import numpy as np
import pytest

from aflow_jax.sampling.text import TextStream

TEXT = "the quick brown fox — naïve 🦊 jumps over the lazy dog"


def feed(tokenizer, tokens, sizes, stop=()):
    """Push tokens in pieces of the sizes given, in turn; return the stream, the tokens used and the texts given out."""
    stream, used, given = TextStream(tokenizer, stop), 0, []
    while used < len(tokens) and not stream.stopped:
        piece = tokens[used : used + sizes[len(given) % len(sizes)]]
        used += stream.push(piece)
        given.append(stream.take(ended=stream.stopped or used == len(tokens)))
    return stream, used, given


@pytest.mark.parametrize("sizes", [(1,), (2, 5, 1), (100,)], ids=str)
def test_what_is_given_out_adds_up_to_the_decoded_text(tokenizer, sizes):
    generator = np.random.default_rng(0)
    garbage = [generator.integers(0, len(tokenizer), 40).tolist() for _ in range(20)]
    for tokens in [tokenizer.encode_text(TEXT), *garbage]:
        stream, used, given = feed(tokenizer, tokens, sizes)
        assert used == len(tokens)
        assert "".join(given) == stream.text == tokenizer.decode(tokens)


@pytest.mark.parametrize("sizes", [(1,), (3, 1, 7), (100,)], ids=str)
@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        (("fox",), "the quick brown "),
        (("x — n", "never"), "the quick brown fo"),
        (("🦊 j",), "the quick brown fox — naïve "),
        (("dog", "lazy"), "the quick brown fox — naïve 🦊 jumps over the "),
        (("t",), ""),
    ],
    ids=str,
)
def test_a_stop_string_ends_at_the_first_token_with_which_it_is_there(tokenizer, stop, kept, sizes):
    tokens = tokenizer.encode_text(TEXT)
    first = next(
        count for count in range(len(tokens) + 1) if any(string in tokenizer.decode(tokens[:count]) for string in stop)
    )
    stream, used, given = feed(tokenizer, tokens, sizes, stop)
    assert (stream.stopped, used) == (True, first)
    assert "".join(given) == stream.text == kept


def test_what_may_become_a_stop_string_is_held_back_and_half_a_character_too(tokenizer):
    tokens = tokenizer.encode_text("ab🦊ab")
    stream, given = TextStream(tokenizer, ("abc",)), []
    for token in tokens:
        stream.push([token])
        given.append(stream.take())
    assert set(given) == {"", "ab🦊"}
    assert stream.take(ended=True) == "ab"
    assert stream.text == "ab🦊ab"
