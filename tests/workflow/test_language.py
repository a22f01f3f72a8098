"""The language: what parses, what it means, how it is written back, and what is refused where."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_workflows import WORKFLOWS, fuzzed

from aflow_jax.workflow import (
    Branch,
    Call,
    Chain,
    Limits,
    Loop,
    Parallel,
    WorkflowError,
    format,
    graph_record,
    parse,
    parse_completion,
)

A, P, C, S = (Chain((Call(name),)) for name in ("AnswerGenerate", "Programmer", "Custom", "ScEnsemble"))
REVISE = Chain((Call("Revise"),))


def fault(text: str, *, parser=parse, **options) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        parser(text, **options)
    assert 0 <= caught.value.progress < 1
    return caught.value


@pytest.mark.parametrize(
    ("text", "workflow"),
    [
        ("Programmer", P),
        (
            'Custom("List the entities first.") -> AnswerGenerate',
            Chain((Call("Custom", "List the entities first."), Call("AnswerGenerate"))),
        ),
        ("[AnswerGenerate, Programmer, Custom] -> ScEnsemble", Chain((Parallel((A, P, C)), Call("ScEnsemble")))),
        (
            "CustomCodeGenerate -> (Test ? Revise : done) * 3",
            Chain((Call("CustomCodeGenerate"), Loop(Chain((Branch(Call("Test"), REVISE, None),)), 3))),
        ),
        (
            "AnswerGenerate -> Review ? Revise : done -> Format",
            Chain((Call("AnswerGenerate"), Branch(Call("Review"), REVISE, None), Call("Format"))),
        ),
        (
            'Review("Be strict.") ? done : (Custom -> Format)',
            Chain((Branch(Call("Review", "Be strict."), None, Chain((Call("Custom"), Call("Format")))),)),
        ),
    ],
)
def test_the_examples_of_the_language_mean_what_they_say(text, workflow):
    assert parse(text) == workflow
    assert format(workflow) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Custom->done", "Custom"),
        (" [ Custom ,Programmer]\n->\tScEnsemble ", "[Custom, Programmer] -> ScEnsemble"),
        ("((Custom)) -> (Format -> done)", "Custom -> Format"),
        ("(Custom -> done)*2", "(Custom) * 2"),
        ("Review?(Revise):(done2)".replace("done2", "Custom"), "Review ? Revise : Custom"),
        ('Custom( "\\u0041\\/b" )', 'Custom("A/b")'),
        ('Custom("")', 'Custom("")'),
    ],
)
def test_a_text_has_one_canonical_form(text, canonical):
    assert format(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "expected an operator"),
        ("Custom -> ", 11, "found the end"),
        ("Custom Custom", 8, 'expected "(", "->" or the end of the workflow, found "Custom"'),
        ("Programer", 1, "the nearest one is Programmer"),
        ("custom", 1, "the nearest one is Custom"),
        ("Custom → Format", 8, 'found "→"'),
        ("Custom()", 8, "expected a JSON string"),
        ("Custom('x')", 8, "expected a JSON string"),
        ('Custom("x', 8, "the string that starts here never ends"),
        ('Custom("a\nb")', 10, "write it as an escape"),
        (r'Custom("a\x")', 10, "no JSON escape"),
        (r'Custom("\ud800")', 8, "surrogate"),
        ("Custom ? Revise : done", 1, "Custom is no checker: only Review or Test"),
        ("Review ? Revise", 16, 'expected "(" or ":", found the end'),
        ("Review ? Test ? Revise : done : done", 15, "an arm that branches stands in round brackets"),
        ("Review ? Custom -> Format : done", 17, "an arm of several stages stands in round brackets"),
        ("Custom * 2", 8, "only a group repeats"),
        ("(Custom) * 6", 12, "a number from 1 to 5"),
        ("(Custom) * 0", 12, "a number from 1 to 5"),
        ("(Custom) * 02", 12, "a number from 1 to 5"),
        ("[Custom]", 8, 'expected "(", "->" or ","'),
        ("[Custom, Custom", 16, 'expected "(", "->", "," or "]"'),
        ("done", 1, '"done" is no stage'),
        ("(done) * 2", 2, '"done" is no stage'),
        ("Custom -> done -> Custom", 16, "expected the end of the workflow"),
        ("Custom;", 7, 'found ";"'),
        ("Custom -> -> Format", 11, 'expected "done", an operator, "(" or "[", found "->"'),
        ("Custom, Programmer", 7, "side by side stands in square brackets: [X, Y]"),
        ("(Custom, Programmer) -> ScEnsemble", 8, "side by side stands in square brackets"),
        ("Custom => Format", 8, 'stages follow each other by "->"'),
        ("Custom\nFormat", 8, 'stages follow each other by "->"'),
        ("ScEnsemble()", 12, "without an instruction there are no brackets"),
        ('Custom(instruction="x")', 8, "its instruction, in double quotes, and nothing else"),
        ("Custom(“x”)", 8, "in double quotes"),
        ("AnswerGenerate(Custom)", 16, "its instruction, in double quotes, and nothing else"),
        ('Custom("Say "hi".")', 14, r"a quote inside an instruction is written \""),
        ("Review ? Revise : Done", 19, 'found "Done": the word is "done"'),
        ("Review ? Revise : done * 2", 24, "as an arm it stands in round brackets of its own"),
        ('{"workflow": "Custom"}', 1, 'expected an operator, "(" or "[", found "{"'),
    ],
)
def test_an_error_says_what_was_expected_and_where(text, column, words):
    error = fault(text)
    assert (error.code, error.column) == ("PARSE", column)
    assert words in error.message
    assert str(error) == f"PARSE at column {column}: {error.message}"


@pytest.mark.parametrize(
    ("limit", "within", "beyond", "column"),
    [
        ("characters", "Custom" + " " * 1994, "Custom" + " " * 1995, 2001),
        ("nesting", "((((Custom))))", "(((((Custom)))))", 5),
        ("branches", f"[{', '.join(['Custom'] * 8)}]", f"[{', '.join(['Custom'] * 9)}]", 66),
        ("calls", f"({' -> '.join(['Custom'] * 6)}) * 4", f" ({' -> '.join(['Custom'] * 5)}) * 5", 2),
        ("instruction", f'Custom("{"é" * 400}")', f'Custom("{"é" * 401}")', 8),
    ],
)  # fmt: skip
def test_each_limit_has_its_own_error(limit, within, beyond, column):
    parse(within)
    error = fault(beyond)
    assert (error.code, error.column) == ("LIMIT", column)
    assert f"(workflow_limits.{limit})" in error.message
    parse(beyond, limits=Limits(**{limit: 10_000}))


def test_no_nesting_ends_in_a_recursion_error():
    limits = Limits(nesting=10**6, characters=10**6)
    assert fault("(" * 200_000, limits=limits).code == "LIMIT"
    assert fault("[" * 200_000, limits=limits).code == "LIMIT"
    assert parse("(" * 90 + "Custom" + ")" * 90, limits=limits) == C


def test_only_the_operators_offered_may_be_used():
    assert parse("Custom", ["Custom", "Programmer"]) == C
    error = fault("Custom -> Format", operators=["Custom", "Programmer"])
    assert (error.code, error.column) == ("PARSE", 11)
    assert error.message == "the operator Format is not offered here: use Custom, Programmer"


def test_an_answer_holds_exactly_one_element():
    answer = "I would draft, then check.\n<workflow> Custom -> Format </workflow>\nThat is all."
    assert parse(answer) == parse_completion(answer) == parse("Custom -> Format")
    assert fault("Custom", parser=parse_completion).message.endswith("element, found none")
    assert fault("<workflow>Custom", parser=parse_completion).column == 17
    assert fault("Custom</workflow>", parser=parse_completion).column == 7
    two = "<workflow>Custom</workflow> or <workflow>Format</workflow>"
    assert fault(two).column == 32
    assert fault("<workflow><workflow>Custom</workflow>", parser=parse_completion).column == 11


def test_the_column_counts_from_the_start_of_the_answer():
    assert fault("Well.\n<workflow>Custom -> Frmat</workflow>").column == 27


def test_tags_inside_an_instruction_cannot_end_the_element():
    workflow = Chain((Call("Custom", "</workflow><workflow>Format</workflow>"),))
    assert parse(format(workflow)) == workflow
    assert parse_completion(f"<workflow>{format(workflow)}</workflow>") == workflow
    raw = 'Custom("<workflow>Format</workflow>")'
    assert parse(raw) == Chain((Call("Custom", "<workflow>Format</workflow>"),))


def test_progress_grows_with_what_is_right():
    texts = [
        "no element",
        "<workflow>Custom",
        "<workflow>?</workflow>",
        "<workflow>Custom -> Frmat</workflow>",
        "<workflow>AnswerGenerate -> [Custom, Programmer] -> Frmat</workflow>",
        "<workflow>([Custom, Custom, Custom, Custom, Custom]) * 5</workflow>",
    ]
    progress = [fault(text, parser=parse_completion).progress for text in texts]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert len(set(progress)) == len(progress)
    assert fault("<workflow>" + "[" * 3000 + "</workflow>", parser=parse_completion).progress == 0.2


@given(WORKFLOWS)
@settings(max_examples=120, deadline=None)
def test_parsing_the_canonical_text_gives_the_graph_back(workflow):
    text = format(workflow)
    assert parse(text) == workflow
    assert format(parse(text)) == text
    assert parse_completion(f"Some reasoning.\n<workflow>{text}</workflow>") == workflow


@given(st.one_of(st.text(max_size=60), st.text(alphabet='CustomReviwdn()[],?:*->"\\ 1<>/wkfl', max_size=60)))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_workflow_or_an_error_with_a_column_in_it(text):
    for parser in (parse, parse_completion):
        try:
            workflow = parser(text)
        except WorkflowError as error:
            assert error.code in ("PARSE", "LIMIT")
            assert 1 <= error.column <= len(text) + 1
        else:
            assert parse(format(workflow)) == workflow


def test_fuzzed_texts_never_crash_and_round_trip_when_they_parse():
    source = random.Random(20)
    parsed = 0
    for _ in range(20_000):
        text = fuzzed(source)
        try:
            workflow = parse(text)
        except WorkflowError as error:
            assert 1 <= error.column <= len(text) + 1, text
        else:
            parsed += 1
            assert parse(format(workflow)) == workflow, text
    assert parsed > 200


def test_a_graph_is_plain_data_too():
    workflow = parse('[Custom("a"), Programmer] -> (Test ? Revise : done) * 2')

    def call(operator, instruction=None):
        return {"kind": "call", "operator": operator, "instruction": instruction}

    def chain(*stages):
        return {"kind": "chain", "stages": list(stages)}

    branch = {"kind": "branch", "check": call("Test"), "on_fault": chain(call("Revise")), "on_pass": None}
    assert graph_record(workflow) == chain(
        {"kind": "parallel", "branches": [chain(call("Custom", "a")), chain(call("Programmer"))]},
        {"kind": "loop", "times": 2, "body": chain(branch)},
    )
