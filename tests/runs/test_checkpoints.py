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
from aflow_jax.runs import Checkpoint, Checkpoints, Place, SaveFailed, saved_steps


def state(scale: int) -> dict:
    weights = {"q_proj": {"a": jnp.full((2, 3, 4), float(scale)), "b": jnp.full((2, 4, 3), -float(scale))}}
    return {"adapter": weights, "optimizer": optax.adamw(1e-3).init(weights), "step": jnp.int32(scale)}


def restore(path: Path, like: dict) -> dict:
    return Checkpoint.open(path).restore(like)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(Place("step", step), state(step))
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
    checkpoints.save(Place("step", 5), given)
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
    assert Checkpoint.newest(folder, report=said.append).path == folder / "step_2"
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


def test_a_folder_whose_saves_never_completed_has_none_and_one_whose_saves_are_all_damaged_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    assert Checkpoint.newest(tmp_path / "nothing", report=print) is None
    (tmp_path / "torn" / "step_0").mkdir(parents=True)
    assert Checkpoint.newest(tmp_path / "torn", report=lambda line: None) is None
    for step in saved_steps(folder):
        _flip_a_byte(folder / f"step_{step}")
    with pytest.raises(UserError, match=r"no checkpoint in .* is as it was saved"):
        Checkpoint.newest(folder, report=lambda line: None)


def test_stages_before_grpo_come_before_its_steps(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for place in (Place("warm_start", 50), Place("rejection_sampling", 9), Place("rejection_sampling", 10)):
        checkpoints.save(place, state(place.step))
    checkpoints.wait()
    assert Checkpoint.newest(tmp_path, report=print).place == Place("rejection_sampling", 10)
    checkpoints.save(Place("step", 0), state(0), files={"ahead.json": "[1]"})
    checkpoints.close()
    newest = Checkpoint.newest(tmp_path, report=print)
    assert (newest.place, newest.read_file("ahead.json")) == (Place("step", 0), "[1]")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rejection_sampling_10", "step_0"]


def test_the_best_is_kept_however_old(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in range(4):
        checkpoints.save(Place("step", step), state(step), best=Place("step", 1) if step else None)
    checkpoints.close()
    assert saved_steps(tmp_path) == [1, 3]


def test_going_on_from_an_older_checkpoint_sets_the_newer_ones_aside(folder: Path) -> None:
    said = []
    Checkpoints(folder).set_aside_after(Place("step", 2), report=said.append)
    assert saved_steps(folder) == [2]
    assert said == ["checkpoint step_3 is set aside as before_resuming_at_step_2.step_3"]


def test_floats_are_restored_in_another_dtype_when_it_is_asked_for(folder: Path) -> None:
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf, state(0))
    restored = restore(folder / "step_3", narrow)
    assert restored["adapter"]["q_proj"]["a"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), restored["adapter"]), state(3)["adapter"]
    )


def test_a_save_that_cannot_be_written_is_told_and_harms_none_before_it(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    (folder / "step_4").write_text("a file where the folder is to be")
    checkpoints.save(Place("step", 4), state(4))
    with pytest.raises(SaveFailed, match="the checkpoint cannot be written"):
        checkpoints.wait()
    checkpoints.close()
    assert Checkpoint.newest(folder, report=print).path == folder / "step_3"


def test_the_manifest_holds_shapes_and_dtypes(folder: Path) -> None:
    arrays = json.loads((folder / "step_3" / "manifest.json").read_text())["arrays"]
    assert arrays["['adapter']['q_proj']['b']"] == "float32[2, 4, 3]"
