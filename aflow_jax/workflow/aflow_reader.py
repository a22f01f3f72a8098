"""Read AFlow's modules as workflows: the statements, followed without being executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Literal

from aflow_jax.workflow.aflow_expressions import MAX_ITEMS, Expressions, as_candidate
from aflow_jax.workflow.aflow_scope import (
    AFlowError,
    Path,
    Record,
    Scope,
    Text,
    Texts,
    Verdict,
    is_transparent,
    refused,
)
from aflow_jax.workflow.aflow_source import constants, is_cost, parsed, workflow_class
from aflow_jax.workflow.graph import MAX_LOOP, Branch, Call, Chain, Loop, Parallel, Stage, Workflow

MAX_STATEMENTS = 5000
MAX_NAMES = 50

# How a run of statements ends.
Exit = Literal["falls", "breaks", "returns"]


class Reader:
    """Reads one workflow from the texts of its two modules."""

    def __init__(self, graph: str, prompt: str) -> None:
        module, prompts = parsed(graph), parsed(prompt)
        self._function, operators = workflow_class(module)
        self._expressions = Expressions(operators, {**constants(prompts), **constants(module)})
        # Every arm and loop looks at every name.
        names = {node.id for node in ast.walk(self._function) if isinstance(node, ast.Name)}
        if len(names) > MAX_NAMES:
            raise refused(self._function, f"more than {MAX_NAMES} names")
        self._statements = 0
        # Branches inside loops, by identity, and where they stand: which arms break, and which do nothing and go on.
        self._arms: dict[int, tuple[Branch, ast.If, list[str]]] = {}

    def workflow(self) -> Workflow:
        """Return the workflow; raise AFlowError with the line and the construct that is not understood."""
        scope = Scope({})
        for argument in self._function.args.args[1:]:
            scope.values[argument.arg] = Text(scope.start, is_given=True)
        try:
            if self._block(self._function.body, scope) != "returns":
                raise refused(self._function, "a way through __call__ that does not return the solution")
        except RecursionError:
            raise refused(self._function, "an expression nested too deeply") from None
        used = {id(call) for call in _calls(scope.last.stages)}
        for call, line in self._expressions.calls:
            if id(call) not in used:
                raise AFlowError(line, f"not understood: a call of {call.operator} whose result is never used")
        if not scope.last.stages:
            raise refused(self._function, "a workflow that runs no operator")
        return Chain(scope.last.stages)

    def _block(self, statements: Sequence[ast.stmt], scope: Scope) -> Exit:
        for index, statement in enumerate(statements):
            self._statements += 1
            if self._statements > MAX_STATEMENTS:
                raise refused(statement, "loops that unroll into too many statements")
            rest = statements[index + 1 :]
            match statement:
                case ast.Return():
                    self._return(statement, scope)
                    return "returns"
                case ast.Break() if scope.in_loop:
                    return "breaks"
                case ast.If():
                    # What follows an arm that leaves belongs to the other arm. In a loop it may stay behind the branch,
                    # where nobody comes who left, unless the other arm would be empty, which means leaving.
                    if _escapes(statement) and not (scope.in_loop and _works_on(statement)):
                        return self._if(statement, rest, scope)
                    self._if(statement, (), scope)
                case ast.For():
                    self._for(statement, rest, scope)
                case _:
                    self._simple(statement, scope)
        return "falls"

    def _simple(self, statement: ast.stmt, scope: Scope) -> None:
        match statement:
            case ast.Pass() | ast.Expr(ast.Constant()):
                pass
            case ast.Assign([ast.Name(name)], ast.Name() as other):
                scope.values[name] = scope.copied(self._expressions.value(other, scope))
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), value=ast.expr() as value):
                scope.values[name] = self._expressions.value(value, scope)
            case ast.Assign([ast.Tuple(targets)], value) if all(isinstance(target, ast.Name) for target in targets):
                items = self._expressions.texts(value, scope).items
                if len(items) != len(targets):
                    raise refused(statement, f"{len(items)} values for {len(targets)} names")
                scope.values.update((target.id, item) for target, item in zip(targets, items, strict=True))
            case ast.AugAssign(ast.Name(name) as target, ast.Add(), value):
                joined = ast.copy_location(ast.BinOp(ast.Name(name), ast.Add(), value), target)
                scope.values[name] = self._expressions.value(joined, scope)
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), "append"), [element], [])):
                items = self._expressions.texts(statement.value.func.value, scope).items
                added = as_candidate(self._expressions.text(element, scope), scope)
                if len(items) >= MAX_ITEMS:
                    raise refused(statement, f"a list of more than {MAX_ITEMS} texts")
                scope.values[name] = Texts((*items, added))
            case ast.Expr(ast.Await() as awaited):
                self._expressions.value(awaited, scope)
            case ast.Expr(ast.Call(ast.Name("print"), arguments, [])):
                for argument in arguments:
                    if any(isinstance(node, ast.Await) for node in ast.walk(argument)):
                        raise refused(statement, "a print of what is not yet there")
                    self._expressions.value(argument, scope)
            case _:
                raise refused(statement, f"a statement of the kind {type(statement).__name__}")

    def _return(self, statement: ast.Return, scope: Scope) -> None:
        value = statement.value
        if isinstance(value, ast.Tuple) and len(value.elts) == 2:
            if not is_cost(value.elts[1]):
                raise refused(statement, "a second result other than the cost, as self.llm gives it")
            value = value.elts[0]
        if value is None:
            raise refused(statement, "a return without a solution")
        text = self._expressions.text(value, scope)
        # What AFlow users return where a check has failed, such as "No solution passed", is no solution to anything:
        # it stands for the solution as it is.
        if text.is_given and not (scope.after_fault and isinstance(value, ast.Constant)):
            raise refused(statement, "a return of a text that no operator made")
        path = scope.last if text.is_given else text.path
        if not scope.is_current(path):
            # A result from before: whatever ran since then was in vain, and is found to be unused.
            scope.advance(scope.join([path], statement))

    def _if(self, statement: ast.If, rest: Sequence[ast.stmt], scope: Scope) -> Exit:
        verdict = self._expressions.verdict(statement.test, scope)
        check = self._checked(statement, verdict, scope)
        bodies = [statement.body, statement.orelse] if verdict.passes else [statement.orelse, statement.body]
        arms, exits, before = [], [], []
        for body in bodies:
            arm = scope.inner(verdict.path, in_loop=scope.in_loop, after_fault=body is bodies[1])
            before.append(dict(arm.values))
            exits.append(self._block([*body, *rest], arm) if not _ends(body) else self._block(body, arm))
            arms.append(arm)
        chains = [Chain(arm.last.stages) if arm.last.stages else None for arm in arms]
        branch = Branch(check, on_fault=chains[1], on_pass=chains[0])
        after = Path(scope.root, (*verdict.path.stages[:-1], branch))
        if scope.in_loop:
            self._note_exits(statement, branch, chains, exits)
            scope.rejoin(arms, before, after)
            return "falls"
        if exits[0] != exits[1]:
            raise refused(statement, "an if of which one way returns, and the other never does")
        scope.rejoin(arms, before, after)
        return exits[0]

    def _checked(self, statement: ast.If, verdict: Verdict, scope: Scope) -> Call:
        path = verdict.path
        if not path.stages or path.root is not scope.root or scope.last is not path:
            raise refused(statement, "an if that does not come directly after its review or test")
        return path.stages[-1]

    def _note_exits(
        self, statement: ast.If, branch: Branch, chains: Sequence[Chain | None], exits: Sequence[Exit]
    ) -> None:
        kinds = []
        for chain, leaving in zip(chains, exits, strict=True):
            if leaving == "falls":
                kinds.append("works" if chain is not None else "idle")
            elif chain is None:
                kinds.append("breaks")
            else:
                raise refused(statement, "a break or return in a loop with operators before it")
        self._arms[id(branch)] = (branch, statement, kinds)

    def _for(self, statement: ast.For, rest: Sequence[ast.stmt], scope: Scope) -> None:
        count = self._expressions.rounds(statement.iter, scope)
        if count is None or statement.orelse or not isinstance(statement.target, ast.Name):
            raise refused(statement, "a for over anything but a range of so many rounds")
        scope.values.pop(statement.target.id, None)
        if _appends_outside(statement):
            for _ in range(min(count, MAX_ITEMS + 1)):
                if self._block(statement.body, scope) != "falls":
                    raise refused(statement, "a break or return in a loop that collects candidates")
            return
        if not 1 <= count <= MAX_LOOP:
            raise refused(statement, f"a loop of {count} rounds: 1 to {MAX_LOOP} can be")
        if _returns(statement) and any(isinstance(node, ast.Await) for later in rest for node in ast.walk(later)):
            raise refused(statement, "a return in a loop after which more operators run")
        carried = [scope.values.get(name) for name in _carried(statement.body, set())]
        paths = [value.path for value in carried if isinstance(value, Text | Record) and value.path.root is scope.root]
        base = scope.extended(scope.join(paths, statement))
        inner = scope.inner(base, in_loop=True)
        before = dict(inner.values)
        self._block(statement.body, inner)
        if not inner.last.stages:
            raise refused(statement, "a loop that runs no operator")
        scope.rejoin([inner], [before], base.then(*self._loop(inner.last.stages, count)))

    def _loop(self, body: tuple[Stage, ...], count: int) -> list[Stage]:
        """Return the stages of a loop, in which an arm that is None is one that breaks."""
        for branch, is_own in _branches(body):
            _, statement, kinds = self._arms[id(branch)]
            if not is_own and "breaks" in kinds:
                raise refused(statement, "a break out of a loop from among its candidates")
            if is_own and kinds == ["breaks", "idle"] and branch is body[-1]:
                return self._retry(statement, body[:-1], branch.check, count)
            if is_own and "idle" in kinds and ("breaks" in kinds or len(body) > 1 or branch is not body[0]):
                raise refused(statement, "an arm that does nothing, in a loop that then goes on")
        return [Loop(Chain(body), count)]

    def _retry(self, statement: ast.If, tries: tuple[Stage, ...], check: Call, count: int) -> list[Stage]:
        """`n × (X, stop if the check passes)` is X, then `n − 1 × (check ? X : done)`, then what a last test mends."""
        if not tries:
            raise refused(statement, "a loop that changes nothing")
        again = [Loop(Chain((Branch(check, Chain(tries), None),)), count - 1)] if count > 1 else []
        return [*tries, *again, *([] if again and is_transparent(check) else [check])]


def _own_statements(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those in their arms, not those in loops of their own."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If):
            yield from _own_statements([*statement.body, *statement.orelse])


def _escapes(statement: ast.If) -> bool:
    return any(isinstance(inner, ast.Return | ast.Break) for inner in _own_statements([statement]))


def _works_on(statement: ast.If) -> bool:
    """Whether each arm only leaves, or runs operators on every way on which it stays."""
    return all(_ends(arm) or _stays(arm) for arm in (statement.body, statement.orelse))


def _stays(arm: Sequence[ast.stmt]) -> bool:
    nested = [inner for inner in arm if isinstance(inner, ast.If) and _escapes(inner)]
    return any(isinstance(node, ast.Await) for inner in arm for node in ast.walk(inner)) and all(map(_works_on, nested))


def _ends(body: Sequence[ast.stmt]) -> bool:
    """Whether a run of statements never reaches its end."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return _ends(last.body) and _ends(last.orelse)
    return isinstance(last, ast.Return | ast.Break)


def _returns(statement: ast.For) -> bool:
    return any(isinstance(node, ast.Return) for node in ast.walk(statement))


def _appends_outside(statement: ast.For) -> bool:
    """Whether a loop collects into a list from before it."""
    own, appended = set(), set()
    for node in ast.walk(statement):
        match node:
            case ast.Assign([ast.Name(name)], ast.List() | ast.ListComp()):
                own.add(name)
            case ast.Call(ast.Attribute(ast.Name(name), "append")):
                appended.add(name)
    return bool(appended - own)


def _carried(statements: Sequence[ast.stmt], assigned: set[str]) -> Iterator[str]:
    """Yield the names that a loop's body reads before it sets them, and adds to `assigned` those that it sets."""
    for statement in statements:
        if isinstance(statement, ast.If):
            ways = [set(assigned), set(assigned)]
            yield from _read(statement.test, assigned)
            yield from _carried(statement.body, ways[0])
            yield from _carried(statement.orelse, ways[1])
            assigned |= ways[0] & ways[1]
        elif isinstance(statement, ast.For):
            yield from _carried(statement.body, assigned)
        else:
            yield from _read(statement, assigned)
            assigned |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and _is_stored(node)}


def _read(node: ast.AST, assigned: set[str]) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and not _is_stored(inner) and inner.id not in assigned:
            yield inner.id


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _branches(stages: Sequence[Stage], *, is_own: bool = True) -> Iterator[tuple[Branch, bool]]:
    """Yield a loop's branches, each with whether its `done` ends the loop: not inside a parallel, nor an inner loop."""
    for stage in stages:
        match stage:
            case Branch(_, on_fault, on_pass):
                yield stage, is_own
                for arm in (on_fault, on_pass):
                    yield from _branches(arm.stages if arm is not None else (), is_own=is_own)
            case Parallel(branches):
                for branch in branches:
                    yield from _branches(branch.stages, is_own=False)


def _calls(stages: Sequence[Stage]) -> Iterator[Call]:
    for stage in stages:
        match stage:
            case Call():
                yield stage
            case Parallel(branches):
                for branch in branches:
                    yield from _calls(branch.stages)
            case Loop(body, _):
                yield from _calls(body.stages)
            case Branch(check, on_fault, on_pass):
                yield check
                for arm in (on_fault, on_pass):
                    yield from _calls(arm.stages if arm is not None else ())
