"""What the simulated model says: an operator's tagged fields, right with the probability of its skill."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aflow_jax.llm.simulator.book import Entry, ProblemBook
from aflow_jax.llm.simulator.draws import digest, index, uniform
from aflow_jax.llm.simulator.gold import is_right, right_answer, short_answer, wrong_answer
from aflow_jax.llm.simulator.programs import answer_program
from aflow_jax.llm.simulator.skills import UNLISTED_SKILL

_OPERATOR = re.compile(r"You are the (\w+) operator of a workflow\.")
_JUDGE = "You are the judge of an answer."
_SECTION = re.compile(
    r"<(problem|question|context|solution|code|answer|prediction|response)\b[^>]*>\n?(.*?)\n?</\1>", re.DOTALL
)
_CANDIDATE = re.compile(r'<candidate id="([A-Z]+)">\n?(.*?)\n?</candidate>', re.DOTALL)

# A right solution shown to the model is mostly kept; a wrong one misleads it a little.
_KEEPS_RIGHT_SOLUTION = 0.7
_MISLED_BY_WRONG_SOLUTION = 0.8
_REVISE_KEEPS_RIGHT = 0.95


@dataclass(frozen=True)
class _Prompt:
    """One request, understood: who is asked what, and the text of each section."""

    operator: str
    entry: Entry
    sections: Mapping[str, str]
    candidates: Sequence[tuple[str, str]]
    draw: tuple[object, ...]


class Mind:
    """Answers messages. The same messages, with the same seed where the temperature is above 0, get the same answer."""

    def __init__(self, book: ProblemBook, skills: Mapping[str, Mapping[str, float]], seed: int) -> None:
        self._book = book
        self._skills = skills
        self._seed = seed

    def reply(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int | None) -> str:
        """Return the text of the assistant's message."""
        system = "\n".join(message["content"] for message in messages if message["role"] == "system")
        first_line = system.lstrip().split("\n", 1)[0]
        match = _OPERATOR.match(first_line)
        operator = match.group(1) if match else "judge" if first_line.startswith(_JUDGE) else ""
        if not operator:
            return "OK. (This is a simulated model: it plays the operators of a workflow and nothing else.)"
        text = "\n".join(message["content"] for message in messages if message["role"] != "system")
        sections: dict[str, str] = {}
        for name, content in _SECTION.findall(text):
            sections.setdefault(name, content.strip())
        entry = self._find(sections, text)
        if entry is None:
            return _FORMS.get(operator, "{}").replace("{}", "I do not know.")
        variant = seed if temperature > 0 else None
        content_digest = digest(*(part for message in messages for part in (message["role"], message["content"])))
        draw = (self._seed, entry.question, operator, variant, content_digest)
        prompt = _Prompt(operator, entry, sections, _CANDIDATE.findall(text), draw)
        return self._speak(prompt)

    def _find(self, sections: Mapping[str, str], text: str) -> Entry | None:
        stated = sections.get("problem") or sections.get("question")
        evidence = sections.get("context") or sections.get("solution") or text
        return (self._book.find(stated, evidence=evidence) if stated else None) or self._book.find(text, evidence=text)

    def _speak(self, prompt: _Prompt) -> str:
        if prompt.operator == "judge":
            return f"<true_false>{self._judge(prompt)}</true_false>"
        if prompt.operator == "Review":
            return self._review(prompt)
        if prompt.operator.endswith("Ensemble"):
            return f"<choice>{self._choose(prompt)}</choice>"
        if prompt.operator == "Format":
            return f"<answer>{self._shorten(prompt)}</answer>"
        return self._solve(prompt)

    def _solve(self, prompt: _Prompt) -> str:
        entry = prompt.entry
        answer = right_answer(entry) if self._succeeds(prompt) else wrong_answer(entry, self._book, *prompt.draw)
        writes_program = prompt.operator in ("Programmer", "CustomCodeGenerate", "Test")
        if prompt.operator == "Revise" and entry.domain == "code":
            return f"<code>\n{answer}\n</code>"
        if writes_program:
            return f"<code>\n{answer if entry.domain == 'code' else answer_program(answer)}\n</code>"
        return _FORMS.get(prompt.operator, "<solution>{}</solution>").replace("{}", answer)

    def _succeeds(self, prompt: _Prompt) -> bool:
        """Whether a solver is right, given its skill and the solution it was shown."""
        chance = self._skill(prompt)
        shown = prompt.sections.get("solution", "")
        if shown and prompt.operator == "Revise":
            chance = max(chance, _REVISE_KEEPS_RIGHT) if is_right(prompt.entry, shown) else chance
        elif shown and prompt.operator != "Test":
            kept = chance + (1 - chance) * _KEEPS_RIGHT_SOLUTION
            chance = kept if is_right(prompt.entry, shown) else chance * _MISLED_BY_WRONG_SOLUTION
        return uniform("skill", *prompt.draw) < chance

    def _review(self, prompt: _Prompt) -> str:
        shown = prompt.sections.get("solution") or prompt.sections.get("code") or ""
        right = is_right(prompt.entry, shown)
        passes = right if uniform("skill", *prompt.draw) < self._skill(prompt) else not right
        if passes:
            return "<verdict>pass</verdict>\n<feedback>The solution answers the question.</feedback>"
        return (
            "<verdict>fail</verdict>\n<feedback>The result does not fit the question; work through it again.</feedback>"
        )

    def _choose(self, prompt: _Prompt) -> str:
        if not prompt.candidates:
            return "A"
        right = [name for name, text in prompt.candidates if is_right(prompt.entry, text)]
        wrong = [name for name, _ in prompt.candidates if name not in right]
        pool = right if uniform("skill", *prompt.draw) < self._skill(prompt) else wrong
        pool = pool or right or wrong
        return pool[index(len(pool), "choice", *prompt.draw)]

    def _shorten(self, prompt: _Prompt) -> str:
        shown = prompt.sections.get("solution") or prompt.sections.get("code") or ""
        if not shown:
            return (
                right_answer(prompt.entry)
                if self._succeeds(prompt)
                else wrong_answer(prompt.entry, self._book, *prompt.draw)
            )
        if uniform("skill", *prompt.draw) < self._skill(prompt):
            return short_answer(prompt.entry, shown)
        return (shown.split() or ["nothing"])[0]

    def _judge(self, prompt: _Prompt) -> bool:
        named = (prompt.sections.get(name) for name in ("answer", "prediction", "response", "solution", "code"))
        answer = next((text for text in named if text is not None), "")
        return is_right(prompt.entry, answer)

    def _skill(self, prompt: _Prompt) -> float:
        return self._skills[prompt.entry.domain].get(prompt.operator, UNLISTED_SKILL)


_FORMS = {
    "Custom": "Working through what is asked.\n<solution>{}</solution>",
    "AnswerGenerate": "<thought>Working through what is asked, step by step.</thought>\n<answer>{}</answer>",
    "CustomCodeGenerate": "<code>{}</code>",
    "Programmer": "<code>{}</code>",
    "Test": "<code>{}</code>",
    "Review": "<verdict>fail</verdict>\n<feedback>{}</feedback>",
    "Revise": "<solution>{}</solution>",
    "Format": "<answer>{}</answer>",
    "ScEnsemble": "<choice>A</choice>",
    "MdEnsemble": "<choice>A</choice>",
    "judge": "<true_false>False</true_false>",
}
