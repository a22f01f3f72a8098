"""Whatever is drawn from the masks, the completion is a workflow, ends in time, and could have been any workflow."""

import numpy as np
import pytest
from hypothesis import given, settings
from random_workflows import WORKFLOWS

from aflow_jax.errors import UserError
from aflow_jax.qwen2.create import train_tokenizer
from aflow_jax.workflow import Limits, format, operator_names, parse_completion
from aflow_jax.workflow.constraint import WorkflowConstraint

OPERATORS = operator_names()
ROWS, END, OTHER_END = 700, 600, 601
TEXTS = [
    f'Plan: think, then.\n<workflow>[{name}("List the é😀 first."), Custom] -> (Test ? Revise : done) * 3</workflow>'
    for name in OPERATORS
] * 4


def learned_spellings() -> list[bytes | None]:
    """The pieces of a byte-pair vocabulary, some of which span the language's tokens, and a few that no BPE learns."""
    tokenizer = train_tokenizer(TEXTS, ROWS - 120)
    odd = [
        b'")->',
        b'("',
        b"done:done",
        b"</workflow>",
        b"<workflow>C",
        b'a") -> Custom("b',
        b"\xf0\x9f",
        b"((((",
        b"[[",
    ]
    learned = [tokenizer.decoder.decode([piece]) for piece in tokenizer.get_vocab()]
    pieces = {piece.encode() for piece in learned if "\ufffd" not in piece} | {bytes([byte]) for byte in range(256)}
    return [*sorted(pieces | set(odd)), None]


SPELLINGS = learned_spellings()


def constraint(limits: Limits | None = None, operators=OPERATORS) -> WorkflowConstraint:
    assert len(SPELLINGS) < END
    return WorkflowConstraint(SPELLINGS, ROWS, [END, OTHER_END], operators, limits)


def allowed_tokens(mask) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def spelled(tokens) -> str:
    return b"".join(SPELLINGS[token] for token in tokens).decode()


def random_completion(matcher, generator, eagerness: float) -> list[int]:
    """Draw until an end token, more often than not a token with a sign of the language in it."""
    signs = set(b'<>[](),?:*-"')
    tokens: list[int] = []
    while not tokens or tokens[-1] not in (END, OTHER_END):
        allowed = allowed_tokens(matcher.mask())
        if generator.random() < eagerness:
            telling = [token for token in allowed if token >= END or signs & set(SPELLINGS[token])]
            allowed = telling or allowed
        tokens.append(int(generator.choice(allowed)))
        matcher.accept(tokens[-1])
    return tokens


@pytest.mark.parametrize(
    ("limits", "variety"),
    [
        (Limits(), 30),
        (Limits(characters=50, nesting=2, branches=2, calls=4, instruction=3), 40),
        (Limits(characters=4, nesting=0, branches=1, calls=1, instruction=0), 1),
    ],
    ids=["default", "tight", "least"],
)
def test_whatever_is_drawn_parses_and_ends_in_time(limits, variety):
    made = constraint(limits)
    generator = np.random.default_rng(3)
    seen = set()
    least = made.minimum_tokens
    for budget in [least] * 20 + [least + 1] * 20 + [least + 4] * 20 + [24] * 50 + [60] * 40 + [300] * 5:
        tokens = random_completion(made.matcher(budget), generator, eagerness=0.8)
        assert len(tokens) <= budget
        workflow = parse_completion(spelled(tokens[:-1]), OPERATORS, limits)
        seen.add(format(workflow))
    assert len(seen) >= variety


@given(WORKFLOWS)
@settings(max_examples=60, deadline=None)
def test_every_workflow_may_be_drawn_however_it_is_cut_into_tokens(workflow):
    text = f"Some <b> reasoning.\n<workflow>{format(workflow)}</workflow>".encode()
    longest_first = sorted((piece for piece in SPELLINGS if piece), key=len, reverse=True)
    tokens = []
    while text:
        piece = next(piece for piece in longest_first if text.startswith(piece))
        tokens.append(SPELLINGS.index(piece))
        text = text[len(piece) :]
    matcher = SHARED.matcher(len(tokens) + 60)
    for token in [*tokens, OTHER_END]:
        matcher.accept(token)


SHARED = constraint()


def test_as_tokens_run_out_only_what_can_still_be_closed_may_be_opened():
    def allowed(text: str, left: int) -> set[str]:
        tokens = [SPELLINGS.index(bytes([byte])) for byte in text.encode()]
        matcher = SHARED.matcher(len(tokens) + left)
        for token in tokens:
            matcher.accept(token)
        return {SPELLINGS[token].decode(errors="replace") for token in allowed_tokens(matcher.mask()) if token < END}

    assert {"->", "(", "-"} <= allowed("<workflow>Custom", 20)
    assert allowed("<workflow>Custom", 2) == {"</workflow>"}
    assert allowed("<workflow>[Test,Test", 3) == {"]"}
    assert allowed('<workflow>[Test("x"),Test("', 4) == {'")', '.")'}
    assert {'"', '")', "y"} <= allowed('<workflow>[Test("x"),Test("', 5)
    assert allowed("Well", SHARED.minimum_tokens + 1) >= {"a", "<", "<workflow>C"}
    assert all(
        "<workflow>".startswith(text) or text == "<workflow>C" for text in allowed("Well", SHARED.minimum_tokens)
    )


def test_a_token_outside_the_mask_is_refused():
    matcher = SHARED.matcher(30)
    for token in (END, SPELLINGS.index(None), len(SPELLINGS), ROWS - 1):
        assert token not in allowed_tokens(matcher.mask())
        with pytest.raises(ValueError, match=f"token {token} is not among those"):
            matcher.accept(token)


def test_only_an_end_token_follows_the_element_and_nothing_follows_it():
    matcher = SHARED.matcher(400)
    for byte in b"<workflow>Custom</workflow>":
        matcher.accept(SPELLINGS.index(bytes([byte])))
    assert allowed_tokens(matcher.mask()).tolist() == [END, OTHER_END]
    matcher.accept(END)
    assert allowed_tokens(matcher.mask()).size == 0


def test_matchers_do_not_touch_each_other():
    generator = np.random.default_rng(0)
    alone = random_completion(SHARED.matcher(50), np.random.default_rng(7), 0.5)
    first, second = SHARED.matcher(50), SHARED.matcher(90)
    random_completion(second, generator, 0.5)
    assert random_completion(first, np.random.default_rng(7), 0.5) == alone


def test_too_few_tokens_are_an_error_that_says_how_many_are_needed():
    with pytest.raises(UserError, match=f"max_new_tokens 3: constrained_sampling needs {SHARED.minimum_tokens} tokens"):
        SHARED.matcher(3)


def test_limits_that_no_workflow_meets_are_an_error():
    with pytest.raises(UserError, match="workflow_limits leave no room for any workflow, not even Test"):
        constraint(Limits(characters=3))
    with pytest.raises(UserError, match="no tokens that spell a workflow"):
        WorkflowConstraint([b"a", b"b"], 3, [2], ["Custom"])
