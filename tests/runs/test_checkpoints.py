"""Checkpoints: what was saved comes back, and what is not as it was saved is never used."""

import json
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

from aflow_jax.errors import UserError
from aflow_jax.runs import Checkpoints, newest, restore, saved_steps


def state(scale: int) -> dict:
    weights = {"q_proj": {"a": jnp.full((2, 3, 4), float(scale)), "b": jnp.full((2, 4, 3), -float(scale))}}
    return {"adapter": weights, "optimizer": optax.adamw(1e-3).init(weights), "step": jnp.int32(scale)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_the_newest_are_kept_and_come_back_bit_for_bit(folder: Path) -> None:
    assert saved_steps(folder) == [2, 3]
    for step in (2, 3):
        chex.assert_trees_all_equal(restore(folder / f"step_{step}", state(0)), state(step))


def test_orbax_alone_restores_a_checkpoint(folder: Path) -> None:
    restored = ocp.StandardCheckpointer().restore(folder / "step_3")
    chex.assert_trees_all_equal(restored["adapter"], state(3)["adapter"])


def test_buffers_given_away_after_save_do_not_change_the_checkpoint(tmp_path: Path) -> None:
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 + 99, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep=1)
    given = state(5)
    checkpoints.save(5, given)
    overwrite(given)
    checkpoints.close()
    chex.assert_trees_all_equal(restore(tmp_path / "step_5", state(0)), state(5))


def _flip_a_byte(path: Path) -> None:
    data = max((path / "ocdbt.process_0" / "d").iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_byte,
        _empty,
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text("{"),
        lambda path: (path / "_METADATA").unlink(),
        lambda path: (path / "stray").write_text("x"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_word(folder: Path, damage) -> None:
    damage(folder / "step_3")
    said = []
    assert newest(folder, report=said.append) == folder / "step_2"
    assert len(said) == 1
    assert "step_3 is passed over" in said[0]
    with pytest.raises(UserError, match="not a usable checkpoint"):
        restore(folder / "step_3", state(0))


def test_arrays_of_another_shape_are_refused_by_key_path(folder: Path) -> None:
    other = state(0)
    other["adapter"]["q_proj"]["a"] = jnp.zeros((2, 3, 8))
    with pytest.raises(UserError, match=r"\['adapter'\]\['q_proj'\]\['a'\] is float32\[2, 3, 4\].*float32\[2, 3, 8\]"):
        restore(folder / "step_3", other)


@pytest.mark.parametrize("path", ["nowhere", ".", "step_9"])
def test_what_is_no_checkpoint_is_refused(folder: Path, path: str) -> None:
    (folder / "step_9").mkdir()
    with pytest.raises(UserError, match="checkpoint"):
        restore(folder / path, state(0))


def test_a_folder_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        newest(tmp_path, report=print)


def test_the_manifest_holds_shapes_and_dtypes(folder: Path) -> None:
    arrays = json.loads((folder / "step_3" / "manifest.json").read_text())["arrays"]
    assert arrays["['adapter']['q_proj']['b']"] == "float32[2, 4, 3]"
