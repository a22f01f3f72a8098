"""The automaton and the parser speak of one language, and the shortest way to end is one."""

import random

import pytest
from hypothesis import given, settings
from random_workflows import WORKFLOWS, fuzzed

from aflow_jax.workflow import Limits, WorkflowError, format, operator_names, parse_completion, worst_case_calls
from aflow_jax.workflow.constraint import WorkflowConstraint
from aflow_jax.workflow.grammar import Grammar, State
from aflow_jax.workflow.vocabulary import characters

OPERATORS = operator_names()
END = 256
EMOJI, LETTER = r"\ud83d\ude00", r"\u0041"  # one character each
TIGHT = Limits(characters=60, nesting=2, branches=3, calls=6, instruction=4)


def bytes_constraint(limits: Limits, operators=OPERATORS) -> WorkflowConstraint:
    """A vocabulary of single bytes: what it allows next is what the language allows next."""
    return WorkflowConstraint([bytes([byte]) for byte in range(256)], END + 1, [END], operators, limits)


DEFAULT, NARROW = bytes_constraint(Limits()), bytes_constraint(TIGHT)


def refused_at(constraint: WorkflowConstraint, text: str) -> int | None:
    """Return the place of the first byte that may not come next, the end included; None where all may."""
    matcher = constraint.matcher(10**6)
    for place, token in enumerate([*text.encode(), END]):
        try:
            matcher.accept(token)
        except ValueError:
            return place
    return None


def parses(text: str, limits: Limits, operators=OPERATORS) -> bool:
    try:
        parse_completion(text, operators, limits)
    except WorkflowError:
        return False
    return True


@given(WORKFLOWS)
@settings(max_examples=50, deadline=None)
def test_every_workflow_within_the_limits_may_be_written(workflow):
    text = f"Café <workflow reasoning > 🤔</work\n<workflow>{format(workflow)}</workflow>"
    assert refused_at(DEFAULT, text) is None
    assert (refused_at(NARROW, text) is None) == parses(text, TIGHT)


def test_a_text_may_be_written_exactly_when_the_parser_takes_it():
    source = random.Random(4)
    taken = 0
    for _ in range(2500):
        text = fuzzed(source).replace("<workflow> ", "").replace(" </workflow>", "")
        answer = f"<workflow>{text}</workflow>"
        for constraint, limits in ((DEFAULT, Limits()), (NARROW, TIGHT)):
            taken += (parsed := parses(answer, limits))
            assert (refused_at(constraint, answer) is None) == parsed, answer
    assert taken > 40


@pytest.mark.parametrize(
    ("limit", "within", "beyond"),
    [
        ("characters", "Custom" + " " * 1994, "Custom" + " " * 1995),
        ("nesting", "((((Custom))))", "(((((Custom)))))"),
        ("nesting", "Test ? ((([Test, Test]))) : done", "Test ? (((([Test, Test])))) : done"),
        ("branches", f"[{', '.join(['Custom'] * 8)}]", f"[{', '.join(['Custom'] * 9)}]"),
        ("calls", f"({' -> '.join(['Custom'] * 6)}) * 4", f" ({' -> '.join(['Custom'] * 5)}) * 5"),
        ("calls", "([Custom, Test ? done : (Custom -> Custom)] -> Test) * 4 -> Test -> Test -> Test -> Test",
                  "([Custom, Test ? done : (Custom -> Custom)] -> Test) * 5"),
        ("instruction", f'Custom("{"é" * 400}")', f'Custom("{"é" * 401}")'),
        ("instruction", f'Custom("{EMOJI * 100}{LETTER * 50}{"é" * 250}")',
                       f'Custom("{EMOJI * 100}{LETTER * 50}{"é" * 251}")'),
    ],
)  # fmt: skip
def test_each_limit_holds_to_the_last_step(limit, within, beyond):
    assert refused_at(DEFAULT, f"<workflow>{within}</workflow>") is None
    answer = f"<workflow>{beyond}</workflow>"
    with pytest.raises(WorkflowError, match=f"LIMIT.*workflow_limits.{limit}"):
        parse_completion(answer)
    assert refused_at(DEFAULT, answer) is not None
    assert refused_at(bytes_constraint(Limits(**{limit: 10_000})), answer) is None


@pytest.mark.parametrize(
    "text",
    [
        "Custom</workflow>",
        "<workflow>Custom</workflow> and more",
        "<workflow>Custom",
        '<workflow>Custom("a</workflow>")</workflow>',
        '<workflow>Custom("a<workflow>")</workflow>',
        '<workflow>Custom("\\ud83d")</workflow>',
        '<workflow>Custom("\\ud83d\\u0041")</workflow>',
        '<workflow>Custom("\\ude00")</workflow>',
        "<workflow>Customs</workflow>",
        "<workflow>Custom -> done -> Test</workflow>",
        "<workflow>Test ? Test ? done : done : done</workflow>",
        "<workflow>Custom\u00a0</workflow>",
    ],
)
def test_what_is_no_answer_may_not_be_written(text):
    assert refused_at(DEFAULT, text) is not None


def test_only_what_is_utf_8_may_be_written():
    for text in (b"\x80", b"\xc1\x81", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xe2\x82<"):
        with pytest.raises(UnicodeDecodeError):
            text.decode()
        for start in ("", '<workflow>Custom("'):
            matcher = DEFAULT.matcher(10**6)
            with pytest.raises(ValueError, match="is not among those"):
                for byte in [*start.encode(), *text]:
                    matcher.accept(byte)
    for text in ("é", "€", "\ud7ff", "\ue000", "😀", "\U0010ffff"):
        assert refused_at(DEFAULT, f'{text}<workflow>Custom("{text}")</workflow>') is None


def test_only_the_operators_offered_may_be_written():
    offered = ("Custom", "CustomCodeGenerate")
    constraint = bytes_constraint(Limits(), offered)
    for text in ("Custom", "CustomCodeGenerate", "Custom->done", "Test", "Review ? done : done", "Revise"):
        answer = f"<workflow>{text}</workflow>"
        assert (refused_at(constraint, answer) is None) == parses(answer, Limits(), offered)


def random_states(grammar: Grammar, source: random.Random, ways: int):
    """Yield (text so far, state) all along random ways that open and close many brackets."""
    for _ in range(ways):
        state, text = grammar.start, b""
        for byte in b"Well: <workflow>":
            text, state = text + bytes([byte]), grammar.read(state, byte)
        for _ in range(60):
            yield text, state
            following = {byte: grammar.read(state, byte) for byte in range(256)}
            alphabet = source.choice((b'([,?:->*)]" ', grammar.closing(state)[:1], range(256)))
            allowed = [
                byte for byte in alphabet if following[byte] and following[byte].at not in ("closing", "finished")
            ]
            for byte in source.sample(allowed, min(1, len(allowed))):
                text, state = text + bytes([byte]), following[byte]


def test_the_closing_is_a_way_to_end_and_all_its_parts_agree_on_the_rest():
    grammar = Grammar(OPERATORS, Limits(characters=10**6, calls=10**6))
    seen = set()
    for text, state in random_states(grammar, random.Random(2), 40):
        closing, calls = grammar.closing(state), grammar.calls(state)
        assert calls == worst_case_calls(parse_completion((text + closing).decode(), limits=grammar.limits))
        if state in seen:
            continue
        seen.add(state)
        for place, byte in enumerate(closing):
            state = grammar.read(state, byte)
            assert (grammar.closing(state), grammar.calls(state)) == (closing[place + 1 :], calls)
        assert state.at == "finished"
    places = {state.at for state in seen}
    assert places >= {"stage", "tail", "side", "name", "called", "string", "quoted", "grouped", "times", "colon"}


def test_the_closing_of_reasoning_begins_the_element():
    grammar = Grammar(("Custom", "Format"), Limits())
    for text, closing in [
        ("", "<workflow>Custom</workflow>"),
        ("as <work", "flow>Custom</workflow>"),
        ("as </work", "<workflow>Custom</workflow>"),
    ]:
        state: State = grammar.start
        for byte in text.encode():
            state = grammar.read(state, byte)
        assert grammar.closing(state).decode() == closing
    state = grammar.read(grammar.start, 0xF0)
    assert grammar.closing(state).startswith(b"\x90\x80\x80<workflow>")
    assert characters(grammar.closing(state)) == len("<workflow>Custom</workflow>")
