"""One spelling for a mathematical answer, whatever dress it came in."""

from __future__ import annotations

import re

# fmt: off
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ",
    "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "√": r"\sqrt ", "±": r"\pm ", "≈": r"\approx ", "∅": r"\emptyset ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "²": "^2", "³": "^3", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4",
    "¾": " 3/4", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "’": "'", "“": '"', "”": '"',
}
# fmt: on
_SPELLINGS = (
    (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])\s*\.?", ""),
    (r"\{,\}", ","),
    (r"(?<!\\)\\!", ""),
    (r"(?<!\\)\\(?:[,;:> ]|quad|qquad|space)(?![A-Za-z])|~", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le "),
    (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge "),
    (r"\\neq(?![A-Za-z])", r"\\ne "),
    (r"\\(?:varnothing|phi(?=\s*$))(?![A-Za-z])", r"\\emptyset "),
    (r"\\[hv]?phantom\s*(?:\{[^{}]*\}|.)", ""),
    (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
    (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
    (r"\\begin\{(?:[bBvV]?matrix|array|smallmatrix)\}(?:\{[lcr| ]*\})?", r"\\begin{pmatrix}"),
    (r"\\end\{(?:[bBvV]?matrix|array|smallmatrix)\}", r"\\end{pmatrix}"),
    (r"\*\*", "^"),
    (r"(?<![A-Za-z\\])(?:sqrt)\s*(?=\()", r"\\sqrt"),
    (r"(?<![A-Za-z\\])(?:infinity|oo)(?![A-Za-z])", r"\\infty "),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|ln|log|exp)(?=\s*[\(\\^])", r"\\\1"),
    (r"\^\s*(-\d+|\d{2,})", r"^{\1}"),
)
_COMPILED = tuple((re.compile(pattern), replacement) for pattern, replacement in _SPELLINGS)
_TEXT = re.compile(
    r"\\(?:text|mbox|textbf|textit|textnormal|textrm|mathrm|mathbf|mathit|operatorname|hbox)\s*\{([^{}]*)\}"
)
_ARGUMENT = r"(?:\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z0-9])"
_DEGREES = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)(?![A-Za-z])|\\degree(?![A-Za-z])")


def normalise(text: str) -> str:
    """Return an answer in one spelling.

    Dollar signs that fence mathematics go, those of currency stay; sizes, thin spaces and alternative command names
    go; `\\text{…}` and its kin become `⟨…⟩`; `\\frac12` becomes `\\frac{1}{2}`; degrees lose their sign outside of
    functions.
    """
    text = text.strip().strip("`").strip().strip("*").strip()
    for character, spelling in _UNICODE.items():
        text = text.replace(character, spelling)
    text = re.sub(r"^\s*\\[\[(](.*)\\[\])]\s*[.,]?\s*$", r"\1", text, flags=re.DOTALL)
    text = _money(text)
    text = _TEXT.sub(_words, text)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    text = _roots(_fractions(text))
    text = _degrees(text)
    text = re.sub(r"\s+", " ", text).strip().removeprefix("=").strip()
    text = re.sub(r"(?<=[^\\\s])[.,;:\s]+$", "", re.sub(r"[.;,\s]+⟩$", "⟩", text))
    return text.rstrip(")").rstrip() if text.endswith(")") and not re.search(r"[(\[]", text) else text


def key(text: str) -> str:
    """Return a normalised text without text marks and idle spaces: equal keys are equal answers.

    A space between two digits, or after a command and before a letter, is not idle.
    """
    text = re.sub(r"⟨\s*|\s*⟩", "", text)
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|(?<=\d)\s+(?=\d)", lambda match: (match.group(1) or "") + "\0", text)
    return re.sub(r"\s+", "", text).replace("\0", " ")


def is_words(text: str) -> bool:
    """Whether a normalised text is words rather than mathematics: `⟨Sunday⟩`, `two lines`, `(C)`, `⟨A, B⟩`."""
    bare = re.sub(r"[⟨⟩(),.:'\"\s-]|\band\b", " ", text).strip()
    if not bare or re.search(r"[\d\\^_=+*/{}\[\]<>|]", bare):
        return False
    return "⟨" in text or bool(re.search(r"[A-Za-z]{3,}", bare)) or bool(re.fullmatch(r"\s*\([A-Z]\)\s*", text))


def words_key(text: str) -> str:
    """Return a text of words without case, marks, parentheses and articles: `(C)` is `c`."""
    words = re.findall(r"[\w']+", re.sub(r"[⟨⟩]", " ", text).casefold())
    return " ".join(word for word in words if word not in ("the", "a", "an", "and") or len(words) == 1)


def _money(text: str) -> str:
    """Keep a currency's dollar, before a number, once; drop the dollars that fence mathematics."""
    text = re.sub(r"\\text\s*\{\s*\\?\$\s*\}", r"\\$", text)
    bare = text.replace(r"\$", "\0")
    if bare.count("$") == 1 and re.match(r"[+-]?\s*\$\s*-?[\d.]", bare):
        return bare.replace("\0", "$")
    return re.sub(r"\$\s*\$", "$", bare.replace("$", "").replace("\0", "$"))


def _words(match: re.Match[str]) -> str:
    """Text in a formula: connectives and bare numbers as such, the rest marked as words."""
    words = match.group(1)
    if re.fullmatch(r"[\s,]*(?:and|or)\s*,?\s*", words):
        return f" {words.strip(' ,')} "
    if re.fullmatch(r"\s*[-+.,\d%$\\/ ]*\s*|\s*[ieπ]\s*", words):
        return words
    return f" ⟨{words.strip()}⟩ "


def _fractions(text: str) -> str:
    """Give every `\\frac` its braces: `\\frac12`, `\\frac 3{4}`, `\\frac{1}2`."""
    first = re.compile(rf"\\frac\s*({_ARGUMENT})\s*({_ARGUMENT})")

    def braced(match: re.Match[str]) -> str:
        return r"\frac" + "".join(part if part.startswith("{") else "{" + part + "}" for part in match.groups())

    return re.sub(r"\\frac\{\s*([^{}]*?)\s*\}\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}", first.sub(braced, text))


def _roots(text: str) -> str:
    """Give every root its braces: `\\sqrt2`, `\\sqrt(2)`, also around nested parentheses."""
    text = re.sub(r"\\sqrt\s*([A-Za-z0-9])", r"\\sqrt{\1}", text)
    while (match := re.search(r"\\sqrt\s*\(", text)) is not None:
        depth, end = 0, len(text)
        for position in range(match.end() - 1, len(text)):
            depth += {"(": 1, ")": -1}.get(text[position], 0)
            if depth == 0:
                end = position
                break
        text = text[: match.start()] + r"\sqrt{" + text[match.end() : end] + "}" + text[end + 1 :]
    return text


def _degrees(text: str) -> str:
    """Turn angles inside functions to radians, so that `\\tan 15^\\circ` means what it says; else drop the sign."""
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])", text):
        text = re.sub(r"(\d+(?:\.\d+)?)" + _DEGREES.pattern, r"(\\frac{\1\\pi}{180})", text)
    return _DEGREES.sub(" ", text)
