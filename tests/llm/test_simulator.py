import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from simulated_prompts import PROBLEMS, messages

from aflow_jax.errors import UserError
from aflow_jax.llm import LLMClient, start_simulator
from aflow_jax.llm.simulator import DEFAULT_SKILLS
from aflow_jax.llm.simulator.book import ProblemBook, read_book
from aflow_jax.llm.simulator.draws import lognormal, uniform
from aflow_jax.llm.simulator.gold import is_right
from aflow_jax.llm.simulator.mind import Mind
from aflow_jax.llm.simulator.programs import BUGS, answer_program, buggy_program, reference_program
from aflow_jax.llm.simulator.skills import with_defaults

SUM = "What is 6 times 7?"
ADD = "Write add(a, b).\n\ndef add(a, b):"
ADD_CODE = "def add(a, b):\n    return a + b"
OPTION = PROBLEMS[6]["question"]
FOUNDED = "Who founded Arholt?"
ALWAYS = {domain: dict.fromkeys(row, 1.0) for domain, row in DEFAULT_SKILLS.items()}
NEVER = {domain: dict.fromkeys(row, 0.0) for domain, row in DEFAULT_SKILLS.items()}


@pytest.fixture(scope="module")
def book(problems_file) -> ProblemBook:
    return read_book(problems_file)


def say(book, operator, question, *, skills=ALWAYS, seed=None, temperature=0.0, mind_seed=0, **sections):
    mind = Mind(book, with_defaults(skills), mind_seed)
    return mind.reply(messages(operator, question, **sections), temperature=temperature, seed=seed)


def field(name, reply):
    return re.fullmatch(rf".*<{name}>\n?(.*?)\n?</{name}>", reply, re.DOTALL).group(1)


def run_program(source, expression):
    """Return what an expression gives after a program, in a process of its own."""
    code = f"{source}\nprint(repr({expression}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout.strip()


@pytest.mark.parametrize(
    ("operator", "question", "name", "expected"),
    [
        ("Custom", SUM, "solution", "42"),
        ("AnswerGenerate", SUM, "answer", "42"),
        ("AnswerGenerate", OPTION, "answer", "B"),
        ("Revise", SUM, "solution", "42"),
        ("Revise", ADD, "code", ADD_CODE),
        ("CustomCodeGenerate", ADD, "code", ADD_CODE),
        ("Programmer", ADD, "code", ADD_CODE),
        ("Test", ADD, "code", ADD_CODE),
    ],
)
def test_solvers_with_full_skill_give_the_gold_answer_in_their_field(book, operator, question, name, expected):
    assert field(name, say(book, operator, question)) == expected


@pytest.mark.parametrize("operator", ["Custom", "AnswerGenerate", "Revise"])
@pytest.mark.parametrize("row", PROBLEMS, ids=lambda row: row["answer"][:12])
def test_solvers_without_skill_give_wrong_answers_of_the_same_kind(book, operator, row):
    name = {"AnswerGenerate": "answer"}.get(operator, "solution")
    name = "code" if operator == "Revise" and row.get("entry_point") else name
    for seed in range(12):
        reply = say(
            book, operator, row["question"], skills=NEVER, seed=seed, temperature=0.7, context=row.get("context", "-")
        )
        answer = field(name, reply)
        assert answer and answer != row["answer"]
        if row["answer"].isdigit():
            float(answer)
        if row["answer"] == "B":
            assert answer in ("A", "C")
        if row["answer"] == "yes":
            assert answer == "no"


def test_programmer_outside_code_returns_the_answer_from_solve(book):
    assert run_program(field("code", say(book, "Programmer", SUM)), "solve()") == "42"
    assert run_program(field("code", say(book, "Programmer", OPTION)), "solve()") == "'B'"
    wrong = field("code", say(book, "Programmer", SUM, skills=NEVER))
    assert run_program(wrong, "solve()") not in ("42", "")


@pytest.mark.parametrize(("answer", "value"), [("1,200", "1200"), ("2.5", "2.5"), ('it\'s "so"', "'it\\'s \"so\"'")])
def test_answer_programs_return_numbers_as_numbers_and_text_as_text(answer, value):
    assert run_program(answer_program(answer), "solve()") == value


@pytest.mark.parametrize("bug", BUGS)
def test_wrong_code_runs_and_fails(book, bug):
    entry = book.find(ADD)
    assert run_program(reference_program(entry), "add(2, 3)") == "5"
    result = run_program(buggy_program(entry, bug), "add(2, 3)")
    assert result not in ("", "5")


def test_bugs_leave_inner_functions_and_tabs_alone(tmp_path):
    answer = "def f(n):\n\tdef double(x):\n\t\treturn 2 * x\n\treturn double(n)\n"
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"question": "Write f.", "answer": answer, "entry_point": "f", "source": "mbpp"}))
    entry = read_book(path).find("Write f.")
    assert run_program(buggy_program(entry, "is off by one"), "f(4)") == "9"
    assert run_program(buggy_program(entry, "returns nothing"), "f(4)") == "None"


@pytest.mark.parametrize(("shown", "right"), [("42", True), ("It is 42.", True), ("41", False), ("24", False)])
def test_review_tells_right_from_wrong_with_full_skill_and_the_contrary_without(book, shown, right):
    assert field("verdict", say(book, "Review", SUM, solution=shown).split("\n")[0]) == ("pass" if right else "fail")
    contrary = say(book, "Review", SUM, skills=NEVER, solution=shown).split("\n")[0]
    assert field("verdict", contrary) == ("fail" if right else "pass")


def test_format_finds_the_answer_and_never_makes_a_wrong_one_right(book):
    assert field("answer", say(book, "Format", SUM, solution="After 6 steps it comes to 42.")) == "42"
    assert field("answer", say(book, "Format", SUM, solution="It is 41.")) == "41"
    context = PROBLEMS[4]["context"]
    assert field("answer", say(book, "Format", FOUNDED, context=context, solution="It was Alma Reyes.")) == "Alma Reyes"
    assert field("answer", say(book, "Format", ADD, solution=ADD_CODE)) == ADD_CODE


def test_ensembles_choose_a_candidate_that_is_right_with_full_skill_and_another_without(book):
    listed = "\n".join(
        f'<candidate id="{name}">\n{text}\n</candidate>' for name, text in (("A", "41"), ("B", "42"), ("C", "7"))
    )
    for operator in ("ScEnsemble", "MdEnsemble"):
        assert field("choice", say(book, operator, SUM, candidates=listed)) == "B"
        assert field("choice", say(book, operator, SUM, skills=NEVER, candidates=listed)) in ("A", "C")


@pytest.mark.parametrize(
    ("question", "context", "reference", "answer", "expected"),
    [
        (SUM, "", "42", "42", "True"),
        (SUM, "", "42", "43", "False"),
        (FOUNDED, "", "Alma Reyes", "it was Alma Reyes", "True"),
        (FOUNDED, "", "Boris Lindt", "Alma Reyes", "False"),
        (OPTION, "", "B. robin", "B", "True"),
    ],
)
def test_judge_compares_with_the_gold_answer(book, question, context, reference, answer, expected):
    reply = say(book, "judge", question, skills=NEVER, solution=reference, answer=answer)
    assert field("true_false", reply) == expected


def test_a_right_solution_is_mostly_kept_by_revise(book):
    skills = {"math": {"Revise": 0.0}}
    kept = [
        field("solution", say(book, "Revise", SUM, skills=skills, seed=seed, temperature=0.7, solution="42")) == "42"
        for seed in range(200)
    ]
    assert 0.88 <= sum(kept) / 200 <= 1.0


@pytest.mark.parametrize(
    ("operator", "domain", "row"),
    [("Programmer", "math", 0), ("AnswerGenerate", "math", 0), ("CustomCodeGenerate", "code", 3), ("Custom", "qa", 7)],
)
def test_solvers_are_right_as_often_as_their_skill_says(book, operator, domain, row):
    row = PROBLEMS[row]
    name = {"AnswerGenerate": "answer", "Custom": "solution"}.get(operator, "code")
    replies = [say(book, operator, row["question"], skills=None, seed=seed, temperature=0.7) for seed in range(400)]
    entry = book.find(row["question"])
    right = sum(is_right(entry, field(name, reply).removeprefix("def solve():\n    ")) for reply in replies)
    skill = DEFAULT_SKILLS[domain][operator]
    # Four standard deviations of a binomial.
    assert abs(right / 400 - skill) <= 4 * (skill * (1 - skill) / 400) ** 0.5


def test_replies_depend_on_the_request_and_not_on_the_seed_of_a_greedy_one(book):
    def greedy(seed):
        return say(book, "Custom", SUM, skills=None, seed=seed)

    def sampled(seed, mind_seed=0):
        return say(book, "Custom", SUM, skills=None, seed=seed, temperature=0.7, mind_seed=mind_seed)

    assert len({greedy(seed) for seed in range(20)}) == 1
    assert len({sampled(seed) for seed in range(20)}) > 1
    assert [sampled(seed) for seed in range(20)] == [sampled(seed) for seed in range(20)]
    assert [sampled(seed) for seed in range(20)] != [sampled(seed, mind_seed=1) for seed in range(20)]


def test_replies_do_not_depend_on_order_or_concurrency(simulator):
    calls = [
        (messages(operator, row["question"], context=row.get("context", "-")), seed)
        for operator in ("Custom", "Programmer", "AnswerGenerate")
        for row in PROBLEMS
        for seed in range(2)
    ]

    async def main():
        client = LLMClient(simulator.endpoint())
        one_by_one = [(await client.complete(ask, temperature=0.7, seed=seed)).text for ask, seed in calls]
        backwards = [client.complete(ask, temperature=0.7, seed=seed) for ask, seed in reversed(calls)]
        together = [reply.text for reply in await asyncio.gather(*backwards)]
        await client.aclose()
        return one_by_one, together[::-1]

    one_by_one, together = asyncio.run(main())
    assert one_by_one == together


def test_the_longest_known_question_in_a_text_is_meant(book):
    assert book.find(f"Please: {SUM[:-1]} plus 1? Thank you").answer == "43"
    assert book.find(f"Please:\n{SUM} Thank you").answer == "42"
    assert book.find("What is 6 times 8?") is None


def test_of_equal_questions_the_one_with_the_given_passage_is_meant(book):
    for row in PROBLEMS[4:6]:
        assert field("answer", say(book, "AnswerGenerate", FOUNDED, context=row["context"])) == row["answer"]


def test_unknown_problems_and_roles_get_an_honest_reply(book):
    assert "I do not know" in say(book, "AnswerGenerate", "Why?")
    text = Mind(book, ALWAYS, 0).reply([{"role": "user", "content": SUM}], temperature=0, seed=None)
    assert "simulated" in text


def test_latencies_are_lognormal():
    draws = sorted(lognormal(1.0, 4.0, "seed", number) for number in range(4000))
    assert draws[2000] == pytest.approx(1.0, rel=0.08)
    assert draws[3800] == pytest.approx(4.0, rel=0.12)
    assert all(0 < uniform(number) < 1 for number in range(1000))


def test_server_says_that_it_is_simulated(simulator):
    root = simulator.base_url.removesuffix("/v1")
    body = {"model": "simulator", "messages": messages("Custom", SUM), "max_tokens": 2}
    response = httpx2.post(f"{simulator.base_url}/chat/completions", json=body)
    reply = response.json()
    assert response.headers["x-simulated"] == "true"
    assert (reply["model"], reply["system_fingerprint"]) == ("simulator", "simulator")
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2
    assert httpx2.get(f"{simulator.base_url}/models").json()["data"][0]["id"] == "simulator"
    assert httpx2.get(f"{root}/health").json()["simulated"] is True


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "gpt-9"}, 404),
        ({"messages": []}, 400),
        ({"messages": [{"role": "user"}]}, 400),
        ({"messages": "hello"}, 400),
        ({"stream": True}, 400),
        ({"n": 2}, 400),
        ({"temperature": 3}, 400),
        ({"seed": 2**63}, 400),
        ({"max_tokens": 0}, 400),
    ],
)
def test_bad_requests_get_errors_in_openais_shape(simulator, change, status):
    body = {"model": "simulator", "messages": messages("Custom", SUM), **change}
    response = httpx2.post(f"{simulator.base_url}/chat/completions", json=body)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx2.post(f"{simulator.base_url}/chat/completions", content=b"{").status_code == 400


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"question": "a", "answer": "b"}\n{"question"', ":2"),
        ('{"question": "a"}', ":1"),
        ("[1]", ":1"),
        ("", "no problems"),
    ],
)
def test_bad_problem_files_stop_the_start_with_file_and_line(tmp_path, rows, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(rows)
    with pytest.raises(UserError) as raised:
        start_simulator(path)
    assert str(path) in str(raised.value) and words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"skills": {"maths": {"Custom": 1.0}}},
        {"skills": {"math": {"Custom": 1.5}}},
        {"faults": {"rate_limits": 0.1}},
        {"faults": {"hang": 2}},
        {"latency": (4.0, 1.0)},
    ],
)
def test_settings_out_of_range_are_named(problems_file, settings):
    with pytest.raises(UserError, match=r"maths|math\.Custom|rate_limits|hang|latency"):
        start_simulator(problems_file, **settings)


def alive(pid):
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid, seconds=20.0):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
def test_simulator_ends_when_stopped(problems_file):
    with start_simulator(problems_file) as running:
        assert alive(running.pid)
    assert not alive(running.pid)


PARENT = """
import sys, time
from aflow_jax.llm import start_simulator
running = start_simulator(sys.argv[1])
print(running.pid, flush=True)
time.sleep(600)
"""


@linux
def test_simulator_ends_when_its_parent_is_killed(problems_file):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(problems_file)], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone(pid)


def test_simulator_gets_none_of_our_secrets(problems_file, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with start_simulator(problems_file) as running:
        environment = Path(f"/proc/{running.pid}/environ")
        if not environment.exists():
            pytest.skip("reads /proc")
        assert b"sk-planted" not in environment.read_bytes()


def test_simulator_does_not_import_the_trainers_libraries(problems_file):
    code = (
        "import sys; import aflow_jax.llm.simulator.__main__;"
        "print([name for name in ('jax', 'openai', 'numpy', 'torch', 'pydantic') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--latency", "4"], "--latency 4"),
        (["--faults", "{"], "--faults"),
        (["--port", "99999"], "--port 99999"),
        (["--skills", "absent.json"], "absent.json"),
        (["--api-key-variable", "ABSENT_NAME"], "ABSENT_NAME"),
    ],
)
def test_command_line_mistakes_get_one_line_and_exit_code_2(problems_file, options, words):
    command = [sys.executable, "-m", "aflow_jax.llm.simulator", "--problems", str(problems_file), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1 and ended.stdout == ""
