"""The expressions of AFlow modules: followed as values, never computed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aflow_jax.workflow.aflow_scope import (
    MAX_CALLS,
    MAX_PIECES,
    Number,
    Path,
    Record,
    Scope,
    Text,
    Texts,
    Value,
    Verdict,
    refused,
)
from aflow_jax.workflow.graph import Call, Chain, Parallel

MAX_LABEL = 80
MAX_ITEMS = 8

_ENSEMBLES = ("ScEnsemble", "MdEnsemble")
_VERDICT_FIELDS = {"review_result": "Review", "result": "Test"}
_TEXT_FIELDS = frozenset({"response", "answer", "thought", "code", "output", "solution", "feedback"})


class Expressions:
    """Evaluates expressions in a scope.

    Attributes:
        calls: every operator call that was made, with the line where it stands.
    """

    def __init__(self, operators: Mapping[str, str], constants: Mapping[str, str]) -> None:
        """Args:
        operators: the operator behind each attribute of `self`.
        constants: the prompt constants.
        """
        self._operators = operators
        self._constants = constants
        self.calls: list[tuple[Call, int]] = []

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """Return what an expression is; raise AFlowError at what is not understood."""
        match node:
            case ast.Constant(str() as text):
                # An empty text stands for a solution that is not there yet.
                return Text(scope.start, literals=(text,), is_given=True) if text.strip() else Text(scope.start)
            case ast.Constant(int() as number) if not isinstance(number, bool):
                return Number(number)
            case ast.Name(name) if name in scope.values:
                return scope.values[name]
            case ast.Name(name) | ast.Attribute(ast.Name(), name) if name in self._constants:
                return Text(scope.start, prompts=(self._constants[name],), is_given=True)
            case ast.Attribute(ast.Name(module), name) if module not in ("self", *scope.values):
                raise refused(node, f"the prompt constant {name}, which the prompt module does not define")
            case ast.Name(name):
                raise refused(node, f"the name {name}, which is not set on every way to this line")
            case ast.Subscript(inner, ast.Constant(str() as field)):
                return self._field(inner, field, scope)
            case ast.Call(ast.Attribute(inner, "get"), [ast.Constant(str() as field), *_]):
                return self._field(inner, field, scope)
            case ast.Await(ast.Call() as call):
                return self._awaited(call, scope)
            case ast.BinOp(left, ast.Add(), right):
                return self._joined([left, right], node, scope)
            case ast.JoinedStr(parts):
                return self._joined([_unformatted(part) for part in parts], node, scope)
            case ast.Call(ast.Name("str"), [inner], []) | ast.Call(ast.Attribute(inner, "strip"), [], []):
                return self.text(inner, scope)
            case ast.Call(
                ast.Name("max"),
                [ast.Name(name) as texts],
                [ast.keyword("key", ast.Attribute(ast.Name(other), "count"))],
            ) if name == other:
                return self._majority(texts, scope)
            case ast.List() | ast.ListComp():
                return Texts(self._items(node, scope, self.value))
            case ast.UnaryOp(ast.Not(), inner):
                verdict = self.verdict(inner, scope)
                return Verdict(verdict.path, not verdict.passes)
            case ast.Compare(inner, [ast.Eq() | ast.Is()], [ast.Constant(bool() as truth)]):
                verdict = self.verdict(inner, scope)
                return Verdict(verdict.path, verdict.passes == truth)
        raise refused(node, _shown(node))

    def text(self, node: ast.expr, scope: Scope) -> Text:
        """Return an expression that must be a text; a whole record stands for its text."""
        value = _as_text(self.value(node, scope))
        if not isinstance(value, Text):
            raise refused(node, f"{_shown(node)}, which is no text")
        return value

    def verdict(self, node: ast.expr, scope: Scope) -> Verdict:
        """Return an expression that must be a review's or test's verdict."""
        value = self.value(node, scope)
        if not isinstance(value, Verdict):
            raise refused(node, f"a condition other than a review's or test's result: {_shown(node)}")
        return value

    def texts(self, node: ast.expr, scope: Scope) -> Texts:
        """Return an expression that must be a list."""
        value = self.value(node, scope)
        if not isinstance(value, Texts):
            raise refused(node, f"{_shown(node)}, which is no list")
        return value

    def rounds(self, node: ast.expr, scope: Scope) -> int | None:
        """Return n for `range(n)`, None for anything else."""
        match node:
            case ast.Call(ast.Name("range"), [ast.Constant() | ast.Name() as bound], []):
                value = self.value(bound, scope)
                return value.number if isinstance(value, Number) else None
        return None

    def _field(self, node: ast.expr, field: str, scope: Scope) -> Value:
        record = self.value(node, scope)
        if not isinstance(record, Record):
            raise refused(node, f"a field of {_shown(node)}, which is no operator's record")
        if _VERDICT_FIELDS.get(field) == record.operator:
            return Verdict(record.path, True)
        if field not in _TEXT_FIELDS:
            raise refused(node, f"the field {field!r} of {record.operator}")
        if field == "feedback":
            # It has no way of its own: an operator that takes the solution gets the feedback on it by itself.
            return Text(scope.start, is_given=True)
        return Text(record.path)

    def _joined(self, nodes: Sequence[ast.expr], node: ast.expr, scope: Scope) -> Text:
        parts = [self.text(part, scope) for part in nodes]
        joined = Text(
            scope.join([part.path for part in parts], node),
            tuple(prompt for part in parts for prompt in part.prompts),
            tuple(literal for part in parts for literal in part.literals),
            all(part.is_given for part in parts),
        )
        if len(joined.prompts) + len(joined.literals) > MAX_PIECES:
            raise refused(node, f"a text joined from more than {MAX_PIECES} pieces")
        return joined

    def _awaited(self, call: ast.Call, scope: Scope) -> Value:
        match call:
            case ast.Call(ast.Attribute(ast.Name("asyncio"), "gather"), [ast.Starred(several)], []):
                return Texts(self._items(several, scope, self._operator))
            case ast.Call(ast.Attribute(ast.Name("asyncio"), "gather"), several, []):
                return Texts(tuple(self._operator(one, scope) for one in several))
        return self._operator(call, scope)

    def _items(self, node: ast.expr, scope: Scope, evaluate) -> tuple[Text | Record, ...]:
        """Return the elements of a list that is written out, or made by a comprehension over a range or a list."""
        match node:
            case ast.List(elements):
                values = [as_candidate(evaluate(element, scope), scope) for element in elements]
            case ast.ListComp(element, [ast.comprehension(ast.Name(name), source, [], 0)]):
                values = []
                hidden = scope.values.get(name)
                for item in self._source(source, scope):
                    scope.values[name] = item
                    values.append(as_candidate(evaluate(element, scope), scope))
                scope.values.pop(name, None)
                if hidden is not None:
                    scope.values[name] = hidden
            case _:
                raise refused(node, _shown(node))
        if not all(isinstance(value, Text | Record) for value in values) or len(values) > MAX_ITEMS:
            raise refused(node, f"a list of anything but up to {MAX_ITEMS} texts")
        return tuple(values)

    def _source(self, node: ast.expr, scope: Scope) -> Sequence[Value]:
        count = self.rounds(node, scope)
        if count is None:
            return self.texts(node, scope).items
        if count > MAX_ITEMS:
            raise refused(node, f"more than {MAX_ITEMS} rounds")
        return [Text(scope.start, is_given=True)] * count

    def _operator(self, node: ast.expr, scope: Scope) -> Record:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_self(node.func.value)):
            raise refused(node, f"an await of anything but an operator: {_shown(node)}")
        if node.func.attr not in self._operators:
            raise refused(node, f"self.{node.func.attr}, which __init__ does not make an operator")
        operator = self._operators[node.func.attr]
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg not in ("mode", "role"))]
        if any(isinstance(argument, ast.Starred) for argument in arguments):
            raise refused(node, "a starred argument")
        values = [_as_text(self.value(argument, scope)) for argument in arguments]
        path = self._input_path(operator, values, node, scope)
        call = Call(operator, self._instruction(node, values))
        self.calls.append((call, node.lineno))
        if len(self.calls) > MAX_CALLS:
            raise refused(node, f"more than {MAX_CALLS} operator calls")
        scope.advance(path.then(call))
        return Record(scope.last, operator)

    def _input_path(self, operator: str, values: Sequence[Value], node: ast.Call, scope: Scope) -> Path:
        if not all(isinstance(value, Text | Texts) for value in values):
            raise refused(node, "an argument that is no text")
        lists = [value for value in values if isinstance(value, Texts)]
        if lists:
            if operator not in _ENSEMBLES or len(lists) > 1:
                raise refused(node, f"a list given to {operator}")
            return self._candidates(lists[0], node, scope)
        return scope.extended(scope.join([value.path for value in values], node))

    def _instruction(self, node: ast.Call, values: Sequence[Value]) -> str | None:
        """Return the prompt constants in the arguments and a literal `instruction`; None where there is neither."""
        named = next((keyword.value for keyword in node.keywords if keyword.arg == "instruction"), None)
        texts = [value for value in values if isinstance(value, Text)]
        prompts = [prompt for text in texts for prompt in text.prompts]
        if isinstance(named, ast.Constant) and named.value:
            prompts.append(named.value)
        for text in texts:
            for literal in text.literals:
                if len(literal) > MAX_LABEL and literal not in prompts:
                    raise refused(node, f"a literal of more than {MAX_LABEL} characters: make it a prompt constant")
        return "\n".join(prompts) if prompts else None

    def _candidates(self, texts: Texts, node: ast.AST, scope: Scope) -> Path:
        """Return the path to a list of candidates: what they share, then a parallel of the rest."""
        paths = [item.path for item in texts.items]
        if not paths or any(path.stages and path.root is not scope.root for path in paths):
            raise refused(node, "a list of candidates that is empty, or from outside of this loop or arm")
        if len(paths) == 1:
            return scope.extended(paths[0]) if paths[0].stages else scope.extended(scope.start)
        shared = min(paths[0].shared(path) for path in paths)
        # A candidate that the others were made from is made again in a branch of its own.
        if any(len(path.stages) == shared for path in paths):
            shared = 0
        if not all(path.stages for path in paths):
            raise refused(node, "a candidate that no operator has made here")
        branches = tuple(Chain(path.stages[shared:]) for path in paths)
        return Path(scope.root, paths[0].stages[:shared]).then(Parallel(branches))

    def _majority(self, node: ast.expr, scope: Scope) -> Text:
        scope.advance(self._candidates(self.texts(node, scope), node, scope))
        return Text(scope.last)


def as_candidate(value: Value, scope: Scope) -> Value:
    """Return a value as it enters a list: a solution with the reviews that it has had, now its own."""
    if not isinstance(value, Text | Record) or value.path.root is not scope.root:
        return value
    path = scope.extended(value.path)
    scope.sealed = True
    return Record(path, value.operator) if isinstance(value, Record) else replace(value, path=path)


def _unformatted(part: ast.expr) -> ast.expr:
    """Return a part of an f-string as the expression that it is; its text must be taken as it stands."""
    if not isinstance(part, ast.FormattedValue):
        return part
    if part.format_spec is not None or part.conversion not in (-1, ord("s")):
        raise refused(part, "a format in an f-string")
    return part.value


def _as_text(value: Value) -> Value:
    """Return a record as its text, anything else as it is."""
    return Text(value.path) if isinstance(value, Record) else value


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"`{text if len(text) <= 60 else text[:57] + '…'}`"
