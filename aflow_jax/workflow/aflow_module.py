"""AFlow's own format: a graph module with `class Workflow`, and a prompt module with its constants.

Zhang et al. 2024, "AFlow: Automating Agentic Workflow Generation". A graph can be written as such modules, for AFlow to
run, and modules can be read as graphs. Reading parses; nothing of a module is ever executed or imported.
"""

from __future__ import annotations

from typing import NamedTuple

from aflow_jax.workflow.aflow_reader import Reader
from aflow_jax.workflow.aflow_scope import AFlowError
from aflow_jax.workflow.aflow_writer import Writer
from aflow_jax.workflow.graph import Workflow

__all__ = ["AFlowError", "AFlowModule", "from_aflow_module", "to_aflow_module"]


class AFlowModule(NamedTuple):
    """The two files of one AFlow workflow.

    Attributes:
        graph: the text of graph.py.
        prompt: the text of prompt.py.
    """

    graph: str
    prompt: str


def to_aflow_module(workflow: Workflow, *, dataset: str | None = None, round_number: int = 1) -> AFlowModule:
    """Return the modules that run the workflow under AFlow; `from_aflow_module` reads an equal workflow from them.

    Args:
        workflow: the graph.
        dataset: AFlow's name of the data, which is part of the import paths; HumanEval where None and the workflow
            writes or tests code for an entry point, else GSM8K.
        round_number: the round, which is part of the import paths too.
    """
    return AFlowModule(*Writer(workflow, dataset, round_number).modules())


def from_aflow_module(source: str | AFlowModule, prompt: str = "") -> Workflow:
    """Return the workflow that an AFlow module describes, without executing any of it.

    Understood: awaits in sequence; lists of candidates, appended to in a `for` over a `range` or written out; loops of
    1 to 5 rounds that carry a solution on, with `break` or `return`; `if` on a review's or test's result; text joined
    with `+` or an f-string; prompt constants; returns. What has no like in the language is refused.

    A sentence that is returned where a check has failed, as AFlow's users write it, stands for the solution as it is.

    An operator sees the problem and the solution so far by itself, so literals that only label them (up to
    80 characters) are left out; the prompt constants in an operator's input are its instruction.

    Args:
        source: the graph module's text, or both modules.
        prompt: the prompt module's text, where `source` is the graph module alone. Constants may stand in the graph
            module, too.

    Raises:
        AFlowError: with the line and the construct that is not understood.
    """
    graph, prompt = source if isinstance(source, AFlowModule) else (source, prompt)
    return Reader(graph, prompt).workflow()
