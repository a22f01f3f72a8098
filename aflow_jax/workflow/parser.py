"""Recursive descent over the tokens of a workflow; see language.py for the grammar."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Collection

from aflow_jax.workflow.graph import CHECKERS, MAX_LOOP, Branch, Call, Chain, Loop, Parallel, Stage, Workflow

# However high the limit on nesting is set, the parser's own recursion stays far from Python's.
DEEPEST_NESTING = 100

# Possessive quantifiers (`*+`): a string that never ends is refused in linear time.
_STRING_BODY = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
_TOKEN = re.compile(
    rf'\s*+(?:(?P<symbol>->|[()\[\],?:*])|(?P<name>[A-Za-z_][A-Za-z0-9_]*+)|(?P<string>{_STRING_BODY}")'
    r"|(?P<integer>[0-9]++)|(?P<end>\Z)|(?P<other>.))",
    re.DOTALL,
)
_UNFINISHED_STRING = re.compile(_STRING_BODY)
SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 24

_DESCRIPTIONS = {
    "end": "the end of the workflow",
    "name": "an operator",
    "string": 'a JSON string ("…")',
    "integer": f"a number from 1 to {MAX_LOOP}",
    "done": '"done"',
}
_BRANCHING_ARM = "; an arm that branches stands in round brackets: C ? (C ? X : Y) : Z"
_REPEATED = "; only a group repeats, as (X -> Y) * 3, and as an arm it stands in round brackets of its own"
_LONG_ARM = "; an arm of several stages stands in round brackets: C ? (X -> Y) : Z"
_SIDE_BY_SIDE = "; what runs side by side stands in square brackets: [X, Y]"
_JOINED = '; stages follow each other by "->": X -> Y'
_NO_INSTRUCTION = "; without an instruction there are no brackets behind the operator"
_INSTRUCTION = "; in the brackets behind an operator stands its instruction, in double quotes, and nothing else"
_QUOTE = r"; a quote inside an instruction is written \""


class WorkflowError(Exception):
    """A text that is no workflow.

    Attributes:
        code: "PARSE", or "LIMIT" for a workflow beyond one of the limits.
        column: where, counted from 1 over the whole text.
        message: what was expected there, or which limit is exceeded.
        progress: how much of the text was right, 0 to 1; always below 1.
    """

    def __init__(self, code: str, column: int, message: str, *, progress: float = 0.0) -> None:
        super().__init__(f"{code} at column {column}: {message}")
        self.code = code
        self.column = column
        self.message = message
        self.progress = progress


class Parser:
    """One pass over one text. `kind` and `value` are those of the token that comes next."""

    def __init__(
        self,
        text: str,
        *,
        known: Collection[str],
        offered: Collection[str],
        nesting: int,
        branches: int,
        instruction: int,
    ) -> None:
        self._text = text
        self._known = known
        self._offered = offered
        self._nesting = min(nesting, DEEPEST_NESTING)
        self._branches = branches
        self._instruction = instruction
        self._depth = 0
        self._end = 0
        self._advance()

    def workflow(self) -> Workflow:
        """Return the workflow that the whole text is; raise WorkflowError at the first place where it is none."""
        chain = self._chain()
        self._expect("end")
        return chain

    def _chain(self) -> Chain:
        stages = [self._stage()]
        while self._accept("->"):
            if self._accept("done"):
                break
            stages.append(self._stage())
        return Chain(tuple(stages))

    def _stage(self) -> Stage | Chain:
        if self.kind == "name":
            return self._call_or_branch()
        if self.kind == "(":
            return self._group_or_loop()
        if self.kind == "[":
            return self._parallel()
        if self.kind == "done":
            raise self._error(
                self._start, '"done" is no stage: it may end a chain after "->", or be an arm of a branch'
            )
        self._tried += ["name", "(", "["]
        raise self._unexpected()

    def _call_or_branch(self) -> Call | Branch:
        start = self._start
        call = self._call()
        if self.kind != "?":
            if call.operator in CHECKERS:
                self._tried.append("?")
            return call
        if call.operator not in CHECKERS:
            raise self._error(
                start, f'{call.operator} is no checker: only {" or ".join(CHECKERS)} may stand before "?"'
            )
        self._advance()
        on_fault = self._arm()
        self._expect(":")
        return Branch(call, on_fault, self._arm())

    def _arm(self) -> Chain | None:
        if self._accept("done"):
            return None
        if self.kind == "name":
            return Chain((self._call(),))
        if self.kind == "(":
            return self._group()
        self._tried += ["name", "("]
        raise self._unexpected()

    def _call(self) -> Call:
        start, name = self._start, self.value
        if name not in self._offered:
            raise self._unknown_operator(start, name)
        self._advance()
        if not self._accept("("):
            return Call(name)
        start, value = self._start, self._expect("string")
        instruction = json.loads(value)
        if SURROGATE.search(instruction):
            raise self._error(start, "the instruction holds half of a surrogate pair, which is no character")
        if len(instruction) > self._instruction:
            raise self._over(
                "instruction", self._instruction, start, f"the instruction has {len(instruction)} characters"
            )
        self._expect(")")
        return Call(name, instruction)

    def _group_or_loop(self) -> Chain | Loop:
        body = self._group()
        if not self._accept("*"):
            return body
        start, times = self._start, self._expect("integer")
        if len(times) > 1 or not 1 <= int(times) <= MAX_LOOP:
            raise self._error(start, f"expected {_DESCRIPTIONS['integer']}, found {times[:_SHOWN]}")
        return Loop(body, int(times))

    def _group(self) -> Chain:
        self._open()
        chain = self._chain()
        self._expect(")")
        self._depth -= 1
        return chain

    def _parallel(self) -> Parallel:
        self._open()
        branches = [self._chain()]
        self._expect(",")
        branches.append(self._branch_of_parallel(2))
        while self._accept(","):
            branches.append(self._branch_of_parallel(len(branches) + 1))
        self._expect("]")
        self._depth -= 1
        return Parallel(tuple(branches))

    def _branch_of_parallel(self, number: int) -> Chain:
        if number > self._branches:
            raise self._over("branches", self._branches, self._start, "the parallel has more branches")
        return self._chain()

    def _open(self) -> None:
        self._depth += 1
        if self._depth > self._nesting:
            raise self._over("nesting", self._nesting, self._start, "brackets are nested more deeply")
        self._advance()

    def _advance(self) -> None:
        token = _TOKEN.match(self._text, self._end)
        kind = token.lastgroup
        self.value = token[kind]
        self.kind = self.value if kind == "symbol" or self.value == "done" else kind
        self._start = token.start(kind)
        self._end = token.end()
        # What else would have been right at this place, for the error message.
        self._tried: list[str] = []

    def _accept(self, kind: str) -> bool:
        if self.kind == kind:
            self._advance()
            return True
        self._tried.append(kind)
        return False

    def _expect(self, kind: str) -> str:
        value = self.value
        if not self._accept(kind):
            raise self._unexpected()
        return value

    def _unexpected(self) -> WorkflowError:
        if self.value == '"':
            return self._bad_string()
        names = [_DESCRIPTIONS.get(kind, f'"{kind}"') for kind in dict.fromkeys(self._tried)]
        expected = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        found = "the end" if self.kind == "end" else f'"{self.value[:_SHOWN]}"'
        return self._error(self._start, f"expected {expected}, found {found}{self._hint()}")

    def _hint(self) -> str:
        """Return what the author probably wanted, and how that is written."""
        match self.kind:
            case "?":
                return _BRANCHING_ARM
            case "*":
                return _REPEATED
            case "->" if ":" in self._tried:
                return _LONG_ARM
            case "," if "->" in self._tried:
                return _SIDE_BY_SIDE
            case "end":
                return ""
        if "string" in self._tried:
            return _NO_INSTRUCTION if self.kind == ")" else _INSTRUCTION
        if self._tried == [")"]:
            return _QUOTE
        return _JOINED if "->" in self._tried and self.kind not in (")", "]", ":") else ""

    def _bad_string(self) -> WorkflowError:
        stop = _UNFINISHED_STRING.match(self._text, self._start).end()
        if stop == len(self._text):
            return self._error(self._start, "the string that starts here never ends")
        if self._text[stop] == "\\":
            return self._error(stop, r"no JSON escape: expected one of \" \\ \/ \b \f \n \r \t \uXXXX")
        return self._error(
            stop, r"a line break or control character inside a string: write it as an escape, such as \n"
        )

    def _unknown_operator(self, start: int, name: str) -> WorkflowError:
        if name in self._known:
            return self._error(start, f"the operator {name} is not offered here: use {', '.join(self._offered)}")
        if name.lower() == "done":
            return self._error(start, f'expected an operator, found "{name}": the word is "done"')
        near = _nearest(name[:_SHOWN], tuple(self._offered))
        return self._error(start, f'expected an operator, found "{name[:_SHOWN]}": the nearest one is {near}')

    def _over(self, limit: str, most: int, start: int, what: str) -> WorkflowError:
        return over(limit, most, start + 1, what)

    def _error(self, start: int, message: str) -> WorkflowError:
        return WorkflowError("PARSE", start + 1, message)


def over(limit: str, most: int, column: int, what: str) -> WorkflowError:
    """Return the error of a workflow beyond the limit `workflow_limits.<limit>`."""
    return WorkflowError("LIMIT", column, f"{what}: at most {most} (workflow_limits.{limit})")


@functools.lru_cache(maxsize=1024)
def _nearest(name: str, names: tuple[str, ...]) -> str:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
