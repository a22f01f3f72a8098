"""A run can be watched: each operator is told when it starts and when it has ended, whatever ends it."""

import asyncio

from scripted import MATH, ScriptedEndpoint, execute, review, solution

from aflow_jax.llm import LLMFault
from aflow_jax.workflow import Executor, Outcome, parse


class Heard:
    def __init__(self):
        self.started_at, self.calls, self.order = [], [], []

    def started(self, operator, place):
        self.started_at.append((operator, place))
        self.order.append(f"+{operator}")

    def ended(self, call):
        self.calls.append(call)
        self.order.append(f"-{call.operator}")


def watched(text, endpoint, **options):
    heard = Heard()

    async def run():
        return await Executor(endpoint, **options).run(parse(text), MATH, seed=(5, 6), watcher=heard)

    return asyncio.run(run()), heard


def test_each_operator_is_heard_of_when_it_starts_and_ends_and_the_run_is_the_same():
    text = "[Custom, AnswerGenerate] -> ScEnsemble -> (Review ? Revise : done) * 2"
    replies = {
        "Custom": solution("1"), "AnswerGenerate": "<thought>t</thought><answer>1</answer>",
        "ScEnsemble": "<choice>A</choice>", "Review": review("fail"), "Revise": solution("2"),
    }  # fmt: skip
    endpoint = lambda: ScriptedEndpoint(lambda asked: replies[asked.operator])  # noqa: E731
    execution, heard = watched(text, endpoint())
    assert execution == execute(text, endpoint(), seed=(5, 6))
    assert sorted(heard.calls, key=lambda call: call.place) == sorted(execution.trace, key=lambda call: call.place)
    assert sorted(heard.started_at) == sorted((call.operator, call.place) for call in execution.trace)
    # The branches run side by side: both have started before either ends.
    assert heard.order[:2] == ["+Custom", "+AnswerGenerate"]
    assert heard.order[4:] == ["+ScEnsemble", "-ScEnsemble"] + ["+Review", "-Review", "+Revise", "-Revise"] * 2


def test_an_operator_that_fails_or_is_cancelled_is_heard_of_with_its_error():
    execution, heard = watched("Custom -> Format", ScriptedEndpoint([LLMFault("LLM_UNAVAILABLE", "down")]))
    assert execution.outcome is Outcome.LLM_UNAVAILABLE
    assert [(call.operator, call.error) for call in heard.calls] == [("Custom", "LLMFault: down")]
    late = ScriptedEndpoint([solution("1")], latency=lambda asked: 30.0)
    execution, heard = watched("Custom", late, timeout=0.05)
    assert execution.outcome is Outcome.WORKFLOW_TIMEOUT
    assert heard.calls[0].error == "cancelled"
