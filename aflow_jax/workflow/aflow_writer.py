"""Write a workflow as AFlow's graph and prompt modules."""

from __future__ import annotations

import re
from contextlib import contextmanager

from aflow_jax.workflow.graph import Branch, Call, Chain, Loop, Parallel, Stage, Workflow
from aflow_jax.workflow.language import TAG
from aflow_jax.workflow.measures import operators_of

ENSEMBLES = ("ScEnsemble", "MdEnsemble")

# Each operator's arguments as AFlow names them, and the field of its record that becomes the solution.
# {text} is the problem with the solution so far, {problem} the problem alone; both with the instruction where
# {instruction} is not an argument of its own.
_CALLS = {
    "Custom": ("input={text}, instruction={instruction}", "response"),
    "AnswerGenerate": ("input={text}", "answer"),
    "CustomCodeGenerate": ("problem={text}, entry_point=entry_point, instruction={instruction}", "response"),
    "Programmer": ("problem={problem}, analysis={analysis}", "output"),
    "Test": ("problem={problem}, solution=solution, entry_point=entry_point", "solution"),
    "Review": ("problem={problem}, solution=solution", None),
    "Revise": ("problem={problem}, solution=solution, feedback=feedback", "solution"),
    "Format": ("problem={problem}, solution=solution", "solution"),
    "ScEnsemble": ("solutions={candidates}, problem={problem}", "response"),
    "MdEnsemble": ("solutions={candidates}, problem={problem}", "solution"),
}
VERDICTS = {"Review": "review_result", "Test": "result"}
_NEEDS_ENTRY_POINT = frozenset({"CustomCodeGenerate", "Test"})

_IMPORTS = """\
import workspace.{dataset}.workflows.template.operator as operator
import workspace.{dataset}.workflows.round_{round_number}.prompt as prompt_custom
from scripts.async_llm import create_llm_instance
from scripts.evaluator import DatasetType


"""

_HEAD = """\
class Workflow:
    def __init__(self, name: str, llm_config, dataset: DatasetType) -> None:
        self.name = name
        self.dataset = dataset
        self.llm = create_llm_instance(llm_config)
"""

_SHORT_HEAD = """\
class Workflow:
    def __init__(self, name, llm_config, dataset):
        self.llm = create_llm_instance(llm_config)
"""


def call_form(operator: str) -> tuple[str, list[str]]:
    """Return how an operator is called, as its first step, and the fields of its record that may be read."""
    arguments, field = _CALLS[operator]
    filled = arguments.format(
        text="problem",
        problem="problem",
        analysis="solution",
        instruction="prompt_custom.NAME",
        candidates="candidates",
    )
    verdict = VERDICTS.get(operator)
    fields = [verdict, field or "feedback"] if verdict else [field]
    return f"await self.{snake_case(operator)}({filled})", fields


class Writer:
    """Writes one workflow, line by line, in the order in which it runs."""

    def __init__(self, workflow: Workflow, dataset: str | None = None, round_number: int = 1) -> None:
        self._workflow = workflow
        self._names = tuple(dict.fromkeys(operators_of(workflow)))
        self._is_code = not _NEEDS_ENTRY_POINT.isdisjoint(self._names)
        self._dataset = dataset or ("HumanEval" if self._is_code else "GSM8K")
        self._round_number = round_number
        self._revises = "Revise" in self._names
        # Whether anything has run: until then `solution` is empty, and no operator is told of it.
        self._has_begun = False
        self._parallels = 0
        self._indent = 2
        self._lines: list[str] = []
        self._prompts: list[str] = []

    def modules(self) -> tuple[str, str]:
        """Return the texts of the graph module and of the prompt module."""
        workflow_class = self._class(_HEAD)
        imports = _IMPORTS.format(dataset=self._dataset, round_number=self._round_number)
        return imports + workflow_class, "".join(self._prompts)

    def one_module(self) -> str:
        """Return both as one module without imports: the prompt constants, then the class."""
        workflow_class = self._class(_SHORT_HEAD)
        prompts = "".join(self._prompts)
        return f"{prompts}\n{workflow_class}" if prompts else workflow_class

    def _class(self, head: str) -> str:
        self._line('solution = ""')
        if self._revises:
            self._line('feedback = "None"')
        self._chain(self._workflow, in_loop=False)
        self._line('return solution, self.llm.get_usage_summary()["total_cost"]')
        attributes = "".join(f"        self.{snake_case(name)} = operator.{name}(self.llm)\n" for name in self._names)
        arguments = "self, problem: str, entry_point: str" if self._is_code else "self, problem: str"
        call = f"    async def __call__({arguments}):\n"
        return head + attributes + "\n" + call + "\n".join(self._lines) + "\n"

    def _chain(self, chain: Chain, *, in_loop: bool) -> None:
        candidates = None
        for index, stage in enumerate(chain.stages):
            if isinstance(stage, Parallel):
                candidates = self._parallel(stage)
                if not _is_ensemble(chain.stages[index + 1 : index + 2]):
                    self._line(f"solution = max({candidates}, key={candidates}.count)")
                    self._has_begun = True
                continue
            if isinstance(stage, Call):
                self._call(stage, candidates if _is_ensemble((stage,)) else None)
            elif isinstance(stage, Branch):
                self._branch(stage, in_loop=in_loop)
            else:
                self._loop(stage)
            candidates = None

    def _call(self, call: Call, candidates: str | None = None) -> None:
        arguments, field = _CALLS[call.operator]
        prompt = None if call.instruction is None else self._prompt(call)
        own = "{instruction}" in arguments
        problem = "problem" if prompt is None or own else f'problem + "\\n\\n" + {prompt}'
        text = f'{problem} + "\\n\\nSolution so far:\\n" + solution' if self._has_begun else problem
        arguments = arguments.format(
            text=text,
            problem=problem,
            instruction=prompt or '""',
            analysis="solution" if self._has_begun else '"None"',
            candidates=candidates or "[solution]",
        )
        self._line(f"result = await self.{snake_case(call.operator)}({arguments})")
        if call.operator == "Programmer" and self._is_code:
            field = "code"
        if field is not None:
            self._line(f'solution = result["{field}"]')
        self._has_begun = True
        if self._revises and call.operator in VERDICTS:
            self._line(
                'feedback = result["feedback"]' if field is None else 'feedback = "The tests in the problem fail."'
            )

    def _branch(self, branch: Branch, *, in_loop: bool) -> None:
        self._call(branch.check)
        verdict = f'result["{VERDICTS[branch.check.operator]}"]'
        had_begun = self._has_begun
        self._line(f"if {verdict}:")
        self._arm(branch.on_pass, in_loop=in_loop)
        had_begun_in_pass, self._has_begun = self._has_begun, had_begun
        self._line("else:")
        self._arm(branch.on_fault, in_loop=in_loop)
        self._has_begun = self._has_begun or had_begun_in_pass

    def _arm(self, arm: Chain | None, *, in_loop: bool) -> None:
        with self._indented():
            if arm is None:
                self._line("break" if in_loop else "pass")
            else:
                self._chain(arm, in_loop=in_loop)

    def _loop(self, loop: Loop) -> None:
        self._line(f"for _ in range({loop.times}):")
        # From the second round on there may be one; `solution` is empty until then.
        self._has_begun = True
        with self._indented():
            self._chain(loop.body, in_loop=True)

    def _parallel(self, parallel: Parallel) -> str:
        """Write the branches, each from the same start; return the name of the list of candidates."""
        self._parallels += 1
        number, had_begun = self._parallels, self._has_begun
        candidates = f"candidates_{number}"
        self._line(f"{candidates} = []")
        kept = ["solution", "feedback"] if self._revises else ["solution"]
        for name in kept:
            self._line(f"{name}_{number} = {name}")
        for branch in parallel.branches:
            for name in kept:
                self._line(f"{name} = {name}_{number}")
            self._has_begun = had_begun
            self._chain(branch, in_loop=False)
            self._line(f"{candidates}.append(solution)")
        self._has_begun = True
        return candidates

    def _prompt(self, call: Call) -> str:
        name = f"{snake_case(call.operator).upper()}_{len(self._prompts) + 1}"
        # The tags of an answer's element are written with an escape, so that the module can stand in one.
        text = TAG.sub(lambda tag: "\\x3c" + tag[0][1:], ascii(call.instruction))
        self._prompts.append(f"{name} = {text}\n")
        return f"prompt_custom.{name}"

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._indent + text)

    @contextmanager
    def _indented(self):
        self._indent += 1
        yield
        self._indent -= 1


def snake_case(name: str) -> str:
    """Return an operator's name as AFlow writes the attribute: CustomCodeGenerate → custom_code_generate."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _is_ensemble(stages: tuple[Stage, ...]) -> bool:
    return any(isinstance(stage, Call) and stage.operator in ENSEMBLES for stage in stages)
