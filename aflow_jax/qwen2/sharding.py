"""Where arrays lie on a mesh of devices: one class of rules for base, adapter, optimizer, batch and KV cache.

                data ──►     rows of a batch, slots of the cache; with `fsdp` also a part of every matrix
        model   d0 d1 d2 d3
          │     d4 d5 d6 d7
          ▼     heads, the MLP's inner width, the vocabulary

Both axes are automatic: the rules say where arrays lie between and, at a few places, inside programs, and XLA finds
out what to compute where, and what to send (GSPMD, Xu et al., 2021, arXiv:2105.04663). Matrices are cut over `model`
as in Megatron (Shoeybi et al., 2019, arXiv:1909.08053), so that attention and MLP send one sum each; `fsdp` cuts them
over `data` as well, as ZeRO does (Rajbhandari et al., 2019, arXiv:1910.02054, stage 3).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from aflow_jax.errors import UserError

DATA, MODEL = "data", "model"

Axes = str | tuple[str, ...] | None
"""The axes of the mesh that a dimension is cut over."""

_ROW_PARALLEL = ("o_proj", "down_proj")
"""Projections whose inputs are cut over `model`; of the others the outputs are."""


def make_mesh(data: int, model: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of data × model devices; -1 for one of them takes all that the other leaves.

    Neighbours in `devices` (all of the job's by default, process by process) are neighbours on `model`, so that its
    many sums stay inside a machine wherever it has that many devices.

    Raises:
      UserError: the product is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _mesh_sizes(data, model, len(devices))
    return Mesh(np.array(devices).reshape(sizes), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def planned_mesh(data: int, model: int, devices: int) -> AbstractMesh:
    """Return a mesh as `make_mesh` does, of so many devices that are not here."""
    return AbstractMesh(_mesh_sizes(data, model, devices), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def _mesh_sizes(data: int, model: int, devices: int) -> tuple[int, int]:
    sizes = {(-1, -1): (devices, 1), (-1, model): (devices // model, model), (data, -1): (data, devices // data)}
    found = sizes.get((data, model), (data, model))
    if math.prod(found) != devices:
        raise UserError(
            f"mesh: data {data} × model {model} does not make {devices} devices, as many as there are: set mesh.model "
            "to a divisor of that, and mesh.data to -1 to take what it leaves"
        )
    return found


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """What is cut over which axis of a mesh. A dimension that an axis does not divide stays whole.

    Attributes:
      mesh: With the axes `data` and `model`; of devices, or an AbstractMesh where arrays are only planned for.
      fsdp: Whether the base's matrices are cut over `data` too. They then take a device the least memory, and every
        layer of every pass gathers its own; otherwise each row of the mesh holds them whole.
    """

    mesh: Mesh | AbstractMesh
    fsdp: bool = False

    @property
    def data(self) -> int:
        """Devices along `data`."""
        return self.mesh.shape[DATA]

    @property
    def model(self) -> int:
        """Devices along `model`."""
        return self.mesh.shape[MODEL]

    def weight(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """Where a weight of the base lies, from its name in `Qwen2` and its shape there, layers stacked.

        Matrices end in [outputs, inputs]; of a quantised one each part has the name of the whole.
        """
        rest = DATA if self.fsdp else None
        if name.endswith("norm"):
            return self.named(shape)
        if name.endswith("_bias"):
            return self.named(shape, MODEL)
        outputs, inputs = (rest, MODEL) if name in _ROW_PARALLEL else (MODEL, rest)
        is_matrix = len(shape) == (2 if name in ("embedding", "lm_head") else 3)
        return self.named(shape, outputs, inputs) if is_matrix else self.named(shape, outputs)

    def piece(self, name: str, stacked: tuple[int, ...]) -> NamedSharding:
        """Where one layer's piece of a weight of that stacked shape lies: as its part of the stack did."""
        return NamedSharding(self.mesh, PartitionSpec(*self.weight(name, stacked).spec[1:]))

    def adapter(self, state: Any) -> Any:
        """Where the leaves of a pytree of adapter matrices lie (a gradient, an optimizer's moments): over all devices.

        `a` [L, in, r] is cut along `in`, `b` [L, r, out] along `out`; what is no such matrix lies everywhere.
        """

        def place(path: tuple, leaf: Any) -> NamedSharding:
            part = getattr(path[-1], "key", None) if path else None
            return self.named(leaf.shape, *{"a": ((DATA, MODEL), None), "b": ((DATA, MODEL),)}.get(part, ()))

        return jax.tree_util.tree_map_with_path(place, state)

    def adapter_piece(self, weights: dict[str, dict[str, Any]]) -> dict[str, dict[str, NamedSharding]]:
        """Where one layer's matrices of the adapter lie for decoding: cut over `model` as the products need them."""

        def place(target: str, part: str, shape: tuple[int, int]) -> NamedSharding:
            is_cut = (part == "a") == (target in _ROW_PARALLEL)
            axes = (MODEL, None) if part == "a" else (None, MODEL)
            return self.named(shape, *axes) if is_cut else self.named(shape)

        return {
            target: {part: place(target, part, matrix.shape) for part, matrix in matrices.items()}
            for target, matrices in weights.items()
        }

    def rows(self, shape: tuple[int, ...]) -> NamedSharding:
        """Where an array over rows of a batch, or over slots, lies."""
        return self.named(shape, DATA, *[None] * (len(shape) - 1))

    def residual(self, shape: tuple[int, int, int]) -> NamedSharding:
        """Where the residual stream [B, T, D] lies between layers: of many rows the positions are cut over `model`.

        What a layer keeps for the backward pass is then no larger than its share (Korthikanti et al., 2022,
        arXiv:2205.05198): what was a sum over `model` after attention and MLP becomes a scattered one, and a gathering
        before the next.
        """
        return self.named(shape, DATA, MODEL if shape[0] % self.data == 0 else None, None)

    def cache(self, shape: tuple[int, int, int, int], head_axis: int) -> NamedSharding:
        """Where keys or values of one layer lie: rows over `data`, heads over `model`, or where those are too few
        their width, which is the axis `head_axis`.
        """
        axes: list[Axes] = [DATA, None, None, None]
        axes[1 if shape[1] % self.model == 0 else head_axis] = MODEL
        return self.named(shape, *axes)

    def everywhere(self) -> NamedSharding:
        """A copy on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def named(self, shape: tuple[int, ...], *last: Axes) -> NamedSharding:
        """Return the sharding whose last dimensions are cut over these axes, as far as those divide them."""
        axes = (*[None] * (len(shape) - len(last)), *last)
        return NamedSharding(self.mesh, PartitionSpec(*map(self._fitting, axes, shape)))

    def model_bytes(self, model: Any) -> int:
        """Return the bytes of a `Qwen2`'s arrays, or of their shapes, layers stacked, that a device holds."""
        weights = {name: getattr(model, name) for name in ("embedding", "final_norm", "lm_head")} | dict(model.layers)
        return sum(
            self.shard_bytes(part, self.weight(name, part.shape))
            for name, weight in weights.items()
            for part in jax.tree.leaves(weight)
        )

    def adapter_bytes(self, state: Any) -> int:
        """Return the bytes of a pytree of adapter matrices that a device holds."""
        return sum(map(self.shard_bytes, jax.tree.leaves(state), jax.tree.leaves(self.adapter(state))))

    def shard_bytes(self, array: Any, sharding: NamedSharding) -> int:
        """Return the bytes of an array that a device holds."""
        return math.prod(sharding.shard_shape(array.shape)) * np.dtype(array.dtype).itemsize

    def _fitting(self, axes: Axes, size: int) -> Axes:
        names = (axes,) if isinstance(axes, str) else axes or ()
        return axes if size % math.prod(self.mesh.shape[name] for name in names) == 0 else None


def place(tree: Any, shardings: Any) -> Any:
    """Put arrays that every process holds whole where they are to lie; each device gets its own part."""

    def put(array: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree, shardings)


def hold(rules: ShardingRules | None, tree: Any, where: Callable[[Any], NamedSharding]) -> Any:
    """Inside a program: keep the arrays of a pytree where `where` says of each; without rules nothing is said."""
    if rules is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(where, tree))


def hold_rows(rules: ShardingRules | None, array: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Inside a program: keep an array over rows cut over `data`, and whole otherwise."""
    return hold(rules, array, lambda array: rules.rows(array.shape))


def hold_residual(rules: ShardingRules | None, residual: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Inside a program: keep the residual stream where `ShardingRules.residual` says."""
    return hold(rules, residual, lambda residual: rules.residual(residual.shape))


def hold_adapter(rules: ShardingRules | None, state: Any) -> Any:
    """Inside a program: keep a pytree of adapter matrices where `ShardingRules.adapter` says."""
    return state if rules is None else jax.lax.with_sharding_constraint(state, rules.adapter(state))


def data_parts(rules: ShardingRules | None) -> int:
    """Return how many parts rows are cut into where their number allows it: 1 without a mesh."""
    return 1 if rules is None else rules.data


def row_shards(rules: ShardingRules | None, rows: int) -> int:
    """Return how many parts so many rows are cut into."""
    parts = data_parts(rules)
    return 1 if rows % parts else parts


def interleave_rows(
    rules: ShardingRules | None, parts: Shaped[Array, "d N ..."], chunks: int
) -> Shaped[Array, "n C ..."]:
    """Cut the rows' parts into chunks that take equally many values from each: a loop then keeps all devices at work.

    `uninterleave_rows` undoes it.
    """
    shards, _, *rest = parts.shape
    cut = parts.reshape(shards, chunks, -1, *rest).swapaxes(0, 1).reshape(chunks, -1, *rest)
    if rules is None:
        return cut
    sharding = rules.named(cut.shape, DATA if shards > 1 else None, *[None] * len(rest))
    return jax.lax.with_sharding_constraint(cut, sharding)


def uninterleave_rows(chunks: Shaped[Array, "n C"], shards: int) -> Shaped[Array, "d N"]:
    """Undo `interleave_rows`."""
    return chunks.reshape(chunks.shape[0], shards, -1).swapaxes(0, 1).reshape(shards, -1)
