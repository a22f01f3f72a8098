"""From a published dataset's row, as Hugging Face `datasets` gives it, to a row of ours: one function a source."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aflow_jax.errors import UserError
from aflow_jax.problems.sources import DatasetType

Row = Mapping[str, Any]
LETTERS = "ABCDEFGHIJ"


def published_row(source: str, row: Row, *, split: str, index: int) -> dict[str, str]:
    """Return a published row with our names: `question`, `answer`, `source`, `id` and what else the source has.

    Args:
        source: a DatasetType that is published.
        row: the dataset's row.
        split: its split, and
        index: its place there, from 0: they make the id where the dataset has none.

    Raises:
        UserError: the row lacks what the source's rows have, or holds no answer.
    """
    convert = _CONVERTERS_OF_SPLIT.get((source, split)) or _CONVERTERS.get(DatasetType(source))
    if convert is None:
        raise UserError(f"{source} is not published anywhere")
    try:
        ours = convert(row)
    except KeyError as error:
        raise UserError(f"a row of {source} has no field {error}: has the dataset's format changed?") from None
    except (TypeError, IndexError, AttributeError) as error:
        raise UserError(f"a row of {source} is not in its format: {error}") from None
    return {"id": f"{source}/{split}/{index}", **ours, "source": source}


def _gsm8k(row: Row) -> dict[str, str]:
    _, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise UserError("the answer has no line with ####")
    return {"question": row["question"], "answer": answer.strip().replace(",", "")}


def _math(row: Row) -> dict[str, str]:
    return {"question": row["problem"], "answer": last_box(row["solution"])}


def _humaneval(row: Row) -> dict[str, str]:
    name = row["entry_point"]
    return {
        "question": row["prompt"],
        "answer": row["prompt"] + row["canonical_solution"],
        "entry_point": name,
        "test": f"{row['test'].rstrip()}\n\ncheck({name})\n",
        "id": row["task_id"],
    }


def _mbpp(row: Row) -> dict[str, str]:
    code, asserts = row["code"].replace("\r\n", "\n"), row["test_list"]
    name, head = _tested_function(code, asserts)
    setup = f"{row['test_setup_code'].strip()}\n\n" if row["test_setup_code"].strip() else ""
    lines = [line for one in asserts for line in one.splitlines()]
    # Bare asserts where a function that is called check would hide the one to test.
    wrapped = ["def check(candidate):", *(f"    {line}" for line in lines), "", f"check({name})"]
    return {
        "question": f"{row['text'].strip()}\n\n{head}",
        "answer": code,
        "entry_point": name,
        "test": setup + "\n".join(lines if name == "check" else wrapped) + "\n",
        "id": f"mbpp/{row['task_id']}",
    }


def _hotpotqa(row: Row) -> dict[str, str]:
    passages = zip(row["context"]["title"], row["context"]["sentences"], strict=True)
    return {
        "question": row["question"],
        "answer": row["answer"],
        "context": "\n\n".join(f"{title}\n{''.join(sentences).strip()}" for title, sentences in passages),
        "id": f"hotpotqa/{row['id']}",
    }


def _drop(row: Row) -> dict[str, str]:
    # Several annotators answered, and the dataset lists what each of them wrote: any one of it is right.
    return {
        "question": row["question"],
        "answer": _alternatives(row["answers_spans"]["spans"]),
        "context": row["passage"],
        "id": f"drop/{row['query_id']}",
    }


def _drop_of_one_annotator(row: Row) -> dict[str, str]:
    # Only one answered: several spans are the parts of one answer.
    parts = _alternatives(row["answers_spans"]["spans"]).split("|")
    return {**_drop(row), "answer": " and ".join(parts)}


def _squad(row: Row) -> dict[str, str]:
    texts = row["answers"]["text"]
    return {
        "question": row["question"].strip(),
        "answer": _alternatives(texts) if texts else "unanswerable",
        "context": row["context"],
        "id": f"squad_v2/{row['id']}",
    }


def _commonsenseqa(row: Row) -> dict[str, str]:
    labels = list(row["choices"]["label"])
    if row["answerKey"] not in labels:
        raise UserError(f"answerKey {row['answerKey']!r} is none of {', '.join(labels)}")
    return {
        "question": _with_options(row["question"], row["choices"]["text"]),
        "answer": LETTERS[labels.index(row["answerKey"])],
        "id": f"commonsenseqa/{row['id']}",
    }


def _mmlu(row: Row) -> dict[str, str]:
    choices, answer = row["choices"], row["answer"]
    if not 0 <= answer < len(choices):
        raise UserError(f"answer {answer} is none of {len(choices)} choices")
    return {"question": _with_options(row["question"], choices), "answer": LETTERS[answer]}


_CONVERTERS: dict[DatasetType, Callable[[Row], dict[str, str]]] = {
    DatasetType.GSM8K: _gsm8k,
    DatasetType.MATH: _math,
    DatasetType.HUMANEVAL: _humaneval,
    DatasetType.MBPP: _mbpp,
    DatasetType.HOTPOTQA: _hotpotqa,
    DatasetType.DROP: _drop,
    DatasetType.SQUAD_V2: _squad,
    DatasetType.COMMONSENSEQA: _commonsenseqa,
    DatasetType.MMLU: _mmlu,
}
_CONVERTERS_OF_SPLIT = {(DatasetType.DROP.value, "train"): _drop_of_one_annotator}


def last_box(solution: str) -> str:
    """Return the content of the last `\\boxed{…}` (or `\\fbox{…}`, or `\\boxed x`), braces matched.

    Raises:
        UserError: there is none.
    """
    boxes = list(re.finditer(r"\\(?:boxed|fbox)\s*(?:(\{)|([^\s{$.]+))", solution))
    if not boxes:
        raise UserError("the solution has no \\boxed answer")
    last = boxes[-1]
    if last[2]:
        return last[2]
    depth = 1
    for place in range(last.end(), len(solution)):
        escaped = solution[place - 1] == "\\" and solution[place - 2] != "\\"
        if not escaped:
            depth += (solution[place] == "{") - (solution[place] == "}")
        if depth == 0:
            return solution[last.end() : place].strip()
    raise UserError("the solution's last \\boxed is never closed")


def _with_options(question: str, options: Sequence[str]) -> str:
    # One line an option: that is how the rules find them again.
    lines = (f"{letter}. {' '.join(text.split())}" for letter, text in zip(LETTERS, options, strict=False))
    return f"{question.strip()}\n\n" + "\n".join(lines)


def _alternatives(texts: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not distinct:
        raise UserError("it has no answer")
    if any("|" in text for text in distinct):
        raise UserError("an answer holds |, which separates answers")
    return "|".join(distinct)


def _tested_function(code: str, asserts: Sequence[str]) -> tuple[str, str]:
    """Return the name and the head of the function of `code` that every assert calls; of several, the outermost."""
    try:
        functions = {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        named = [[node.id for node in ast.walk(ast.parse(one)) if isinstance(node, ast.Name)] for one in asserts]
    except (SyntaxError, ValueError):
        raise UserError("the code or its tests are no Python") from None
    tested = [name for name in (named[0] if named else ()) if name in functions and all(name in one for one in named)]
    if not tested:
        raise UserError("no function of the code is called by every test")
    node = functions[tested[0]]
    return tested[0], f"def {node.name}({ast.unparse(node.args)}):"
