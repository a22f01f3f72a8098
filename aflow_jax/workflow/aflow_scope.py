"""What the reader of AFlow modules knows while it follows one: values by name, and which stages each came out of.

Values are text, a number, a truth (a check's verdict), a flat list, or an operator's record; nothing else can be
expressed. A `Path` is the stages that lead to a value. Its stages are compared by identity: two calls of one operator
are two calls.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aflow_jax.workflow.graph import Branch, Call, Loop, Stage

MAX_CALLS = 100
MAX_PIECES = 64


class AFlowError(Exception):
    """A module that is not understood: `line` (from 1) and what stands there."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


@dataclass(frozen=True, eq=False)
class Path:
    """The stages from the start of a scope to a value; none for the problem, a literal, and the state at the start."""

    root: object
    stages: tuple[Stage, ...] = ()

    def then(self, *stages: Stage) -> Path:
        return Path(self.root, (*self.stages, *stages))

    def shared(self, other: Path) -> int:
        """Return how many stages the two have in common from the start."""
        count = 0
        for mine, theirs in zip(self.stages, other.stages, strict=False):
            if mine is not theirs:
                break
            count += 1
        return count

    def leads_to(self, other: Path) -> bool:
        return self.shared(other) == len(self.stages)


@dataclass(frozen=True, eq=False)
class Text:
    """A text: where it came from, and what was joined to it.

    Attributes:
        path: the stages that made it.
        prompts: the prompt constants in it.
        literals: the literals in it.
        is_given: whether it is made of the problem, constants and literals alone, and so never is a solution.
    """

    path: Path
    prompts: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()
    is_given: bool = False


@dataclass(frozen=True, eq=False)
class Record:
    """What an operator returned."""

    path: Path
    operator: str


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a check passed (or failed, where `passes` is false)."""

    path: Path
    passes: bool


@dataclass(frozen=True, eq=False)
class Texts:
    """A flat list of texts or records."""

    items: tuple[Text | Record, ...]


@dataclass(frozen=True, eq=False)
class Number:
    """A whole number as it is written: how often a loop runs."""

    number: int


Value = Text | Record | Verdict | Texts | Number


@dataclass(eq=False)
class Scope:
    """One run of statements over one state: the function's body, a loop's body, or an arm.

    Attributes:
        values: what each name is.
        root: tells this scope's paths from others'.
        last: the path of what ran last.
        sealed: whether that made a candidate, so that what follows starts elsewhere.
        in_loop: whether a `break` here ends a loop.
        after_fault: whether it is the arm of a check that found a fault.
    """

    values: dict[str, Value]
    root: object = field(default_factory=object)
    last: Path = field(init=False)
    sealed: bool = False
    in_loop: bool = False
    after_fault: bool = False

    def __post_init__(self) -> None:
        self.last = self.start

    @property
    def start(self) -> Path:
        return Path(self.root)

    def join(self, paths: Sequence[Path], node: ast.AST) -> Path:
        """Return the path of what comes from all of these: one that the others lead to."""
        paths = [path for path in paths if path.stages]
        if not paths:
            return self.start
        longest = max(paths, key=lambda path: len(path.stages))
        for path in paths:
            if path.root is not self.root:
                raise refused(node, "the result of an earlier step, from outside of this loop or arm")
            if not path.leads_to(longest):
                raise refused(node, "results that do not follow from each other, joined into one input")
        return longest

    def extended(self, path: Path) -> Path:
        """Return the path up to what ran last, where only reviews ran since, which leave the solution as it is."""
        since = self.last.stages[len(path.stages) :]
        if not self.sealed and path.leads_to(self.last) and all(map(is_transparent, since)):
            return self.last
        return path

    def copied(self, value: Value) -> Value:
        """Return a value under a second name: a solution has the reviews so far behind it."""
        if not isinstance(value, Text) or value.is_given or value.path.root is not self.root:
            return value
        path = self.extended(value.path)
        return value if path is value.path else replace(value, path=path)

    def is_current(self, path: Path) -> bool:
        """Whether a value is the solution as it stands."""
        return path.root is self.root and self._is_at(self.extended(path), self.last)

    def _is_at(self, path: Path, other: Path) -> bool:
        return path.root is self.root and path.leads_to(other) and other.leads_to(path)

    def advance(self, path: Path) -> None:
        """Note what ran last."""
        self.last, self.sealed = path, False

    def inner(self, base: Path, *, in_loop: bool, after_fault: bool = False) -> Scope:
        """Return a scope that starts where `base` ends: what is current there is its state at the start."""
        scope = Scope({}, in_loop=in_loop, after_fault=after_fault)
        # A text from before a test stands for the one that the test gives back, where the module does not name that.
        named = any(isinstance(value, Text) and self._is_at(value.path, base) for value in self.values.values())
        for name, value in self.values.items():
            scope.values[name] = value
            if not isinstance(value, Text | Record) or value.path.root is not self.root:
                continue
            if not _reaches(value.path, base, past_test=not named):
                continue
            if isinstance(value, Record):
                scope.values[name] = Record(scope.start, value.operator)
            elif not value.is_given:
                scope.values[name] = Text(scope.start, value.prompts, value.literals)
        return scope

    def rejoin(self, inners: Sequence[Scope], before: Sequence[dict[str, Value]], after: Path) -> None:
        """Take over from inner scopes what is current at the end of all of them; forget what only some have set.

        Args:
            inners: the scopes, each a way that leads here.
            before: the values that each started with.
            after: the path of the stage that the inner scopes became.
        """
        for name in {name for inner in inners for name in inner.values}:
            ends = [inner.values.get(name) for inner in inners]
            is_new = any(end is not start.get(name) for end, start in zip(ends, before, strict=True))
            is_solution = len({type(end) for end in ends}) == 1 and all(
                _is_solution(end, inner) for end, inner in zip(ends, inners, strict=True)
            )
            if is_solution and (is_new or not is_transparent(after.stages[-1])):
                # Of records from several operators, only the texts can be read.
                is_record = isinstance(ends[0], Record)
                self.values[name] = Record(after, "") if is_record else Text(after)
            elif (
                all(isinstance(end, Text) and end.is_given for end in ends) and len({end.prompts for end in ends}) == 1
            ):
                literals = tuple(dict.fromkeys(literal for end in ends for literal in end.literals))
                self.values[name] = Text(self.start, ends[0].prompts, literals, is_given=True)
            elif is_new:
                self.values.pop(name, None)
        self.advance(after)


def is_transparent(stage: Stage) -> bool:
    """Whether a stage leaves the solution as it is, whatever happens in it."""
    match stage:
        case Call(operator):
            return operator == "Review"
        case Branch(check, on_fault, on_pass):
            arms = [arm.stages for arm in (on_fault, on_pass) if arm is not None]
            return is_transparent(check) and all(is_transparent(stage) for arm in arms for stage in arm)
        case Loop(body, _):
            return all(map(is_transparent, body.stages))
    return False


def refused(node: ast.AST, what: str) -> AFlowError:
    """Return the error for a construct that has no like in the workflow language."""
    return AFlowError(getattr(node, "lineno", 1), f"not understood: {what}")


def _is_solution(value: Value | None, scope: Scope) -> bool:
    is_made = isinstance(value, Record) or (isinstance(value, Text) and not value.is_given)
    return is_made and scope.is_current(value.path)


def _reaches(path: Path, base: Path, *, past_test: bool) -> bool:
    """Whether the path is current at the base, or (`past_test`) just before the test with which the base ends."""
    since = base.stages[len(path.stages) :]
    if past_test and since and isinstance(since[-1], Call) and since[-1].operator == "Test":
        since = since[:-1]
    return path.leads_to(base) and all(map(is_transparent, since))
