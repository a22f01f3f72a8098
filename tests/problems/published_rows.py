"""Published rows as Hugging Face `datasets` gives them: some by hand, and any problem of ours turned back into one."""

import re
from collections.abc import Mapping
from typing import Any

from aflow_jax.problems import Problem

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "She has 2*600=<<2*600=1200>>1200.\n#### 1,200"},
    "math": {
        "problem": "What is $x$?",
        "level": "Level 2",
        "type": "Algebra",
        "solution": "First \\boxed{3}; so it is $\\boxed{\\left\\{\\frac{1}{2}, \\{2\\}\\right\\}}$.",
    },
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'def add(a, b):\n    """Add."""\n',
        "canonical_solution": "    return a + b\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n",
        "entry_point": "add",
    },
    "mbpp": {
        "task_id": 601,
        "text": "Write a function to double a pair. ",
        "code": "class Pair:\r\n  def __init__(s, a):\r\n    s.a = a\r\ndef double(pair, by=2):\r\n  return pair.a",
        "test_list": ["assert double(Pair(2)) == 2", "assert double(Pair(3), by=3) == 3"],
        "test_setup_code": "ZERO = 0",
        "challenge_test_list": [],
    },
    "hotpotqa": {
        "id": "5a7a",
        "question": "Who?",
        "answer": "Ada",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": {"title": ["A"], "sent_id": [0]},
        "context": {"title": ["A", "B"], "sentences": [["Ada did.", " She was first."], ["Ben did not."]]},
    },
    "drop": {
        "section_id": "nfl_1",
        "query_id": "q1",
        "passage": "They scored 3 and 4.",
        "question": "How many in all?",
        "answers_spans": {"spans": ["7", "7", "seven"], "types": ["number", "number", "span"]},
    },
    "squad_v2": {
        "id": "56be",
        "title": "A",
        "context": "In 1041 he left.",
        "question": " When did he leave?",
        "answers": {"text": ["1041", "in 1041", "1041"], "answer_start": [3, 0, 3]},
    },
    "commonsenseqa": {
        "id": "075e",
        "question": "Where is it?",
        "question_concept": "it",
        "choices": {"label": ["A", "B", "C"], "text": ["here", "there", "far\naway"]},
        "answerKey": "C",
    },
    "mmlu": {"question": "Which?", "subject": "algebra", "choices": ["0", "1", "2", "3"], "answer": 1},
}


def as_published(problem: Problem) -> Mapping[str, Any]:
    """Return a row in the published format that holds the problem."""
    return _UNDO[problem.source](problem)


def _options(problem: Problem) -> tuple[str, list[str]]:
    question, _, options = problem.question.rpartition("\n\nA. ")
    return question, re.split(r"\n[B-J]\. ", options)


def _gsm8k(problem: Problem) -> dict[str, Any]:
    return {"question": problem.question, "answer": f"We count.\n#### {problem.answer}"}


def _math(problem: Problem) -> dict[str, Any]:
    return {"problem": problem.question, "solution": f"It is \\boxed{{0}}, no: $\\boxed{{{problem.answer}}}$."}


def _humaneval(problem: Problem) -> dict[str, Any]:
    assert problem.answer.startswith(problem.question)
    return {
        "task_id": problem.id,
        "prompt": problem.question,
        "canonical_solution": problem.answer.removeprefix(problem.question),
        "test": problem.test.removesuffix(f"\n\ncheck({problem.entry_point})\n"),
        "entry_point": problem.entry_point,
    }


def _mbpp(problem: Problem) -> dict[str, Any]:
    setup, _, body = problem.test.rpartition("def check(candidate):\n")
    body = body.removesuffix(f"\n\ncheck({problem.entry_point})\n")
    return {
        "task_id": int(problem.id.removeprefix("mbpp/")),
        "text": problem.question.rpartition("\n\ndef ")[0],
        "code": problem.answer,
        "test_list": [line.removeprefix("    ") for line in body.splitlines()],
        "test_setup_code": setup,
    }


def _hotpotqa(problem: Problem) -> dict[str, Any]:
    passages = [passage.partition("\n") for passage in problem.context.split("\n\n")]
    return {
        "id": problem.id.removeprefix("hotpotqa/"),
        "question": problem.question,
        "answer": problem.answer,
        "context": {"title": [title for title, _, _ in passages], "sentences": [[text] for _, _, text in passages]},
    }


def _drop(problem: Problem) -> dict[str, Any]:
    return {
        "query_id": problem.id.removeprefix("drop/"),
        "passage": problem.context,
        "question": problem.question,
        "answers_spans": {"spans": problem.answer.split("|") * 2, "types": []},
    }


def _squad(problem: Problem) -> dict[str, Any]:
    texts = [] if problem.answer == "unanswerable" else problem.answer.split("|") * 2
    return {
        "id": problem.id.removeprefix("squad_v2/"),
        "context": problem.context,
        "question": problem.question,
        "answers": {"text": texts, "answer_start": []},
    }


def _commonsenseqa(problem: Problem) -> dict[str, Any]:
    question, options = _options(problem)
    return {
        "id": problem.id.removeprefix("commonsenseqa/"),
        "question": question,
        "choices": {"label": list("ABCDEFGHIJ"[: len(options)]), "text": options},
        "answerKey": problem.answer,
    }


def _mmlu(problem: Problem) -> dict[str, Any]:
    question, options = _options(problem)
    return {"question": question, "choices": options, "answer": "ABCD".index(problem.answer)}


_UNDO = {
    "gsm8k": _gsm8k,
    "math": _math,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "hotpotqa": _hotpotqa,
    "drop": _drop,
    "squad_v2": _squad,
    "commonsenseqa": _commonsenseqa,
    "mmlu": _mmlu,
}
