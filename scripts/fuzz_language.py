"""Look for a text that the workflow language or the AFlow reader answers with anything but a workflow or its own error.

    python scripts/fuzz_language.py [--texts 1000000] [--modules 50000] [--seed 0]

Texts are workflows drawn from the grammar, as they are or mutated; the language's own words in any order; random
Unicode; brackets, numbers and strings of any size; answers with elements in and around them. A text that parses must
come back equal from its canonical form, and lie within the limits. Modules are AFlow modules with words, lines and
characters changed. At the end it says how many canonical texts one core parses in a second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

from aflow_jax.workflow import (
    AFlowError,
    AFlowModule,
    Branch,
    Call,
    Chain,
    Limits,
    Loop,
    Parallel,
    Workflow,
    WorkflowError,
    format,
    from_aflow_module,
    nesting,
    operator_names,
    parse,
    parse_completion,
    to_aflow_module,
    worst_case_calls,
)

LIMITS = Limits()
WORDS = (
    *operator_names(), "done", "->", "(", ")", "[", "]", ",", "?", ":", "*", "1", "5", "0", "-1", "3.5", "1e9", " ",
    "\n", "\t", '"', '""', '("x")', '("\\u00e9")', '("\\ud83d\\ude00")', '("\\ud800")', '("a\\x")', "\\", "'", "→", "é",
    "😀", "\x00", "\u2028", "\ufeff", "\ud800", "<workflow>", "</workflow>", "<Workflow>", "<|im_end|>", "none", "；",
    "custom", "CUSTOM", "Custom()", "Test?", "done:done", "# x", "/* x */", "{", "}", "`", "=", "-", ">", "--", "->->",
)  # fmt: skip
PYTHON = (
    "await ", "self.custom(", "problem", "solution", "['response']", "if ", "else:", "for _ in range(3):", "return ",
    "(", ")", "[", "]", ":", ",", "=", "+", ".", "'", '"', '"""', "f'", "{", "}", "**", "lambda: 0", "__class__", "0x",
    "999999999999", "\n", "\n    ", "\t", "\\", "#", "@", "yield ", "async ", "import os", "while True:", "break",
    "del ", "not ", "None", "True", "*", "a" * 90, "\x00", "é", "\ud800", "[x for x in range(9)]", "max(", ".append(",
    "pass", "eval(",
)  # fmt: skip


def main() -> None:
    """Fuzz both readers and print the counts; the first text that fails ends the script with 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--modules", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = Random(options.seed)
    for name, texts, check in (
        ("texts", (fuzzed_text(random) for _ in range(options.texts)), check_text),
        ("modules", fuzzed_modules(random, options.modules), check_module),
    ):
        started = time.perf_counter()
        counts = tried(texts, check)
        print(
            f"{name}: {counts.total()} tried in {time.perf_counter() - started:.0f} s, {dict(sorted(counts.items()))}; "
            "no other exception, every workflow came back equal"
        )
    print(f"{parses_per_second(random):,.0f} workflows parsed a second on one core")


def tried(texts: Iterator, check: Callable[..., str]) -> Counter[str]:
    """Return how the texts were answered; leave with the first one that was answered wrongly."""
    counts: Counter[str] = Counter()
    for text in texts:
        try:
            counts[check(text)] += 1
        except BaseException as error:
            print(f"after {counts.total()} inputs: {type(error).__name__}: {error}\n{text!r}"[:4000], file=sys.stderr)
            raise SystemExit(1) from error
    return counts


def check_text(text: str) -> str:
    """Return how a text is answered; raise AssertionError for a wrong answer."""
    outcome = ""
    for read in (parse_completion, parse):
        try:
            workflow = read(text)
        except WorkflowError as error:
            outcome = error.code
            assert outcome in ("PARSE", "LIMIT"), outcome
            assert 1 <= error.column <= len(text) + 1, f"column {error.column}"
            assert 0 <= error.progress < 1, f"progress {error.progress}"
            assert error.message and "\n" not in error.message, error.message
        else:
            outcome = "workflow"
            check_workflow(workflow)
    return outcome


def check_workflow(workflow: Workflow) -> None:
    """Raise AssertionError where a workflow is beyond a limit or changes on its way through its text."""
    text = format(workflow)
    assert parse(text) == workflow, "another graph came back"
    assert format(parse(text)) == text, "the canonical text is not canonical"
    assert parse_completion(f"Why.\n<workflow>{text}</workflow>") == workflow, "another graph came back from an answer"
    assert nesting(workflow) <= LIMITS.nesting
    assert worst_case_calls(workflow) <= LIMITS.calls


def check_module(module: AFlowModule) -> str:
    """Return how a module is answered; raise AssertionError for a wrong answer."""
    try:
        workflow = from_aflow_module(module)
    except AFlowError as error:
        assert error.line >= 1
        assert error.message and "\n" not in error.message, error.message
        return "refused"
    try:
        assert parse(format(workflow), limits=Limits(10**6, 100, 100, 10**6, 10**6)) == workflow
    except WorkflowError as error:
        raise AssertionError(str(error)) from error
    return "workflow"


def fuzzed_text(random: Random) -> str:
    """Return the next text to try."""
    kind = random.randrange(8)
    if kind == 0:
        return spaced(random, format(drawn(random)))
    if kind in (1, 2, 3):
        return mutated(random, format(drawn(random)), WORDS)
    if kind == 4:
        return "".join(random.choices(WORDS, k=random.randint(0, 30)))
    if kind == 5:
        return "".join(
            chr(random.choice((random.randrange(128), random.randrange(0x110000))))
            for _ in range(random.randint(0, 40))
        )
    if kind == 6:
        return oversized(random)
    text = mutated(random, format(drawn(random)), WORDS) if random.random() < 0.5 else format(drawn(random))
    around = [random.choice(("", "I think.\n", "<workflow>", "</workflow>", "{text}", "<workflow >")) for _ in range(2)]
    return f"{around[0]}<workflow>{text}</workflow>{around[1]}"


def drawn(random: Random, depth: int = 0) -> Chain:
    """Return a chain drawn from the grammar, perhaps beyond the limits."""
    return Chain(tuple(_stage(random, depth) for _ in range(random.choice((1, 1, 1, 2, 2, 3)))))


def _stage(random: Random, depth: int) -> Call | Parallel | Branch | Loop:
    kind = random.randrange(8) if depth < 5 else 0
    if kind == 5:
        return Parallel(tuple(drawn(random, depth + 1) for _ in range(random.choice((2, 2, 2, 3, 3, 9)))))
    if kind == 6:
        return Loop(drawn(random, depth + 1), random.randint(1, 5))
    if kind == 7:
        arms = [None if random.random() < 0.4 else drawn(random, depth + 1) for _ in range(2)]
        return Branch(Call(random.choice(("Review", "Test")), _instruction(random)), *arms)
    return Call(random.choice(operator_names()), _instruction(random))


def _instruction(random: Random) -> str | None:
    if random.random() < 0.7:
        return None
    return "".join(
        random.choice(('"', "\\", "<workflow>", "</workflow>", "\n", "é", "😀", "\x01", "a", " ", "{"))
        for _ in range(random.randrange(8))
    )


def spaced(random: Random, text: str) -> str:
    """Return a canonical text with blanks where the language lets them stand; strings are left as they are."""
    if '"' in text:
        return text
    return "".join(random.choice(("", " ", "\n\t")) + word + random.choice(("", " ")) for word in text.split(" "))


def mutated(random: Random, text: str, words: tuple[str, ...]) -> str:
    """Return a text with one to four changes: a character or a span left out, doubled, moved or replaced by a word."""
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(text))
        end = min(len(text), start + random.choice((0, 1, 1, 2, 5, 20)))
        word = random.choice((random.choice(words), text[start:end] * 2, "", text[end:][:10]))
        text = text[:start] + word + text[end:]
    return text


def oversized(random: Random) -> str:
    """Return a text with a part of any size: brackets, blanks, a number, a string, a name, a chain."""
    size = 10 ** random.randint(1, 4) + random.randrange(10)
    text = random.choice(("a", "é", r"\n", "\\", "<workflow>")) * size
    return random.choice(
        (
            random.choice("([") * size,
            "(" * size + "Custom" + ")" * size,
            "Test ? (" * size + "Custom",
            f"(Custom) * {'9' * size}",
            f'Custom("{text}")',
            f"{'Custom' * size}",
            " " * size + "Custom",
            " -> ".join(["Custom"] * size),
            f"[{', '.join(['Custom'] * size)}]",
            "<workflow>" * size,
            "<" * size + "/workflow>",
        )
    )


def fuzzed_modules(random: Random, count: int) -> Iterator[AFlowModule]:
    """Yield AFlow modules of drawn workflows, most of them with changes."""
    for _ in range(count):
        module = to_aflow_module(drawn(random, depth=2))
        kind = random.randrange(4)
        if kind == 0:
            yield AFlowModule(mutated(random, module.graph, PYTHON), module.prompt)
        elif kind == 1:
            yield AFlowModule(module.graph, mutated(random, module.prompt, PYTHON))
        elif kind == 2:
            lines = module.graph.split("\n")
            for _ in range(random.randint(1, 3)):
                lines[random.randrange(len(lines))] = random.choice(lines)
            yield AFlowModule("\n".join(lines), module.prompt)
        else:
            yield module


def parses_per_second(random: Random, count: int = 20_000) -> float:
    """Return how many canonical texts of workflows within the limits are parsed in a second of one core's time."""
    texts: list[str] = []
    while len(texts) < count:
        text = format(drawn(random))
        try:
            parse(text)
        except WorkflowError:
            continue
        texts.append(text)
    started = time.process_time()
    workflows = [parse(text) for text in texts]
    seconds = time.process_time() - started
    characters, calls = sum(map(len, texts)) / count, sum(map(worst_case_calls, workflows)) / count
    print(f"a workflow has {characters:.0f} characters and {calls:.1f} calls")
    return count / seconds


if __name__ == "__main__":
    main()
