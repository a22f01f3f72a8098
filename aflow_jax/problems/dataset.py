"""Problems in JSONL files: read strictly, written canonically, kept apart between splits."""

from __future__ import annotations

import ast
import difflib
import json
import keyword
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from aflow_jax.errors import UserError
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.sources import DOMAINS, Sources, default_sources

# A field of a megabyte is a broken export, not a problem: it would not fit any prompt.
MAX_FIELD_CHARACTERS = 200_000

# Each field's own name first, then the names that other exports use. `meta.x` is x inside the object `meta`.
ALIASES = {
    "question": ("question", "problem", "prompt"),
    "answer": ("answer", "ground_truth"),
    "source": ("source",),
    "context": ("context",),
    "entry_point": ("entry_point", "meta.entry_point"),
    "test": ("test", "test_list", "meta.test", "meta.test_cases"),
    "id": ("id", "task_id"),
}


def load_problems(path: str | Path, sources: Sources | None = None) -> list[Problem]:
    """Read a JSONL file of problems, one a line, in the file's order.

    Fields: `question`, `answer`, `source` (a row of configs/datasets.yaml), and where they apply `context`,
    `entry_point`, `test`, `id`; the names in ALIASES are accepted too, and `problem_type` for a source or a domain.

    Raises:
        UserError: the file cannot be read, is empty, or has a bad line: `path:line: reason`. No line is ever skipped.
    """
    sources = sources or default_sources()
    problems: list[Problem] = []
    lines_by_id: dict[str, int] = {}
    for number, row in read_rows(path):
        try:
            problem = problem_from_row(row, sources, default_id=f"{Path(path).stem}/{number}")
            if problem.id in lines_by_id:
                raise UserError(f"id {problem.id[:60]!r} is already used on line {lines_by_id[problem.id]}")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        lines_by_id[problem.id] = number
        problems.append(problem)
    return problems


def save_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write problems as JSONL that `load_problems` reads back to equal ones (the domain follows from the source)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for problem in problems:
            file.write(json.dumps(problem_as_row(problem), ensure_ascii=False) + "\n")


def problem_as_row(problem: Problem) -> dict:
    """Return a problem as `problem_from_row` reads it back; the domain follows from the source."""
    names = [field.name for field in fields(Problem) if field.name != "domain"]
    return {name: getattr(problem, name) for name in names if getattr(problem, name)}


def read_rows(path: str | Path) -> list[tuple[int, dict]]:
    """Return (line number, object) for each line of a JSONL file; raise UserError `path:line: reason`."""
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): give the path of a JSONL file") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the file is empty: expected one JSON object a line")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append((number, _json_object(line)))
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    return rows


def problem_from_row(row: dict, sources: Sources, *, default_id: str) -> Problem:
    """Return the problem that a row holds; raise UserError with the reason where it holds none."""
    source = sources.named(_source_name(row, sources))
    _check_problem_type(row, source.name, source.domain)
    question = _required(row, "question")
    answer = _required(row, "answer")
    test = _text(row, "test")
    entry_point = _text(row, "entry_point")
    if source.domain == "code" and entry_point is None:
        entry_point = _tested_function(answer, test)
    if entry_point is not None and (not entry_point.isidentifier() or keyword.iskeyword(entry_point)):
        raise UserError(f"entry_point {entry_point[:40]!r} is not the name of a function")
    return Problem(
        question=question,
        answer=answer,
        source=source.name,
        domain=source.domain,
        context=_text(row, "context"),
        entry_point=entry_point,
        test=test,
        id=_text(row, "id") or default_id,
    )


def _json_object(line: bytes) -> dict:
    if not line.strip():
        raise UserError("the line is empty: expected a JSON object")
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start + 1} of the line") from None
    except json.JSONDecodeError as error:
        raise UserError(f"malformed JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise UserError("malformed JSON: nested too deeply") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise UserError(f"malformed JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"expected a JSON object, found {_kind(row)}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise UserError(f"malformed JSON: {name} is not a JSON value")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the field {twice[:40]!r} is there twice")
    return row


def _source_name(row: dict, sources: Sources) -> str:
    name = _text(row, "source")
    if name is not None:
        return name
    kind = row.get("problem_type")
    if isinstance(kind, str) and kind.strip().lower() in sources:
        return kind
    if isinstance(kind, str) and kind.strip().lower() in DOMAINS:
        raise UserError(f"missing field 'source': problem_type {kind!r} is a domain, and does not say how to grade")
    if isinstance(kind, str) and kind.strip():
        return kind
    raise UserError(f"missing field 'source'{_near_field(row, 'source')}")


def _check_problem_type(row: dict, source: str, domain: str) -> None:
    kind = row.get("problem_type")
    if kind is None:
        return
    if not isinstance(kind, str) or kind.strip().lower() not in (source, domain):
        shown = repr(kind)[:40]
        raise UserError(f"problem_type {shown} contradicts the source {source!r}, whose domain is {domain!r}")


def _required(row: dict, field: str) -> str:
    text = _text(row, field)
    if text is None:
        raise UserError(f"missing field {field!r}{_near_field(row, field)}")
    return text


def _text(row: dict, field: str) -> str | None:
    """Return the field under whichever of its names the row uses; None where it is absent, null or blank."""
    found: dict[str, str] = {}
    for name in ALIASES[field]:
        value = _lookup(row, name)
        if value is None:
            continue
        text = _as_text(field, name, value)
        if text.strip():
            found[name] = text
    if len(set(found.values())) > 1:
        raise UserError(f"{' and '.join(found)} both give the {field}, and differ: keep one")
    return next(iter(found.values()), None)


def _lookup(row: dict, name: str) -> object:
    if not name.startswith("meta."):
        return row.get(name)
    meta = row.get("meta")
    if meta is None:
        return None
    if not isinstance(meta, dict):
        raise UserError(f"meta is {_kind(meta)}: expected an object")
    return meta.get(name.removeprefix("meta."))


def _as_text(field: str, name: str, value: object) -> str:
    if field == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if field == "test" and isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise UserError(f"{name} is {_kind(value)}: expected a string")
    if len(value) > MAX_FIELD_CHARACTERS:
        raise UserError(f"{name} has {len(value)} characters: at most {MAX_FIELD_CHARACTERS}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{name} holds half of a surrogate pair, which is no character")
    return value


def _tested_function(answer: str, test: str | None) -> str:
    """Return the one function of the reference solution that the tests call (or the only one it defines)."""
    mend = "a code problem needs an entry_point, the name of the function that is tested"
    try:
        defined = {node.name for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef)}
        called = {node.id for node in ast.walk(ast.parse(test or "")) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"missing field 'entry_point': {mend}") from None
    candidates = defined & called if test else defined
    if len(candidates) != 1:
        raise UserError(f"missing field 'entry_point': {mend}")
    return candidates.pop()


def _near_field(row: dict, field: str) -> str:
    near = difflib.get_close_matches(field, [name for name in row if isinstance(name, str)], n=1)
    return f" (is {near[0][:40]!r} meant?)" if near else ""


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        str: "a string",
    }
    return names.get(type(value), "null")
