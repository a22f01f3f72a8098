"""The answer inside a text: what a workflow wrote, reduced to what is graded."""

from __future__ import annotations

import ast
import re
import warnings

from aflow_jax.problems.sources import default_sources
from aflow_jax.rewards.literals import is_number_word, number_spans

# Longer texts are not answers; what counts as one stands at their end.
MAX_CHARACTERS = 20_000

# Boxes from the end whose braces are matched; more unbalanced ones than this are an attack.
_BOXES_TRIED = 8

_NOT_AN_ANSWER = frozenset(
    {"", "{}", "[]", "()", '""', "''", "none", "null", "nil", "nan", "n/a", "na", "undefined", "...", "error"}
)
_KEYWORD = re.compile(r"\b(?:def|class|import|return|for|while|with|lambda|print)\b")
_DEFINITION = re.compile(r"^(?:def|class) \w+.*:\s*$|^(?:import|from) \w+", re.MULTILINE)
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_FORMULA = re.compile(r"(?<!\\)\$([^$\n]+)(?<!\\)\$")
# Bounded, so that a text of nothing but openings is read in linear time.
_DISPLAY = re.compile(r"\\\[(.{1,500}?)\\\]|(?<!\\)\$\$(.{1,500}?)(?<!\\)\$\$", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\s#][^\n]*)$", re.MULTILINE)
_PROSE = frozenset(
    {"is", "are", "was", "has", "have", "had", "get", "gets", "because", "since", "so", "which", "there", "the", "of"}
    | {"in", "we", "she", "he", "it", "they", "that", "then", "not", "know"}
)
_PHRASE = re.compile(
    r"\b(?:final\s+answer|correct\s+answer|correct\s+option|answer)\b[\s*]*(?:(?:is|are|would\s+be|equals)\b|[:=])[\s*]*:?[\s*]*([^\n]+)",
    re.IGNORECASE,
)
# A sentence ends at a stop before a space, but not inside initials and abbreviations such as "J. R." or "St.".
_SENTENCE_END = re.compile(r"(?<=[\w)}\]$%*\"'])(?<!\b[A-Zv])(?<!\b(?:St|Mr|Dr|Jr|Sr|vs|No))(?<!\bMrs)[.!](?=\s+[A-Z])")


def extract_answer(text: str, source: str) -> str | None:
    """Return the answer that `text` gives, as its source's rules read it, or None where it gives none.

    Math: the first found of a line `#### …`, the last `\\boxed{…}`, the last `<answer>` element, "the answer is …", the
    text itself where it is nothing but an expression, the last number. Questions: the same marks, else the text. Code:
    the program, out of its fence. `{}`, `None`, nothing at all, and code where none was asked for are no answers.

    Raises:
        UserError: the source is not a row of configs/datasets.yaml.
    """
    domain = default_sources().named(source).domain
    return extract_in_domain(text, domain)


def extract_in_domain(text: str, domain: str) -> str | None:
    """Return the answer that `text` gives in a domain: "math", "code" or "qa"; None where it gives none."""
    if domain == "code":
        return extract_code(text)
    text = _DISPLAY.sub(_in_line, text[-MAX_CHARACTERS:]).strip()
    prose = _FENCE.sub(_keep_plain_fence, text).strip()
    # A program's own words, such as a variable named `answer`, mark nothing.
    if is_blank(prose) or is_program(prose):
        return None
    marked = _marked(prose, domain)
    if marked is not None:
        if is_blank(marked) or is_code(marked):
            return None
        return marked
    if is_code(prose):
        return None
    if domain == "qa":
        return prose
    return _expression_in(prose, otherwise=None)


def extract_code(text: str, entry_point: str | None = None) -> str | None:
    """Return the program in a text: of its fenced blocks the last that defines `entry_point`, else the longest."""
    blocks = [block for _, block in _FENCE.findall(text) if not is_blank(block)]
    if not blocks:
        return None if is_blank(text) else text.strip("\n")
    if entry_point is not None:
        defining = [
            block for block in blocks if re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", block, re.M)
        ]
        blocks = defining[-1:] or blocks
    return max(blocks, key=len).strip("\n")


def is_blank(text: str) -> bool:
    """Whether a text says nothing: empty, or a bare `{}`, `None`, `null`, `nan` …"""
    return (
        text.strip().strip("`*\"'$. \n").strip().lower() in _NOT_AN_ANSWER or re.sub(r"\s", "", text) in _NOT_AN_ANSWER
    )


def is_code(text: str) -> bool:
    """Whether a text is a Python program, or looks like a broken one."""
    if not _KEYWORD.search(text):
        return False
    if re.match(r"\s*(?:return|yield)\b", text):
        return True
    body = _parsed(text)
    return bool(_DEFINITION.search(text)) if body is None else any(map(_is_more_than_a_value, body))


def is_program(text: str) -> bool:
    """Whether a text is as a whole a Python program: it parses, and does more than state a value."""
    return bool(_KEYWORD.search(text)) and any(map(_is_more_than_a_value, _parsed(text) or ()))


def is_expression(text: str) -> bool:
    """Whether a text is a mathematical expression or a short name, and no prose: `\\frac{1}{2}`, `5 cm`, `Sunday`."""
    if "\n" in text.strip() and "\\begin" not in text:
        return False
    words = re.findall(
        r"[A-Za-z]{2,}", re.sub(r"\\(?:text|mbox|textbf|textnormal|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    )
    words = [word for word in words if word.lower() not in ("and", "or", "pi", "sqrt", "infinity")]
    if _PROSE & {word.lower() for word in words}:
        return False
    if number_spans(text):
        return not re.search(r"[?!]\s|[A-Za-z\d][.]\s+\S|[A-Za-z]:\s+\S", text) and len(words) <= 2
    return len(words) <= 3 and not re.search(r"[.?!:]\s+\S", text)


def last_boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` (or `\\fbox{…}`) with balanced braces; None where there is none."""
    for match in list(re.finditer(r"\\f?box(?:ed)?(?![A-Za-z])[ \t]*", text))[: -_BOXES_TRIED - 1 : -1]:
        rest = text[match.end() :]
        if not rest.startswith("{"):
            word = re.match(r"\\?\w+", rest)
            if word:
                return word.group()
            continue
        depth = 0
        for position, (before, character) in enumerate(zip(" " + rest, rest, strict=False)):
            if character in "{}" and before != "\\":
                depth += 1 if character == "{" else -1
                if depth == 0:
                    return rest[1:position]
    return None


def _marked(text: str, domain: str) -> str | None:
    """Return what the first kind of mark found holds; of a phrase about mathematics only its expression."""
    hashes = [line.strip() for line in _HASHES.findall(text)]
    if hashes and is_expression(hashes[-1]):
        return hashes[-1]
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    inner = _last_element(text)
    if inner is not None and is_blank(inner):
        return inner
    said = _phrase(text) if inner is None else _phrase(inner) or inner
    return _expression_in(said) if said is not None and domain == "math" else said


def _last_element(text: str) -> str | None:
    end = text.lower().rfind("</answer>")
    start = text.lower().rfind("<answer>", 0, max(end, 0))
    return None if start < 0 else text[start + len("<answer>") : end].strip()


def _phrase(text: str) -> str | None:
    phrases = _PHRASE.findall(text)
    if not phrases:
        return None
    sentence = _SENTENCE_END.split(phrases[-1], maxsplit=1)[0]
    return sentence.strip().strip("*").strip()


def _in_line(match: re.Match[str]) -> str:
    """A formula displayed over several lines is one line, so that the phrase before it finds its end."""
    return "$" + " ".join((match.group(1) or match.group(2)).split()) + "$"


def _expression_in(text: str, otherwise: str | None = "") -> str | None:
    """Return the expression in a phrase: all of it, or up to its reason, or its last formula, or its last number."""
    if is_expression(text):
        return text
    head = re.split(r",?\s+(?:because|since|so|which|as|where|when)\b|\s*[\n;]", text, maxsplit=1)[0].strip()
    if head and head != text and is_expression(head) and number_spans(head):
        return head
    formulas = [formula for formula in _FORMULA.findall(text) if re.search(r"[\\^_]", formula)]
    if formulas:
        return formulas[-1].strip()
    return _last_number(text) or (text if otherwise == "" else otherwise)


def _last_number(text: str) -> str | None:
    spans = number_spans(text)
    if spans:
        start, end = spans[-1]
        return text[start:end]
    # "one" is more often a pronoun than an answer.
    words = [word for word in re.findall(r"(?<![\w-])[A-Za-z]+(?:-[A-Za-z]+)?(?![\w-])", text) if is_number_word(word)]
    return next((word for word in reversed(words) if word.lower() != "one"), None)


def _keep_plain_fence(match: re.Match[str]) -> str:
    """A fence of plain text is kept as text; one of code is no part of an answer in prose."""
    language, block = match.group(1).lower(), match.group(2)
    plain = language in ("", "text", "txt", "latex", "tex", "math", "markdown", "md") and not is_code(block)
    return block if plain else " "


def _parsed(text: str) -> list[ast.stmt] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LaTeX is full of what Python warns of as invalid escapes
        try:
            return ast.parse(text.strip()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _is_more_than_a_value(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign):
        return True
    value = node.value
    return isinstance(value, ast.Lambda) or (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"
    )
