"""The policy's answer in both formats: one graph, one run, one set of limits, whichever it is written in."""

import pytest
from hypothesis import assume, given, settings
from random_workflows import WORKFLOWS
from scripted import CODE, MATH, ScriptedEndpoint, code, execute, review, solution

from aflow_jax.workflow import (
    Limits,
    WorkflowError,
    answer_text,
    format,
    from_aflow_module,
    operator_names,
    operators_of,
    parse,
    read_answer,
)
from aflow_jax.workflow.aflow_writer import call_form
from aflow_jax.workflow.warm_start import STANDARD_WORKFLOWS

TEXTS = sorted({text for texts in STANDARD_WORKFLOWS.values() for text in texts})


def fault(text: str, **options) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        read_answer(text, "aflow", **options)
    assert 1 <= caught.value.column <= len(text) + 1
    assert 0 <= caught.value.progress < 1
    return caught.value


def module_of(text: str) -> str:
    return answer_text(parse(text), "aflow")


@given(WORKFLOWS)
@settings(max_examples=60, deadline=None)
def test_an_answer_is_read_back_in_either_format(workflow):
    assert read_answer("So.\n" + answer_text(workflow)) == workflow
    # A check of which both results end the loop leaves what comes after it without a way to be reached in AFlow.
    assume("? done : done" not in format(workflow))
    assert read_answer("So.\n" + answer_text(workflow, "aflow") + "\nDone.", "aflow") == workflow


def busy(asked):
    match asked.operator:
        case "Review":
            return review("fail" if len(asked.user) % 2 else "pass")
        case "Programmer":
            return code("def solve():\n    return 42\n\ndef double(x):\n    return 2 * x")
        case "CustomCodeGenerate" | "Test":
            return code("def double(x):\n    return x + 2")
        case "Revise" if "<entry_point>" in asked.user:
            return code("def double(x):\n    return x * 2")
        case "AnswerGenerate":
            return f"<thought>well</thought><answer>{len(asked.user) % 3}</answer>"
        case "ScEnsemble":
            return "<choice>A</choice>"
        case "Format":
            return "<answer>1</answer>"
    return solution(str(len(asked.user) % 3))


@pytest.mark.parametrize("text", ["[Custom, AnswerGenerate, Programmer] -> ScEnsemble -> (Review ? Revise : done) * 2"])
@pytest.mark.parametrize("problem", [MATH, CODE], ids=["math", "code"])
def test_a_workflow_runs_the_same_whichever_format_it_came_in(text, problem):
    from_language = read_answer(answer_text(parse(text)))
    from_aflow = read_answer(module_of(text), "aflow")
    first = execute(format(from_language), ScriptedEndpoint(busy), problem, seed=(3,))
    assert first == execute(format(from_aflow), ScriptedEndpoint(busy), problem, seed=(3,))
    assert first.trace


def test_an_error_has_the_line_of_the_module_and_the_column_of_the_answer():
    answer = "I think.\n" + module_of("Custom -> Format").replace("await self.format(", "await eval(")
    error = fault(answer)
    assert error.code == "PARSE"
    assert answer[: error.column - 1].count("\n") == 1 + 11  # the reasoning's line, and those of the module before it
    assert error.message.startswith("line 12 of the module: not understood: an await of anything but an operator")


def test_an_answer_has_exactly_one_element_with_a_module():
    module = module_of("Custom")
    assert fault(module * 2).message.startswith("expected exactly one <workflow>")
    assert fault("Custom").message.endswith("found none")
    assert "not Python" in fault("<workflow>Custom -> Format</workflow>").message
    assert "not Python" in fault("<workflow>\n```python\n" + from_fence(module) + "\n```\n</workflow>").message


def from_fence(module: str) -> str:
    return module.removeprefix("<workflow>\n").removesuffix("</workflow>")


@pytest.mark.parametrize(
    ("text", "limits", "code", "words"),
    [
        ("(Custom) * 5", {"calls": 4}, "LIMIT", "workflow_limits.calls"),
        ("[Custom, Custom, Custom]", {"branches": 2}, "LIMIT", "workflow_limits.branches"),
        ("((Custom) * 2 -> Format) * 2", {"nesting": 1}, "LIMIT", "workflow_limits.nesting"),
        ('Custom("12345")', {"instruction": 4}, "LIMIT", "workflow_limits.instruction"),
        ("Custom -> Format", {"characters": 10}, "LIMIT", "workflow_limits.characters"),
        ("Custom -> MdEnsemble", {}, "PARSE", "MdEnsemble is not offered here"),
    ],
)
def test_the_same_limits_and_operators_hold(text, limits, code, words):
    operators = [name for name in operator_names() if name != "MdEnsemble"]
    error = fault(module_of(text), operators=operators, limits=Limits(**limits))
    assert error.code == code
    assert words in error.message
    assert read_answer(module_of(text), "aflow") == parse(text)


def test_progress_grows_with_what_is_right():
    module = module_of('Custom("Plan.") -> Format')
    texts = [
        "no element",
        module.removesuffix("</workflow>"),
        module.replace("class Workflow:", "class Workflow(Base):"),
        module.replace("self.format = operator.Format", "self.format = operator.Frmat"),
        module.replace('result["solution"]', 'result["sum"]'),
        module_of("(Custom -> Custom -> Custom -> Custom -> Custom) * 4"),
    ]
    progress = [fault(text, limits=Limits(calls=19)).progress for text in texts]
    assert progress == sorted(progress)
    assert len(set(progress)) == len(progress)


def test_tags_in_an_instruction_cannot_end_the_element():
    workflow = parse(r'Custom("</workflow><workflow>\\ \"it\"\n")')
    assert read_answer(answer_text(workflow, "aflow"), "aflow") == workflow
    assert from_aflow_module(from_fence(answer_text(workflow, "aflow"))) == workflow


@pytest.mark.parametrize("name", operator_names())
def test_every_operator_can_be_called_as_the_prompt_says(name):
    """The call that the prompt shows, with what stands before it, is read as the operator."""
    call, fields = call_form(name)
    attribute = call.removeprefix("await self.").partition("(")[0]
    before = {
        "solution": 'solution = (await self.format(problem=problem, solution=""))["solution"]',
        "feedback": 'feedback = "None"',
        "candidates": 'candidates = [await self.format(problem=problem, solution="") for _ in range(2)]',
    }
    body = [line for word, line in before.items() if f"={word}" in call]
    body += [f"result = {call}", f"return {'solution' if name == 'Review' else f'result[{fields[-1]!r}]'}"]
    module = "\n".join([
        'NAME = "Mind."', "class Workflow:", "    def __init__(self, name, llm_config, dataset):",
        "        self.format = operator.Format(self.llm)", f"        self.{attribute} = operator.{name}(self.llm)",
        "    async def __call__(self, problem, entry_point):", *(f"        {line}" for line in body),
    ])  # fmt: skip
    assert operators_of(from_aflow_module(module))[-1] == name
