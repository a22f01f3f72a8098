"""How graphs run: order, copies, loops and `done`, faults, time, and that nothing depends on latency."""

import asyncio
import itertools
import json
import random

import pytest
from scripted import CODE, MATH, ScriptedEndpoint, code, execute, review, section_of, solution

from aflow_jax.errors import UserError
from aflow_jax.llm import BudgetExhausted, LLMFault, Reply, TooLong
from aflow_jax.workflow import Executor, Outcome, parse


def numbered(asked_so_far=None):
    """Return a script in which the n-th solution is n, and every review finds a fault."""
    count = itertools.count(1)
    return lambda asked: review("fail") if asked.operator == "Review" else solution(str(next(count)))


def order(execution):
    return " ".join(call.operator for call in execution.trace)


class TestControlFlow:
    def test_a_chain_runs_in_order_and_hands_its_state_on(self):
        execution = execute(
            "Custom -> Revise -> Format", ScriptedEndpoint([solution("1"), solution("2"), "<answer>3</answer>"])
        )
        assert [(call.operator, call.solution_before, call.solution_after) for call in execution.trace] == [
            ("Custom", "", "1"),
            ("Revise", "1", "2"),
            ("Format", "2", "3"),
        ]
        assert execution.answer == "3"

    @pytest.mark.parametrize(
        ("verdict", "operators"), [("fail", "Custom Review Revise Custom"), ("pass", "Custom Review Custom Custom")]
    )
    def test_the_first_arm_is_for_a_fault_the_second_for_a_pass(self, verdict, operators):
        endpoint = ScriptedEndpoint(lambda asked: review(verdict) if asked.operator == "Review" else solution("1"))
        assert order(execute("Custom -> Review ? Revise : Custom -> Custom", endpoint)) == operators

    @pytest.mark.parametrize(
        ("workflow", "verdicts", "operators"),
        [
            # outside a loop `done` ends the branch, and the chain after it goes on
            ("Custom -> Review ? Revise : done -> Format", "p", "Custom Review Format"),
            ("Custom -> Review ? done : Revise -> Format", "f", "Custom Review Format"),
            ("Custom -> Review ? (Review ? done : Revise) : done -> Format", "ff", "Custom Review Review Format"),
            # in a loop it ends the loop, and the chain after the loop goes on
            ("Custom -> (Review ? Revise : done)*3 -> Format", "p", "Custom Review Format"),
            ("Custom -> (Review ? Revise : done)*3 -> Format", "fp", "Custom Review Revise Review Format"),
            ("Custom -> (Review ? Revise : done)*2 -> Format", "ff", "Custom Review Revise Review Revise Format"),
            ("Custom -> (Review ? Revise : done -> Custom)*2", "p", "Custom Review"),
            ("Custom -> (Review ? Revise : done -> Custom)*2", "fp", "Custom Review Revise Custom Review"),
            ("Custom -> (Review ? (Revise -> Review ? Custom : done) : Format)*2", "fp", "Custom Review Revise Review"),
            # the innermost loop only
            ("Custom -> ((Review ? Revise : done)*2 -> Format)*2", "pp", "Custom Review Format Review Format"),
            # a loop around a parallel is not its branches' to end
            ("Custom -> ([Review ? Revise : done, Custom])*2", "pp", "Custom Review Custom Review Custom"),
            ("Custom -> ([(Review ? Revise : done)*3, Custom])*1", "p", "Custom Review Custom"),
            # a body without `done` runs its full count
            ("(Custom)*3 -> Format", "", "Custom Custom Custom Format"),
        ],
    )
    def test_where_done_leads(self, workflow, verdicts, operators):
        left = iter(verdicts)

        def reply(asked):
            if asked.operator == "Review":
                return review("pass" if next(left) == "p" else "fail")
            return "<answer>1</answer>" if asked.operator == "Format" else solution("1")

        execution = execute(workflow, ScriptedEndpoint(reply))
        assert (execution.outcome, order(execution)) == (Outcome.SCORED, operators)
        assert next(left, None) is None

    def test_the_trace_says_where_in_the_graph_each_call_ran(self):
        verdicts = iter("fp")

        def reply(asked):
            if asked.operator == "Review":
                return review("fail" if next(verdicts) == "f" else "pass")
            return solution("1")

        workflow = "[Custom, Revise -> Custom] -> (Review ? Revise : done)*3 -> Custom"
        execution = execute(workflow, ScriptedEndpoint(reply), seed=(7, 8, 9))
        assert [(call.operator, call.place) for call in execution.trace] == [
            ("Custom", (0, 0, 0)),
            ("Revise", (0, 1, 0)),
            ("Custom", (0, 1, 1)),
            ("Review", (1, 0, 0, 0)),
            ("Revise", (1, 0, 0, 1, 0)),
            ("Review", (1, 1, 0, 0)),
            ("Custom", (2,)),
        ]

    def test_a_trailing_review_leaves_the_answer(self):
        assert execute("Custom -> Review", ScriptedEndpoint([solution("41"), review("fail")])).answer == "41"

    def test_the_answer_of_a_code_problem_is_source_code(self):
        endpoint = ScriptedEndpoint([solution("See:\n```python\ndef double(x): return 2 * x\n```\nDone.")])
        assert execute("Custom", endpoint, CODE).answer == "def double(x): return 2 * x"

    def test_a_workflow_without_a_solution_is_an_empty_answer(self):
        execution = execute("Review", ScriptedEndpoint(["unused"]))
        assert (execution.outcome, execution.answer) == (Outcome.EMPTY_ANSWER, None)

    def test_an_operator_that_is_not_offered_is_never_run(self):
        endpoint = ScriptedEndpoint([solution("1")])
        execution = execute("Custom -> Format", endpoint, operators=["Custom", "Review"])
        assert (execution.outcome, endpoint.asked) == (Outcome.PARSE, []) and "Format" in execution.error

    def test_an_operator_that_does_not_exist_cannot_be_offered(self):
        with pytest.raises(UserError, match="Custm"):
            Executor(ScriptedEndpoint([]), operators=["Custm"])


class TestParallel:
    def test_branches_work_on_copies_and_their_solutions_are_candidates_in_order(self):
        def reply(asked):
            if asked.operator == "ScEnsemble":
                return "<choice>C</choice>"
            so_far = section_of(asked.user, "solution")
            return solution(f"{so_far or 's'}+{section_of(asked.user, 'instruction')}")

        slow_first = ScriptedEndpoint(reply, latency=lambda asked: 0.02 if '"b"' not in asked.user else 0)
        execution = execute(
            'Custom("a") -> [Custom("b") -> Custom("c"), Custom("d"), Custom("e")] -> ScEnsemble', slow_first
        )
        assert execution.trace[-1].inputs["candidates"] == ("s+a+b+c", "s+a+d", "s+a+e")
        assert execution.answer == "s+a+e"

    def test_feedback_of_one_branch_does_not_reach_another_or_what_follows(self):
        def reply(asked):
            return review("fail", "SECRET") if asked.operator == "Review" else solution("1")

        endpoint = ScriptedEndpoint(reply)
        execute("Custom -> [Review, Revise] -> ScEnsemble -> Revise", endpoint)
        assert not any("SECRET" in asked.user for asked in endpoint.asked)

    @pytest.mark.parametrize(
        ("answers", "settled"), [(["1", "2", "2.0"], "2"), (["3", "1", "2"], "3"), (["2", "1", "1", "2"], "2")]
    )
    @pytest.mark.parametrize("tail", ["", " -> Review"])
    def test_without_an_ensemble_the_majority_or_the_first_wins_without_a_call(self, answers, settled, tail):
        def reply(asked):
            return review("pass") if asked.operator == "Review" else solution(section_of(asked.user, "instruction"))

        branches = ", ".join(f'Custom("{answer}")' for answer in answers)
        execution = execute(f"[{branches}]{tail}", ScriptedEndpoint(reply))
        assert (execution.answer, execution.usage.calls) == (settled, len(answers) + bool(tail))

    def test_an_ensemble_further_on_comes_too_late(self):
        endpoint = ScriptedEndpoint([solution("1"), solution("2"), "<answer>3</answer>"])
        execution = execute("[Custom, Revise] -> Format -> ScEnsemble", endpoint)
        assert (execution.answer, execution.usage.calls) == ("3", 3)

    def test_branches_that_repeat_are_sampled_with_seeds_of_their_own_and_others_are_greedy(self):
        endpoint = ScriptedEndpoint(numbered())
        execute('[Custom -> Revise, Custom("x"), Custom -> Revise, [Custom, Revise]]', endpoint)
        sampled = [asked for asked in endpoint.asked if asked.temperature == 0.7]
        greedy = [asked for asked in endpoint.asked if asked.temperature == 0.0]
        assert len(sampled) == len({asked.seed for asked in sampled}) == 4
        assert len(greedy) == 3 and {asked.seed for asked in greedy} == {None}

    def test_rollouts_with_other_seeds_sample_otherwise(self):
        seeds = []
        for seed in ((0, 1), (0, 2), (0, 1)):
            endpoint = ScriptedEndpoint(numbered())
            execute("[Custom, Custom]", endpoint, seed=seed)
            seeds.append([asked.seed for asked in endpoint.asked])
        assert seeds[0] == seeds[2] and not set(seeds[0]) & set(seeds[1])

    def test_custom_and_programmer_both_run(self):
        def reply(asked):
            return code("def solve():\n    return 42") if asked.operator == "Programmer" else solution("42")

        execution = execute("[Custom, Programmer]", ScriptedEndpoint(reply))
        assert (order(execution), execution.answer) == ("Custom Programmer", "42")


WORKFLOW = (
    '[Custom("1") -> Review ? Revise : done, (Custom -> Review ? Revise : done)*2, [Custom, Custom] -> MdEnsemble] '
    "-> ScEnsemble -> Format"
)


def busy(asked):
    """A script that depends on nothing but the request."""
    chance = random.Random(asked.user + asked.operator + str(asked.seed))
    match asked.operator:
        case "Review":
            return review(chance.choice(["pass", "fail"]))
        case "ScEnsemble" | "MdEnsemble":
            return chance.choice(["<choice>A</choice>", "<choice>B</choice>", "?"]) if chance.random() < 0.9 else "?"
        case "Format":
            return "<answer>1</answer>"
    return solution(str(chance.randrange(3)))


@pytest.mark.parametrize("seed", range(5))
def test_the_result_does_not_depend_on_latencies(seed):
    executions = []
    for order_of_arrival in range(4):
        chance = random.Random(order_of_arrival)
        endpoint = ScriptedEndpoint(busy, latency=lambda asked, chance=chance: chance.random() * 0.01)
        executions.append(execute(WORKFLOW, endpoint, seed=(seed,), max_calls_in_flight=1 + order_of_arrival))
    assert all(execution == executions[0] for execution in executions)


class TestFaults:
    @pytest.mark.parametrize("kind", ["LLM_UNAVAILABLE", "RATE_LIMITED"])
    @pytest.mark.parametrize("workflow", ["Custom -> Revise", "[Custom, Custom -> Revise, [Custom, Custom]]"])
    def test_an_llm_fault_voids_the_rollout_and_cancels_the_rest(self, kind, workflow):
        endpoint = ScriptedEndpoint(lambda asked: LLMFault(kind, "gone"), latency=lambda asked: 0.001)
        execution = execute(workflow, endpoint)
        assert (execution.outcome, execution.answer, execution.error) == (Outcome(kind), None, "gone")
        assert execution.outcome.is_void and endpoint.in_flight == 0

    def test_a_branch_s_policy_fault_ends_the_workflow_after_its_siblings(self):
        def reply(asked):
            return "no field" if '"bad' in asked.user or "bad" in asked.user else solution("1")

        slow_good = ScriptedEndpoint(reply, latency=lambda asked: 0 if "bad" in asked.user else 0.01)
        execution = execute('[Custom("good") -> Revise, Custom("bad") -> Revise] -> ScEnsemble', slow_good)
        assert execution.outcome == Outcome.OPERATOR_FORMAT
        assert [call.error is None for call in execution.trace] == [True, True, False]

    @pytest.mark.parametrize("stop", [UserError("the key is refused"), BudgetExhausted("budget.calls: 3 are spent")])
    def test_what_concerns_every_rollout_is_raised(self, stop):
        with pytest.raises(type(stop), match=str(stop)):
            execute("[Custom, Custom -> Custom]", ScriptedEndpoint([solution("1"), stop]))

    def test_usage_is_the_sum_of_the_trace_and_counts_faulty_runs(self):
        execution = execute("[Custom, Custom] -> Review", ScriptedEndpoint([solution("1"), solution("1"), "?"]))
        assert execution.outcome == Outcome.OPERATOR_FORMAT
        assert execution.usage.calls == sum(call.calls for call in execution.trace) == 4
        assert execution.usage.prompt_tokens == sum(call.prompt_tokens for call in execution.trace)
        assert execution.usage.usd == pytest.approx(0.004)


def test_a_trace_can_be_written_as_json():
    endpoint = ScriptedEndpoint([solution("1"), solution("2"), "<choice>B</choice>"])
    execution = execute('[Custom("a"), Custom("b")] -> ScEnsemble', endpoint)
    record = json.loads(json.dumps([call.as_record() for call in execution.trace]))[2]
    assert record["inputs"] == {"candidates": ["1", "2"]} and record["outputs"]["settled_by"] == "vote"
    assert (record["operator"], record["calls"], record["solution_after"]) == ("ScEnsemble", 1, "2")
    assert execution.usage.as_record()["calls"] == 3


class TestTime:
    @pytest.mark.parametrize("workflow", ["Custom -> Custom", "[Custom, [Custom, Custom] -> MdEnsemble]"])
    def test_a_workflow_that_takes_too_long_is_cancelled_whole(self, workflow):
        endpoint = ScriptedEndpoint(numbered(), latency=lambda asked: 60)
        execution = execute(workflow, endpoint, timeout=0.05)
        assert (execution.outcome, execution.answer, endpoint.in_flight) == (Outcome.WORKFLOW_TIMEOUT, None, 0)
        assert {call.error for call in execution.trace} == {"cancelled"}

    def test_a_program_is_killed_with_its_workflow(self):
        endpoint = ScriptedEndpoint([code("while True: pass")])
        assert execute("Programmer", endpoint, timeout=0.5).outcome == Outcome.WORKFLOW_TIMEOUT

    def test_waiting_for_a_free_slot_is_not_the_workflow_s_time(self):
        endpoint = ScriptedEndpoint(numbered(), latency=lambda asked: 0.05)

        async def crowd():
            executor = Executor(endpoint, timeout=0.3, max_calls_in_flight=1)
            runs = [executor.run(parse("[Custom, Custom]"), MATH, seed=(index,)) for index in range(8)]
            return await asyncio.gather(*runs)

        assert {execution.outcome for execution in asyncio.run(crowd())} == {Outcome.SCORED}
        assert endpoint.most_in_flight == 1

    def test_what_the_endpoint_s_faults_cost_is_not_the_workflow_s_time(self):
        workflow = "Custom -> [Custom, Custom] -> Revise -> Revise"
        failing = ScriptedEndpoint(numbered(), lost=0.15, keeps_time=True)
        assert execute(workflow, failing, timeout=0.4).outcome == Outcome.SCORED
        slow = ScriptedEndpoint(numbered(), latency=lambda asked: 0.15, keeps_time=True)
        assert execute(workflow, slow, timeout=0.4).outcome == Outcome.WORKFLOW_TIMEOUT

    def test_a_limit_that_passes_while_the_endpoint_fails_ends_no_workflow(self):
        endpoint = ScriptedEndpoint(numbered(), lost=0.3, keeps_time=True)
        assert execute("Custom", endpoint, timeout=0.1).outcome == Outcome.SCORED

    def test_branches_side_by_side_take_the_time_of_one(self):
        endpoint = ScriptedEndpoint(numbered(), latency=lambda asked: 0.15, keeps_time=True)
        assert execute("[Custom, Custom, Custom, Custom]", endpoint, timeout=0.4).outcome == Outcome.SCORED


class TestLength:
    """A reply that is cut, or a prompt that does not fit, is what the workflow asked for, well served."""

    CUT = TooLong("cut", Reply("half", 10, 4096, 0.01, 0.0))

    def test_a_reply_that_is_cut_is_asked_for_once_more(self):
        endpoint = ScriptedEndpoint([self.CUT, solution("42")])
        execution = execute("Custom", endpoint)
        assert (execution.outcome, execution.answer, execution.usage.calls) == (Outcome.SCORED, "42", 2)
        assert "cut after 4096 tokens" in endpoint.asked[1].user

    def test_a_reply_that_is_cut_twice_is_the_workflow_s_fault_and_paid(self):
        execution = execute("Custom", ScriptedEndpoint([self.CUT]))
        assert execution.outcome == Outcome.OPERATOR_FORMAT
        assert (execution.usage.calls, execution.usage.completion_tokens) == (2, 8192)

    def test_a_prompt_that_does_not_fit_is_the_workflow_s_fault_and_not_asked_again(self):
        endpoint = ScriptedEndpoint([TooLong("the prompt is too long")])
        assert execute("Custom", endpoint).outcome == Outcome.OPERATOR_FORMAT
        assert len(endpoint.asked) == 1

    @pytest.mark.parametrize("bound", [1, 3])
    def test_calls_in_flight_are_bounded_over_all_workflows(self, bound):
        endpoint = ScriptedEndpoint(numbered(), latency=lambda asked: 0.001)

        async def crowd():
            executor = Executor(endpoint, max_calls_in_flight=bound)
            await asyncio.gather(*(executor.run(parse("[Custom, Custom]"), MATH, seed=(n,)) for n in range(10)))

        asyncio.run(crowd())
        assert endpoint.most_in_flight == bound

    def test_a_cancelled_run_leaves_nothing_behind(self):
        endpoint = ScriptedEndpoint(numbered(), latency=lambda asked: 60)

        async def cancel():
            task = asyncio.create_task(Executor(endpoint).run(parse(WORKFLOW), MATH, seed=(0,)))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(cancel()) == set()
        assert endpoint.in_flight == 0
