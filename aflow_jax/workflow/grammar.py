"""The workflow language as an automaton over bytes: what may follow, and the shortest way to a whole answer.

    answer = reasoning , "<workflow>" , chain , "</workflow>"        the expression as in language.py

The parser says of a whole text whether it is a workflow; the automaton says it of every beginning. Its states hold the
open brackets and how many operator calls they come to, so nesting, branches and the worst case of calls are exact.

The automaton knows one way to end from every state, its *closing*: the fewest calls, then the fewest characters.
The closings are consistent: after any part of a closing has been written, the closing is the rest of it. So whoever
never goes to a state whose closing is beyond a limit can always end within all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from aflow_jax.workflow.free_text import DEAD, LEFT, instruction_text, reasoning_text
from aflow_jax.workflow.graph import CHECKERS, MAX_LOOP
from aflow_jax.workflow.language import CLOSING, Limits
from aflow_jax.workflow.parser import DEEPEST_NESTING

_BLANKS = b" \t\n\r"
_DONE = "done"
_BRACKETS = ("group", "parallel", "arm")


class Frame(NamedTuple):
    """Something open, with what it came to so far in the worst case of operator calls.

    Attributes:
        kind: "whole" expression, "group", "parallel", the "fault" or "pass" side of a branch, or "arm": the group that
            such a side may be.
        calls: of the chain that is being written, without its last stage.
        earlier: of a parallel's other branches; for the pass side, of the fault side.
        branches: of a parallel, the one being written included.
    """

    kind: str
    calls: int = 0
    earlier: int = 0
    branches: int = 0


class State(NamedTuple):
    """Where the text stands.

    Attributes:
        at: what has been read last or must come next, such as "stage" or "arrow".
        stack: what is open, the whole expression first.
        calls: in the worst case, of the stage that is being read.
        word: the name being read, or the operator just read; in free text unused.
        text: state of the free text.
        start: for a name, where it began: "stage", "tail" (after an arrow) or "side" (of a branch).
    """

    at: str
    stack: tuple[Frame, ...] = (Frame("whole"),)
    calls: int = 0
    word: str = ""
    text: int = 0
    start: str = ""

    @property
    def open(self) -> str:
        """The kind of what is open innermost."""
        return self.stack[-1].kind


class Grammar:
    """The language with some operators and limits; `Limits.characters` is left to whoever counts them."""

    def __init__(self, operators: Collection[str], limits: Limits) -> None:
        self.limits = limits
        self.nesting = min(limits.nesting, DEEPEST_NESTING)
        self.texts = {"reasoning": reasoning_text(), "string": instruction_text()}
        self.operators = tuple(sorted(operators, key=lambda name: (len(name), name)))
        self.start = State("reasoning")
        self._following = {at: text.following.tolist() for at, text in self.texts.items()}
        self._reads = {
            "reasoning": self._read_free,
            "string": self._read_free,
            "stage": self._read_stage,
            "tail": self._read_stage,
            "side": self._read_stage,
            "name": self._read_name,
            "called": self._read_called,
            "instruction": self._read_instruction,
            "quoted": self._read_quoted,
            "instructed": self._read_instructed,
            "grouped": self._read_grouped,
            "times": self._read_times,
            "ended": self._read_ended,
            "done": self._read_end_of_chain,
            "arrow": self._read_arrow,
            "colon": self._read_colon,
            "closing": self._read_closing,
            "finished": lambda state, byte: None,
        }

    def read(self, state: State, byte: int) -> State | None:
        """Return the state after a byte; None where no answer within the limits goes on so.

        The worst case of calls is not looked at here, see `calls`.
        """
        if byte in _BLANKS and state.at not in ("reasoning", "string", "name", "arrow", "closing", "finished"):
            return state
        return self._reads[state.at](state, byte)

    def closing(self, state: State) -> bytes:
        """Return the shortest bytes that make a whole answer of the text."""
        match state.at:
            case "finished":
                return b""
            case "closing":
                return CLOSING.removeprefix(state.word).encode()
            case "reasoning":
                rest = self.texts["reasoning"].finish[state.text]
                return rest + self._close_from("stage", state)
            case "string":
                return self.texts["string"].finish[state.text] + self._close_from("quoted", state)
        return self._close_from(state.at, state)

    def calls(self, state: State) -> int:
        """Return the worst case of operator calls of the answer that the closing makes."""
        calls = state.calls
        if state.at in ("stage", "reasoning") or (state.at == "name" and self._completed(state) != _DONE):
            calls += 1
        for frame in reversed(state.stack):
            calls += frame.calls
            if frame.kind == "parallel":
                calls += frame.earlier + (frame.branches == 1)
            elif frame.kind in ("fault", "pass"):
                calls = 1 + max(calls, frame.earlier)
        return calls

    def _close_from(self, at: str, state: State) -> bytes:
        shortest = self.operators[0]
        match at:
            case "stage":
                first = shortest
            case "tail" | "side":
                first = _DONE
            case "name":
                first = self._completed(state).removeprefix(state.word)
            case "instruction":
                first = '"")'
            case "quoted":
                first = ")"
            case "times":
                first = "1"
            case "arrow":
                first = f">{_DONE}"
            case _:
                first = ""
        parts = [first]
        for frame in reversed(state.stack):
            match frame.kind:
                case "group" | "arm":
                    parts.append(")")
                case "parallel":
                    parts.append(f",{shortest}]" if frame.branches == 1 else "]")
                case "fault":
                    parts.append(f":{_DONE}")
        return "".join([*parts, CLOSING]).encode()

    def _words(self, start: str) -> tuple[str, ...]:
        """Return the names that may begin there, in the order in which a closing prefers them."""
        return self.operators if start == "stage" else (_DONE, *self.operators)

    def _completed(self, state: State) -> str:
        return next(word for word in self._words(state.start) if word.startswith(state.word))

    def _read_free(self, state: State, byte: int) -> State | None:
        following = self._following[state.at][state.text][byte]
        if following == DEAD:
            return None
        if following != LEFT:
            return state._replace(text=following)
        return state._replace(at="stage" if state.at == "reasoning" else "quoted", text=0)

    def _read_stage(self, state: State, byte: int) -> State | None:
        if byte == ord("("):
            return self._opened(state, "arm" if state.at == "side" else "group")
        if byte == ord("[") and state.at != "side" and self.limits.branches >= 2:
            return self._opened(state, "parallel")
        return self._read_name(state._replace(at="name", start=state.at), byte)

    def _opened(self, state: State, kind: str) -> State | None:
        if sum(frame.kind in _BRACKETS for frame in state.stack) == self.nesting:
            return None
        return State("stage", (*state.stack, Frame(kind, branches=1)))

    def _read_name(self, state: State, byte: int) -> State | None:
        longer, words = state.word + chr(byte), self._words(state.start)
        if any(word.startswith(longer) for word in words):
            return state._replace(word=longer)
        return self.read(self._named(state), byte) if state.word in words else None

    def _named(self, state: State) -> State:
        """Return the state after a whole name."""
        if state.word != _DONE or state.start == "stage":
            return State("called", state.stack, 1, state.word)
        return self._side_ended(state) if state.start == "side" else State("done", state.stack)

    def _read_called(self, state: State, byte: int) -> State | None:
        if byte == ord("("):
            return state._replace(at="instruction")
        return self._read_instructed(state, byte)

    def _read_instruction(self, state: State, byte: int) -> State | None:
        return state._replace(at="string") if byte == ord('"') else None

    def _read_quoted(self, state: State, byte: int) -> State | None:
        return state._replace(at="instructed") if byte == ord(")") else None

    def _read_instructed(self, state: State, byte: int) -> State | None:
        if state.open in ("fault", "pass"):
            return self.read(self._side_ended(state), byte)
        if byte == ord("?") and state.word in CHECKERS:
            return State("side", (*state.stack, Frame("fault")))
        return self._read_ended(state, byte)

    def _side_ended(self, state: State) -> State:
        """Return the state after a side of a branch; the whole branch is a stage."""
        frame = state.stack[-1]
        if frame.kind == "fault":
            return State("colon", state.stack, state.calls)
        return State("ended", state.stack[:-1], 1 + max(frame.earlier, state.calls))

    def _read_colon(self, state: State, byte: int) -> State | None:
        return State("side", (*state.stack[:-1], Frame("pass", earlier=state.calls))) if byte == ord(":") else None

    def _read_grouped(self, state: State, byte: int) -> State | None:
        if byte == ord("*"):
            return state._replace(at="times")
        return self._read_ended(state, byte)

    def _read_times(self, state: State, byte: int) -> State | None:
        times = byte - ord("0")
        return State("ended", state.stack, times * state.calls) if 1 <= times <= MAX_LOOP else None

    def _read_ended(self, state: State, byte: int) -> State | None:
        return state._replace(at="arrow") if byte == ord("-") else self._read_end_of_chain(state, byte)

    def _read_arrow(self, state: State, byte: int) -> State | None:
        if byte != ord(">"):
            return None
        frame = state.stack[-1]
        return State("tail", (*state.stack[:-1], frame._replace(calls=frame.calls + state.calls)))

    def _read_end_of_chain(self, state: State, byte: int) -> State | None:
        *outer, frame = state.stack
        calls = frame.earlier + frame.calls + state.calls
        match chr(byte), frame.kind:
            case ")", "group":
                return State("grouped", tuple(outer), calls)
            case ")", "arm":
                return self._side_ended(State("ended", tuple(outer), calls))
            case ",", "parallel" if frame.branches < self.limits.branches:
                return State("stage", (*outer, Frame("parallel", 0, calls, frame.branches + 1)))
            case "]", "parallel" if frame.branches > 1:
                return State("ended", tuple(outer), calls)
            case "<", "whole":
                return state._replace(at="closing", word="<")
        return None

    def _read_closing(self, state: State, byte: int) -> State | None:
        longer = state.word + chr(byte)
        if longer == CLOSING:
            return state._replace(at="finished", word="")
        return state._replace(word=longer) if CLOSING.startswith(longer) else None
