"""Episodes on disk: what is read is what was written, in bounded shards and flat memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlzoo.algos.world_models.frame_store import RECORD, Column, FrameStore
from rlzoo.core.types import DataError, NonFiniteError

COLUMNS = {
    "frame": Column("uint8", (4, 4, 3)),
    "action": Column("float32", (2,)),
    "mu": Column("float16", (3,)),
    "reward": Column("float32", ()),
}
STEP_BYTES = 4 * 4 * 3 + 2 * 4 + 3 * 2 + 4
LENGTHS = (5, 1, 9, 2, 30, 4, 4)
ABOUT = {"env": "Car-v0", "frame_size": 4}

Episode = dict[str, np.ndarray]


def episode(length: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return {
        "frame": rng.integers(0, 256, (length, 4, 4, 3), np.uint8),
        "action": rng.standard_normal((length, 2), np.float32),
        "mu": rng.standard_normal((length, 3), np.float32).astype(np.float16),
        "reward": rng.standard_normal(length, np.float32),
    }


EPISODES = [episode(length, seed) for seed, length in enumerate(LENGTHS)]


def filled(directory: Path, *, count: int = len(EPISODES)) -> FrameStore:
    """A store of which a shard holds about two episodes."""
    store = FrameStore.create(directory, COLUMNS, ABOUT, shard_bytes=12 * STEP_BYTES)
    append(store, 0, count)
    return store


def append(store: FrameStore, begin: int, end: int) -> None:
    for index in range(begin, end):
        store.append_episode(EPISODES[index], terminated=index % 2 == 0)


def check_holds(store: FrameStore, count: int) -> None:
    """Whatever is asked for in whatever way is what was appended."""
    assert store.num_episodes == count and store.num_steps == sum(LENGTHS[:count])
    assert store.length_E.tolist() == list(LENGTHS[:count])
    assert store.start_E.tolist() == [sum(LENGTHS[:e]) for e in range(count + 1)]
    assert store.terminated_E.tolist() == [e % 2 == 0 for e in range(count)]
    step_B = np.random.default_rng(1).permutation(store.num_steps)
    for name in COLUMNS:
        none = EPISODES[0][name][:0]
        whole = np.concatenate([none, *(e[name] for e in EPISODES[:count])])
        for index in range(count):
            np.testing.assert_array_equal(store.episode(index)[name], EPISODES[index][name])
        assert store.rows(name, step_B).dtype == whole.dtype
        np.testing.assert_array_equal(store.rows(name, step_B), whole[step_B])
        if count > 4:
            span = store.span(name, 4, 7, 11)
            np.testing.assert_array_equal(span, EPISODES[4][name][7:18])


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("count", [0, 1, len(EPISODES)])
def test_reads_what_was_written_at_once_and_after_opening(tmp_path: Path, count: int) -> None:
    store = filled(tmp_path, count=count)
    check_holds(store, count)
    store.sync()
    again = FrameStore.open(tmp_path, about=ABOUT)
    check_holds(again, count)
    assert again.columns == store.columns and again.about == ABOUT


def test_shards_are_bounded_and_do_not_change_when_they_are_full(tmp_path: Path) -> None:
    store = filled(tmp_path, count=4)
    before = contents(tmp_path)
    append(store, 4, len(EPISODES))
    after = contents(tmp_path)
    sizes = [len(data) // STEP_BYTES for name, data in after.items() if name.startswith("shard")]
    assert sizes == [6, 11, 30, 8]  # 5 + 1, 9 + 2, a long one by itself, 4 + 4
    assert all(after[name] == before[name] for name in before if name.startswith("shard"))
    assert len(after["episodes.bin"]) == RECORD.itemsize * len(EPISODES)


@pytest.mark.parametrize("count", range(len(EPISODES) + 1))
def test_what_was_appended_after_a_checkpoint_is_made_again(tmp_path: Path, count: int) -> None:
    filled(tmp_path / "straight")
    store = filled(tmp_path / "resumed")
    again = FrameStore.open(tmp_path / "resumed", num_episodes=count, shard_bytes=store.shard_bytes)
    check_holds(again, count)
    check_holds(FrameStore.open(tmp_path / "resumed"), count)
    append(again, count, len(EPISODES))
    check_holds(again, len(EPISODES))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "straight")


def test_a_checkpoint_that_knows_of_more_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, count=3)
    with pytest.raises(DataError, match=r"has 3 episodes, expected 4$"):
        FrameStore.open(tmp_path, num_episodes=4)
    check_holds(store, 3)


def test_a_new_store_replaces_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    check_holds(filled(tmp_path, count=1), 1)
    names = ["episodes.bin", "notes.txt", "shard_00000.bin", "store.json"]
    assert list(contents(tmp_path)) == names


@pytest.mark.parametrize(
    ("about", "complaint"),
    [
        ({"env": "Doom-v0"}, "env is 'Car-v0', expected 'Doom-v0'"),
        ({"frame_size": 64}, "frame_size is 4, expected 64"),
        ({"latent_size": 32}, "latent_size is None, expected 32"),
    ],
)
def test_artefacts_of_something_else_are_refused(
    tmp_path: Path, about: dict[str, object], complaint: str
) -> None:
    filled(tmp_path)
    with pytest.raises(DataError) as caught:
        FrameStore.open(tmp_path, about=ABOUT | about)
    assert str(caught.value) == f"{tmp_path}: {complaint}"


def test_steps_of_another_form_are_a_mistake_of_ours(tmp_path: Path) -> None:
    store = filled(tmp_path, count=1)
    good = EPISODES[1]
    for bad in (
        {k: v for k, v in good.items() if k != "reward"},
        good | {"frame": good["frame"][:, :2]},
        good | {"frame": good["frame"].astype(np.float32)},
        good | {"reward": np.zeros(2, np.float32)},
        {name: array[:0] for name, array in good.items()},
    ):
        with pytest.raises(AssertionError):
            store.append_episode(bad, terminated=False)
    check_holds(store, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["reward", "action", "mu"])
def test_numbers_that_are_not_finite_stay_outside(tmp_path: Path, name: str, value: float) -> None:
    store = filled(tmp_path, count=1)
    bad = {key: array.copy() for key, array in EPISODES[1].items()}
    bad[name].flat[-1] = value
    with pytest.raises(NonFiniteError, match=f"{name} of an episode is not finite"):
        store.append_episode(bad, terminated=False)
    check_holds(store, 1)


# Writes some episodes, reads all of them in every way, and tells the peak of its memory. With
# 'keep' it also does what must not happen: it holds on to what it has read.
PROGRAM = """
import sys
import numpy as np
from rlzoo.algos.world_models.frame_store import Column, FrameStore
directory, count, keep = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "keep"
columns = {"frame": Column("uint8", (16, 16, 3)), "action": Column("float32", (3,))}
store = FrameStore.create(directory, columns, {}, shard_bytes=1 << 18)
rng, kept = np.random.default_rng(0), []
for _ in range(count):
    frame = rng.integers(0, 256, (20, 16, 16, 3), np.uint8)
    store.append_episode({"frame": frame, "action": np.zeros((20, 3), np.float32)}, terminated=True)
store = FrameStore.open(directory)
for index in range(count):
    kept.append(store.episode(index)["frame"])
    kept.append(store.rows("frame", rng.integers(store.num_steps, size=20)))
    kept = kept if keep else []
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""


def peak_kilobytes(directory: Path, count: int, keep: str) -> int:
    words = [sys.executable, "-c", PROGRAM, str(directory), str(count), keep]
    return int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("keep", "is_flat"), [("", True), ("keep", False)])
def test_memory_is_flat_in_the_number_of_episodes(tmp_path: Path, keep: str, is_flat: bool) -> None:
    few, many = (peak_kilobytes(tmp_path, count, keep) for count in (200, 2000))
    assert (many < 1.1 * few) == is_flat, (few, many)


def test_the_env_is_known_by_its_name_wherever_its_module_is(tmp_path: Path) -> None:
    """Earlier versions wrote the module into the header."""
    FrameStore.create(tmp_path, COLUMNS, {"env": "rlzoo.envs.car_racing:CarRacingFast-v3"})
    store = FrameStore.open(tmp_path, about={"env": "CarRacingFast-v3"})
    assert store.about == {"env": "CarRacingFast-v3"}
    with pytest.raises(DataError, match="env is 'CarRacingFast-v3', expected 'TakeCover-v0'"):
        FrameStore.open(tmp_path, about={"env": "TakeCover-v0"})
