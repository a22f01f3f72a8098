"""AFlow's format: what is written can be read back, what AFlow users write is understood, the rest is refused."""

import ast
import textwrap

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_workflows import WORKFLOWS

from aflow_jax.workflow import format, parse
from aflow_jax.workflow.aflow_module import AFlowError, AFlowModule, from_aflow_module, to_aflow_module
from aflow_jax.workflow.warm_start import STANDARD_WORKFLOWS

COST = 'self.llm.get_usage_summary()["total_cost"]'
PROMPTS = 'SOLVE = "Solve it."\nMEND = """Mend it."""\n'
HEADER = """\
from typing import Literal
import workspace.HumanEval.workflows.template.operator as operator
import workspace.HumanEval.workflows.round_3.prompt as prompt_custom
from scripts.async_llm import create_llm_instance
from scripts.evaluator import DatasetType

class Workflow:
    def __init__(self, name: str, llm_config, dataset: DatasetType) -> None:
        self.name = name
        self.dataset = dataset
        self.llm = create_llm_instance(llm_config)
        self.custom = operator.Custom(self.llm)
        self.answer_generate = operator.AnswerGenerate(self.llm)
        self.custom_code_generate = operator.CustomCodeGenerate(self.llm)
        self.programmer = operator.Programmer(self.llm)
        self.test = operator.Test(self.llm)
        self.review = operator.Review(self.llm)
        self.revise = operator.Revise(self.llm)
        self.format = operator.Format(self.llm)
        self.sc_ensemble = operator.ScEnsemble(self.llm)

    async def __call__(self, problem: str, entry_point: str):
"""


def module(body: str) -> str:
    return HEADER + textwrap.indent(textwrap.dedent(body).strip().replace("COST", COST), " " * 8) + "\n"


def read(body: str) -> str:
    return format(from_aflow_module(module(body), PROMPTS))


def refusal(body: str) -> AFlowError:
    with pytest.raises(AFlowError) as caught:
        from_aflow_module(module(body), PROMPTS)
    return caught.value


@pytest.mark.parametrize("text", sorted({text for texts in STANDARD_WORKFLOWS.values() for text in texts}))
def test_standard_workflows_round_trip(text):
    assert format(from_aflow_module(to_aflow_module(parse(text)))) == text


@given(WORKFLOWS)
@settings(max_examples=80, deadline=None)
def test_every_workflow_round_trips(workflow):
    # A check of which both results end the loop leaves what comes after it without a way to be reached.
    assume("? done : done" not in format(workflow))
    written = to_aflow_module(workflow)
    ast.parse(written.graph)
    ast.parse(written.prompt)
    assert from_aflow_module(written) == workflow


def test_what_is_written_is_aflows_layout():
    written = to_aflow_module(parse('CustomCodeGenerate("Be quick.") -> Test ? Revise : done'))
    assert written.prompt == "CUSTOM_CODE_GENERATE_1 = 'Be quick.'\n"
    for line in (
        "import workspace.HumanEval.workflows.round_1.prompt as prompt_custom",
        "    def __init__(self, name: str, llm_config, dataset: DatasetType) -> None:",
        "        self.custom_code_generate = operator.CustomCodeGenerate(self.llm)",
        "    async def __call__(self, problem: str, entry_point: str):",
        f"        return solution, {COST}",
    ):
        assert line in written.graph.splitlines()
    other = to_aflow_module(parse("Custom"), dataset="MATH", round_number=7)
    assert "import workspace.MATH.workflows.round_7.prompt as prompt_custom" in other.graph
    assert "async def __call__(self, problem: str):" in other.graph


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            """
            solution = await self.custom(input=problem, instruction=prompt_custom.SOLVE)
            return solution['response'], COST
            """,
            'Custom("Solve it.")',
        ),
        (
            """
            '''Think, then answer.'''
            thought = await self.answer_generate(input=problem)
            final = await self.custom(input=f"Problem: {problem}\\nThought: {thought['thought']}", instruction="")
            return final.get('response', ''), self.llm.cost_manager.total_cost
            """,
            "AnswerGenerate -> Custom",
        ),
        (
            """
            solutions = []
            for _ in range(3):
                solution = await self.custom(input=problem + prompt_custom.SOLVE, instruction="", role="solver")
                solutions.append(solution['response'])
            best = await self.sc_ensemble(solutions=solutions, problem=problem)
            return best['response'], COST
            """,
            '[Custom("Solve it."), Custom("Solve it."), Custom("Solve it.")] -> ScEnsemble',
        ),
        (
            """
            plan = await self.custom(input=problem, instruction=prompt_custom.SOLVE)
            coded = await self.programmer(problem=problem, analysis=plan['response'])
            again = await self.custom(input=problem + "\\nPlan: " + plan['response'], instruction=prompt_custom.MEND)
            best = await self.sc_ensemble([coded['output'], again['response']], problem)
            return best['response'], COST
            """,
            'Custom("Solve it.") -> [Programmer, Custom("Mend it.")] -> ScEnsemble',
        ),
        (
            """
            drafts = await asyncio.gather(*[self.answer_generate(input=problem) for _ in range(2)])
            best = await self.sc_ensemble(solutions=[draft['answer'] for draft in drafts], problem=problem)
            return best['response']
            """,
            "[AnswerGenerate, AnswerGenerate] -> ScEnsemble",
        ),
        (
            """
            code = await self.custom_code_generate(problem=problem, entry_point=entry_point, instruction="")
            test = await self.test(problem=problem, solution=code['response'], entry_point=entry_point)
            if test['result']:
                return test['solution'], COST
            else:
                text = problem + "\\nIt failed:\\n" + test['solution']
                mended = await self.custom(input=text, instruction=prompt_custom.MEND)
                return mended['response'], COST
            """,
            'CustomCodeGenerate -> Test ? Custom("Mend it.") : done',
        ),
        (
            """
            solution = (await self.answer_generate(input=problem))['answer']
            review = await self.review(problem=problem, solution=solution)
            if not review['review_result']:
                revised = await self.revise(problem=problem, solution=solution, feedback=review['feedback'])
                solution = revised['solution']
            final = await self.format(problem=problem, solution=solution)
            return final['solution'], COST
            """,
            "AnswerGenerate -> Review ? Revise : done -> Format",
        ),
        (
            """
            result = await self.custom_code_generate(problem=problem, entry_point=entry_point, instruction="")
            solution = result['response']
            for i in range(3):
                test = await self.test(problem=problem, solution=solution, entry_point=entry_point)
                if test['result'] == True:
                    break
                revised = await self.revise(problem=problem, solution=test['solution'], feedback="The tests fail.")
                solution = revised['solution']
            return solution, COST
            """,
            "CustomCodeGenerate -> (Test ? Revise : done) * 3",
        ),
        (
            """
            for _ in range(3):
                code = await self.custom_code_generate(problem=problem, entry_point=entry_point, instruction="")
                test = await self.test(problem=problem, solution=code['response'], entry_point=entry_point)
                solution = test['solution']
                if test['result']:
                    return solution, COST
            return solution, COST
            """,
            "CustomCodeGenerate -> (Test ? CustomCodeGenerate : done) * 2 -> Test",
        ),
        (
            """
            first = await self.custom(input=problem, instruction=prompt_custom.SOLVE)
            review = await self.review(problem=problem, solution=first)
            return first['response'], COST
            """,
            'Custom("Solve it.") -> Review',
        ),
        (
            """
            attempts = 2
            solutions = []
            for attempt in range(attempts):
                draft = await self.custom_code_generate(problem=problem, entry_point=entry_point, instruction="")
                solutions.append(draft['response'])
            best = await self.sc_ensemble(solutions=solutions, problem=problem)
            print("the best of them:", best['response'])
            test = await self.test(problem=problem, solution=best['response'], entry_point=entry_point)
            if test['result']:
                return test['solution'], COST
            else:
                return "No solution passed the tests.", COST
            """,
            "[CustomCodeGenerate, CustomCodeGenerate] -> ScEnsemble -> Test ? done : done",
        ),
        (
            """
            draft = await self.custom(input=problem, instruction=prompt_custom.SOLVE)
            review = await self.review(problem=problem, solution=draft['response'])
            if not review['review_result']:
                draft = await self.revise(problem=problem, solution=draft['response'], feedback=review['feedback'])
            return draft['solution'], COST
            """,
            'Custom("Solve it.") -> Review ? Revise : done',
        ),
    ],
)
def test_the_usual_shapes_are_understood(body, expected):
    assert read(body) == expected


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("import os\nreturn problem", 1, "a statement of the kind Import"),
        ("__import__('os').system('true')\nreturn problem", 1, "a statement of the kind Expr"),
        ("x = eval(problem)\nreturn x", 1, "`eval(problem)`"),
        ("x = problem.__class__\nreturn x", 1, "`problem.__class__`"),
        ("while True:\n    pass", 1, "a statement of the kind While"),
        ("try:\n    pass\nexcept Exception:\n    pass", 1, "a statement of the kind Try"),
        ("x = 'a' * 10**9\nreturn x", 1, "not understood"),
        ("x = [i for i in range(10**9)]\nreturn x", 1, "`range(10 ** 9)`"),
        ("x = [problem for i in range(99)]\nreturn x", 1, "more than 8 rounds"),
        ("for i in range(10**9):\n    x = await self.custom(input=problem)\nreturn x", 1, "a for over anything"),
        ("for i in range(9):\n    x = await self.custom(input=problem)\nreturn x", 1, "a loop of 9 rounds"),
        ("x = await self.llm(problem)\nreturn x", 1, "self.llm, which __init__ does not make an operator"),
        ("x = await self.custom(input=problem, instruction=prompt_custom.NONE)\nreturn x", 1, "constant NONE"),
        ("x = await self.custom(input=problem)\nif len(problem) > 3:\n    pass\nreturn x", 2, "`len(problem) > 3`"),
        ("x = await self.custom(input=problem)\nif x:\n    pass\nreturn x", 2, "a condition other than"),
        ("x = await self.custom(input=problem)\ny = await self.programmer(problem=problem)\nreturn y", 1, "never used"),
        (
            "x = await self.custom(input=problem)\ny = await self.programmer(problem=problem)\n"
            "z = await self.custom(input=problem + x['response'] + y['output'])\nreturn z",
            3,
            "results that do not follow from each other",
        ),
        ("x = await self.custom(input=problem + '" + "x" * 81 + "')\nreturn x", 1, "make it a prompt constant"),
        ("x = await self.custom(input=problem)\nreturn x, problem", 2, "a second result other than the cost"),
        ("x = await self.custom(input=problem)", 0, "does not return"),
        ("return problem", 1, "a return of a text that no operator made"),
        ("x = await self.custom(input=problem)\nreturn '42'", 2, "a return of a text that no operator made"),
        (
            "x = await self.custom(input=problem)\nr = await self.review(problem, x)\nif r['review_result']:\n"
            "    return '42'\nreturn x",
            4,
            "a return of a text that no operator made",
        ),
        ("return ''", 0, "a workflow that runs no operator"),
        ("x = 0x" + "f" * 6000 + "\nreturn x", 1, "a number above"),
        ("for i in range(10**9**9):\n    pass", 1, "a for over anything"),
        ("x = '\\ud800'\nreturn x", 1, "half of a surrogate pair"),
        ("x = f'{problem:>999999999}'\nreturn x", 1, "a format in an f-string"),
        ("x = f'{problem!r}'\nreturn x", 1, "a format in an f-string"),
        ("x = '%s' % problem\nreturn x", 1, "`'%s' % problem`"),
        ("x = '{0.__class__.__mro__}'.format(problem)\nreturn x", 1, "`'{0.__class__.__mro__}'.format(problem)`"),
        ("x = (lambda: problem)()\nreturn x", 1, "`(lambda: problem)()`"),
        ("x = {problem: [problem]}\nreturn x", 1, "`{problem: [problem]}`"),
        ("x = [[problem]] * 9\nreturn x", 1, "`[[problem]] * 9`"),
        ("x = self.__init__.__globals__\nreturn x", 1, "`self.__init__.__globals__`"),
        ("x = prompt_custom.__builtins__\nreturn x", 1, "the prompt constant __builtins__"),
        ("print(eval(problem))\nreturn problem", 1, "`eval(problem)`"),
        ("print(await self.custom(input=problem))\nreturn problem", 1, "a print of what is not yet there"),
        ("global problem\nreturn problem", 1, "a statement of the kind Global"),
        ("del problem\nreturn problem", 1, "a statement of the kind Delete"),
        ("with open('x') as f:\n    pass", 1, "a statement of the kind With"),
        ("def f():\n    pass", 1, "a statement of the kind FunctionDef"),
        ("x = yield problem", 1, "`(yield problem)`"),
        ("x = await self.sc_ensemble(solutions=[problem, problem])\nreturn x", 1, "a candidate that no operator"),
        (
            "for _ in range(2):\n    x = await self.custom(input=problem)\n    r = await self.review(problem, x)\n"
            "    if r['review_result']:\n        pass\n    else:\n        x = await self.revise(problem, x)\nreturn x",
            4,
            "an arm that does nothing, in a loop that then goes on",
        ),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_line(body, line, words):
    error = refusal(body)
    assert words in error.message
    assert error.line == len(HEADER.splitlines()) + line


def test_doubling_texts_and_nested_loops_are_stopped():
    doubled = "x = problem + problem\n" + "x = x + x\n" * 200 + "y = await self.custom(input=x)\nreturn y"
    assert read(doubled) == "Custom"
    assert "more than 64 pieces" in refusal("x = problem + 'a'\n" + "x = x + x\n" * 200 + "return x").message
    nested = "".join(f"{'    ' * depth}for i{depth} in range(8):\n" for depth in range(8))
    calls = f"{'    ' * 8}x = []\n{'    ' * 8}x.append(await self.custom(input=problem))\n"
    assert "a loop of 8 rounds" in refusal("y = []\n" + nested + calls + "return y").message
    outer = nested.replace("range(8)", "range(5)") + f"{'    ' * 8}y.append(problem)\n"
    assert "a list of more than 8" in refusal("y = []\n" + outer + "return y").message
    assert refusal("x = " + "(" * 150 + "problem" + ")" * 150 + " + problem" * 3000 + "\nreturn x").line


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "there is no class Workflow"),
        ("class Workflow:\n    pass\n", "a member of class Workflow"),
        ("class Workflow(Base):\n    pass\n", "one with a base class"),
        ("class Workflow(metaclass=Type):\n    pass\n", "one with a base class"),
        ("@register\nclass Workflow:\n    pass\n", "or a decorator"),
        (HEADER + "        return problem\n" + "class Workflow:\n    pass\n", "a second class Workflow"),
        (HEADER + "        return problem\n    async def __call__(self, problem):\n        pass\n", "a member"),
        ("def helper():\n    pass\n", "a FunctionDef beside class Workflow"),
        ("print('hello')\n", "beside class Workflow"),
        ("class Workflow(\n", "not Python"),
        ("x = '\0'\n", "not Python"),
        ("x = " + "(" * 100_000, "characters"),
        ("x = " + "-" * 90_000 + "1\n", "not Python"),
        (
            HEADER.replace("operator.Custom(", "operator.Rephrase(") + "        return problem\n",
            "the operator Rephrase",
        ),
    ],
)
def test_what_is_no_module_of_a_workflow_is_refused(source, words):
    with pytest.raises(AFlowError, match=words):
        from_aflow_module(AFlowModule(source, ""))


def test_hostile_shapes_are_refused_before_they_cost_anything():
    """Shapes that cost most in a reader that follows every way, or that recurses once for each level."""
    check = "r = await self.review(problem, x)\n"
    arms = "".join(
        f"{check}if r['review_result']:\n    x = await self.revise(problem, x)\n    y = x\n" for _ in range(90)
    )
    assert "calls" in refusal(f"x = await self.custom(input=problem)\n{arms * 3}return x").message
    ways = "".join(f"{check}if r['review_result']:\n    if r['review_result']:\n        return x\n" for _ in range(60))
    assert refusal(f"x = await self.custom(input=problem)\n{ways}return x").line
    names = "\n".join(f"v{n} = problem" for n in range(51))
    assert "more than 50 names" in refusal(f"{names}\nreturn problem").message
    chain = "if x:\n    pass\n" + "elif x:\n    return x\n" * 4000
    assert refusal(f"x = await self.custom(input=problem)\n{chain}").line
    assert refusal("x = problem" + ".a" * 20_000 + "\nreturn x").line
    assert refusal("x = " + " + ".join(["problem"] * 9000) + "\nreturn x").line
    assert refusal("x = f'" + "{problem}a" * 5000 + "'\nreturn x").line


WORDS = module(
    """
    solutions = []
    for _ in range(2):
        x = await self.custom(input=problem, instruction=prompt_custom.SOLVE)
        solutions.append(x['response'])
    best = await self.sc_ensemble(solutions=solutions, problem=problem)
    review = await self.review(problem=problem, solution=best['response'])
    if not review['review_result']:
        best = await self.revise(problem=problem, solution=best['response'], feedback=review['feedback'])
    return best['response'], COST
    """
).split(" ")


@given(st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_garbled_modules_are_read_or_refused(source):
    words = list(WORDS)
    for _ in range(source.randint(1, 4)):
        words[source.randrange(len(words))] = source.choice(words)
    try:
        workflow = from_aflow_module(" ".join(words), PROMPTS)
    except AFlowError as error:
        assert error.line >= 1
    else:
        assert parse(format(workflow)) == workflow
