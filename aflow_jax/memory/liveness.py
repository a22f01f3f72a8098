"""The memory of a program before it is compiled: its traced operations laid out as XLA lays them out.

XLA fuses elementwise operations into what reads them, keeps a buffer for every result that something must read from
memory, and gives buffers that are not alive together the same place: the largest first, each in the tightest gap that
fits (`GlobalDecreasingSizeBestFitHeap` of xla/service/heap_simulator). The same is done here, on the jaxpr:

    matrix products, sorts, scatters, loops, kernels     read buffers and write one
    elementwise operations, gathers, slices              are lazy: written only when one of those above reads them, or
                                                         when several readers would each repeat more than a cast
    reshapes and transposes                              are views
    a scan                                               keeps a stack of what it returns, carries in place, and reads
                                                         a slice of its inputs at a time, which a product copies

Nothing is compiled, and no array is made: a 7B model's update takes about a second.
"""

import contextlib
import dataclasses
import functools
import gc
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core

from aflow_jax.memory.places import Buffer, pack, peak
from aflow_jax.memory.program import Operation, needed, operations_of

Platform = Literal["cpu", "gpu"]

_READERS = {"sort", "top_k", "cumsum", "cumlogsumexp", "cummax", "cumprod", "pure_callback"}
_ROOTS = {"argmax", "argmin"}
_NOISE = {"random_bits", "threefry2x32"}
_IN_PLACE = {"dynamic_update_slice", "scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"}
_CHEAP = {"convert_element_type", "broadcast_in_dim", "slice", "dynamic_slice", "neg", "iota", "pad", "gather"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Bytes of a program, as XLA's `memory_analysis` counts them.

    Attributes:
      arguments: What it is given and reads.
      outputs: What it returns, without what takes the place of donated arguments.
      temporaries: What it needs meanwhile.
      peak: The temporaries when they are most, (kind, bytes) each, the largest first; `temporaries` is more, by the
        gaps between those that could not be given the same place. A kind is "saved", what a loop's turns keep for a
        later loop, or the shape.
    """

    arguments: int
    outputs: int
    temporaries: int
    peak: tuple[tuple[str | tuple[int, ...], int], ...]

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries


@dataclasses.dataclass(eq=False, slots=True)
class _Value:
    """What a variable stands for: a buffer, or a lazy expression over buffers; an argument is neither.

    Attributes:
      cheap: Whether repeating the expression costs no more than reading it.
      product: Whether it is a matrix product.
      whole: What a loop cuts it from, a slice for each turn.
      wide: Its float32 copy, if one was made.
    """

    size: int
    shape: tuple[int, ...] = ()
    sources: frozenset[Buffer] = frozenset()
    lazy: bool = False
    cheap: bool = True
    product: bool = False
    whole: "_Value | None" = None
    wide: "_Value | None" = None


@dataclasses.dataclass(frozen=True)
class _Loop:
    """A loop that is being run through: what does not change in it, and what is made of that before it."""

    start: int
    unchanging: set[int]
    hoisted: list[_Value] = dataclasses.field(default_factory=list)


def layout(function: Any, *arguments: Any, donated: Any = None, platform: Platform, **static: Any) -> Layout:
    """Lay out the memory of `function(*arguments, **static)`, which is traced and never run.

    Args:
      function: A function of pytrees; of a jitted one what it wraps is traced.
      arguments: Arrays, or their shapes (`jax.ShapeDtypeStruct`).
      donated: Those of the arguments that are donated: as many bytes of the outputs take their place.
      platform: Whose XLA. On CPU products of 16-bit numbers are computed on float32 copies of them.
      static: Keyword arguments that are no arrays.
    """
    if hasattr(function, "lower"):  # jitted
        function = function.__wrapped__
    with _no_collection():
        closed, shapes = jax.make_jaxpr(lambda *given: function(*given, **static), return_shape=True)(*arguments)
        read, buffers = _Simulation(platform).run(closed.jaxpr)
    return Layout(
        arguments=read,
        outputs=max(0, tree_bytes(shapes) - tree_bytes(donated)),
        temporaries=pack(buffers),
        peak=peak(buffers),
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python's search for cycles would go through the many small objects of a trace again and again, in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scan_sections(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return where among a scan's inputs its carry begins, and where what it goes through does."""
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # since JAX 0.11
    return len(constants), len(constants) + len(carry)


def tree_bytes(tree: Any) -> int:
    """Return the bytes of a pytree of arrays or of their shapes."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _bytes(array: Any) -> int:
    return math.prod(array.shape) * _item_bytes(array.dtype) if hasattr(array, "dtype") else 4


@functools.cache
def _item_bytes(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize


class _Simulation:
    """Runs through a program's operations, and notes from when to when each buffer is needed."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.time = 0
        self.buffers: list[Buffer] = []
        self.read: set[int] = set()
        self.loops: list[_Loop] = []
        self.spreads: dict[tuple[int, tuple[int, ...]], _Value] = {}

    def run(self, jaxpr: core.Jaxpr) -> tuple[int, list[Buffer]]:
        """Return the bytes of the arguments that are read, and the temporaries."""
        inputs = [_Value(_bytes(var.aval), var.aval.shape) for var in jaxpr.invars]
        outputs = self.walk(jaxpr, inputs)
        self.touch(*outputs)
        # What the caller gets is no temporary.
        returned = {source for value in outputs if not value.lazy for source in value.sources}
        read = self.read | {id(value) for value in outputs}
        arguments = sum(value.size for value in inputs if id(value) in read)
        return arguments, [buffer for buffer in self.buffers if buffer not in returned]

    def walk(self, jaxpr: core.Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        """Run through a jaxpr; return what its outputs stand for."""
        operations, name = operations_of(jaxpr)
        wanted = [name(var) for var in jaxpr.outvars]
        operations = needed(operations, set(wanted))
        readers = Counter(key for operation in operations for key in set(operation.inputs))
        readers.update(wanted)
        environment = {name(var): value for var, value in zip(jaxpr.invars, inputs, strict=True)}
        nothing = _Value(0)  # literals, and constants of the program
        for operation in operations:
            given = [environment.get(key, nothing) for key in operation.inputs]
            self.read.update(map(id, given))
            results = self.operate(operation, given, [readers[key] for key in operation.outputs])
            environment.update(zip(operation.outputs, results, strict=True))
        return [environment.get(key, nothing) for key in wanted]

    def operate(self, operation: Operation, inputs: list[_Value], readers: list[int]) -> list[_Value]:
        """Return what the operation's results stand for; `readers` says how many others read each one."""
        kind = operation.name
        if kind == "scan":
            return self.scan(operation, inputs, readers)
        if kind == "while":
            return self.loop(operation, inputs)
        if kind == "cond":
            return self.branch(operation, inputs)
        if kind in _IN_PLACE:
            return [self.updated(inputs)]
        if kind == "dot_general":
            return [self.product(operation, inputs)]
        if kind in _READERS:
            operands = [self.written(value) for value in inputs]
            self.tick()
            self.touch(*operands)
            return [self.write(aval) for aval in operation.avals]
        if kind in _NOISE and self.platform == "cpu":
            return [self.noise(aval) for aval in operation.avals]
        if kind.startswith("reduce_") or kind in _ROOTS:
            self.touch(*inputs)
            self.tick()
            return [self.write(aval) for aval in operation.avals]
        return [self.lazy(kind, inputs, aval, count) for aval, count in zip(operation.avals, readers, strict=True)]

    def lazy(self, kind: str, inputs: list[_Value], aval: Any, readers: int) -> _Value:
        """An elementwise result: repeated by each reader, unless that costs more than it saves."""
        found = [value.sources for value in inputs if value.sources]
        sources = found[0] if len(found) == 1 else frozenset().union(*found)
        cheap = kind in _CHEAP and all(value.cheap or not value.lazy for value in inputs)
        value = _Value(_bytes(aval), aval.shape, sources, lazy=True, cheap=cheap)
        if self.platform == "cpu" and any(value.product for value in inputs):
            self.spread(inputs, aval)
        return self.written(value) if readers > 1 and not (cheap and len(sources) <= 1) else value

    def updated(self, inputs: list[_Value]) -> _Value:
        """An array that is changed in places."""
        early = self.platform == "cpu" and not any(value.sources for value in inputs)
        target = self.written(inputs[0])
        if early:
            self.advance(target)
        self.touch(*inputs[1:])
        self.tick()
        self.touch(target)
        return target

    def noise(self, aval: Any) -> _Value:
        """Random bits: XLA:CPU makes them in a loop over two counters."""
        counters = self.take(2 * _bytes(aval), aval.shape)
        self.advance(counters)
        self.touch(counters)
        self.take(2 * _bytes(aval), aval.shape)
        self.tick()
        return self.write(aval)

    def advance(self, value: _Value) -> None:
        """XLA:CPU makes what depends on nothing that is computed as soon as it can."""
        for source in value.sources:
            source.start = self.loops[-1].start if self.loops else 0

    def spread(self, inputs: list[_Value], aval: Any) -> None:
        """XLA:CPU's matrix kernels go on to what is done to a product, and read a variable number in it as an array."""
        for value in inputs:
            if value.shape == () and value.size:
                spread = self.spreads.setdefault((id(value), aval.shape), _Value(_bytes(aval), aval.shape, lazy=True))
                self.touch(self.hoisted(spread))

    def product(self, operation: Operation, inputs: list[_Value]) -> _Value:
        """A matrix product: on CPU those of 16 bit are made of float32 copies, and rounded by what reads them."""
        upcast = self.platform == "cpu"
        operands = [
            self.widened(value) if upcast and aval.dtype.itemsize == 2 else self.written(value)
            for value, aval in zip(inputs, operation.input_avals, strict=True)
        ]
        self.tick()
        self.touch(*operands)
        (aval,) = operation.avals
        if not (upcast and aval.dtype.itemsize == 2):
            return dataclasses.replace(self.write(aval), product=True)
        wide = self.take(2 * _bytes(aval), aval.shape)
        return dataclasses.replace(wide, size=_bytes(aval), lazy=True)

    def scan(self, operation: Operation, inputs: list[_Value], readers: list[int]) -> list[_Value]:
        """A loop over layers or chunks: its carry is one buffer, and what it returns for each turn is stacked."""
        params = operation.params
        first, second = _scan_sections(params)
        if params["length"] == 1:  # XLA unrolls it
            return [self.held(value) for value in self.walk(params["jaxpr"].jaxpr, inputs)]
        carry = self.carried(inputs[first:second], operation.input_avals[first:second])
        constants, stacked = ([self.held(value) for value in part] for part in (inputs[:first], inputs[second:]))
        self.tick()
        nothing = _Value(0)
        stacks = [
            self.take(_bytes(aval), "saved") if count else nothing
            for aval, count in list(zip(operation.avals, readers, strict=True))[len(carry) :]
        ]
        slices = [
            _Value(value.size // max(1, params["length"]), value.shape[1:], value.sources, lazy=True, whole=value)
            for value in stacked
        ]
        self.turn([*constants, *stacked], [(params["jaxpr"].jaxpr, [*constants, *carry, *slices])])
        self.touch(*carry, *stacks)
        return [*map(_narrowed, carry), *stacks]

    def loop(self, operation: Operation, inputs: list[_Value]) -> list[_Value]:
        params = operation.params
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        constants = [self.held(value) for value in inputs[:second]]
        carry = self.carried(inputs[second:], operation.input_avals[second:])
        condition = (params["cond_jaxpr"].jaxpr, [*constants[:first], *carry])
        body = (params["body_jaxpr"].jaxpr, [*constants[first:], *carry])
        self.turn(constants, [condition, body])
        self.touch(*carry)
        return [_narrowed(value) for value in carry]

    def turn(self, unchanging: list[_Value], parts: list[tuple[core.Jaxpr, list[_Value]]]) -> None:
        """Run once through a loop's parts; what does not change in it stays to its end."""
        loop = _Loop(self.time, {id(value) for value in unchanging})
        self.loops.append(loop)
        for part, given in parts:
            self.touch(*self.walk(part, given))
        self.loops.pop()
        self.tick()
        self.touch(*unchanging, *loop.hoisted)

    def branch(self, operation: Operation, inputs: list[_Value]) -> list[_Value]:
        given = [self.held(value) for value in inputs[1:]]
        self.tick()
        outputs = [self.write(aval) for aval in operation.avals]
        for branch in operation.params["branches"]:
            self.touch(*self.walk(branch.jaxpr, given))
        self.tick()
        self.touch(*given, *outputs)
        return outputs

    def written(self, value: _Value) -> _Value:
        """Have a value in a buffer: written now if it is lazy, and kept for later readers."""
        if value.lazy:
            self.touch(value)
            self.tick()
            value.sources, value.lazy = self.take(value.size, value.shape).sources, False
        return value

    def widened(self, value: _Value) -> _Value:
        """The float32 copy of a value of 16 bit, made before a loop in which the value does not change."""
        value = value.whole or value
        if value.wide is None:
            value.wide = dataclasses.replace(value, size=2 * value.size, lazy=True)
        return self.hoisted(value.wide, of=value)

    def hoisted(self, value: _Value, of: _Value | None = None) -> _Value:
        """Have a value in a buffer from the start to the end of the outermost loop in which it does not change."""
        loops = [loop for loop in self.loops if of is None or id(of) in loop.unchanging]
        fresh = value.lazy
        value = self.written(value)
        if loops:
            loops[0].hoisted.append(value)
            for source in value.sources if fresh else ():
                source.start = loops[0].start
        return value

    def held(self, value: _Value) -> _Value:
        """What a loop or a branch is given; what depends on no buffer is made anew inside."""
        return self.written(value) if value.sources else value

    def carried(self, values: list[_Value], avals: list[Any]) -> list[_Value]:
        """The carry of a loop: copies of its start, in the same place if nobody else reads that.

        XLA:CPU has no arithmetic of 16 bit: what it carries is float32.
        """
        self.touch(*values)
        self.tick()
        carry = []
        for value, aval in zip(values, avals, strict=True):
            widen = self.platform == "cpu" and jnp.issubdtype(aval.dtype, jnp.floating) and aval.dtype.itemsize == 2
            copy = self.take(2 * value.size if widen else value.size, value.shape)
            copy.wide = copy if widen else None
            carry.append(copy)
        return carry

    def write(self, aval: Any) -> _Value:
        return self.take(_bytes(aval), aval.shape)

    def take(self, size: int, kind: str | tuple[int, ...]) -> _Value:
        buffer = Buffer(size, self.time, self.time, kind)
        self.buffers.append(buffer)
        return _Value(size, () if isinstance(kind, str) else kind, frozenset({buffer}))

    def touch(self, *values: _Value) -> None:
        for value in values:
            for source in value.sources:
                source.end = max(source.end, self.time)

    def tick(self) -> None:
        self.time += 1


def _narrowed(value: _Value) -> _Value:
    """What a loop's carry gives to those after it: itself, or what it was before it was widened."""
    if value.wide is None:
        return value
    return dataclasses.replace(value, size=value.size // 2, lazy=True)
