"""The phases of World Models resume bit for bit; what is collected is what was seen."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world_models_parts import (
    ABOUT,
    ENVS,
    FakeEnvs,
    FakePolicy,
    check_equal,
    collect,
    contents,
    encoding,
    finish,
    imitation,
    memory,
    saved,
    vision,
)

from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.pictures import grid, spread
from rlzoo.core.seeding import TRAIN, episode_seed
from rlzoo.core.types import DataError, StorageError

PHASES: dict[str, Callable[[Path], Any]] = {
    "collect": lambda path: collect(path / "frames"),
    "vision": lambda path: vision(path, block_updates=1),
    "encode": encoding,
    "memory": memory,
    "imitate": imitation,
}
FILES = {"collect": "frames", "encode": "latents"}


@pytest.mark.parametrize("name", PHASES)
def test_a_resumed_phase_equals_a_straight_one(tmp_path: Path, name: str) -> None:
    """Also where more was done after the checkpoint, as before a kill: it is done again."""
    straight = PHASES[name](tmp_path / "straight")
    assert isinstance(straight, Phase) and straight.name == name
    metrics = finish(straight)
    for before, lost in ((0, 2), (1, 0), (2, 1)):
        path = tmp_path / f"resumed{before}"
        phase = PHASES[name](path)
        kept = [phase.step() for _ in range(before)]
        state, progress = saved(phase), phase.progress()
        for _ in range(lost):
            phase.step()
        resumed = PHASES[name](path)
        resumed.load(state)
        check_equal(saved(resumed), state)
        assert resumed.progress() == progress
        again = [{n: float(v) for n, v in row.items()} for row in kept] + finish(resumed)
        assert again == metrics
        check_equal(saved(resumed), saved(straight))
        if name in FILES:
            assert contents(path / FILES[name]) == contents(tmp_path / "straight" / FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_a_phase_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, name: str) -> None:
    straight = PHASES[name](tmp_path / "straight")
    finish(straight)
    PHASES[name](tmp_path / "killed").step()
    again = PHASES[name](tmp_path / "killed")
    finish(again)
    check_equal(saved(again), saved(straight))
    files = FILES[name]
    assert contents(tmp_path / "killed" / files) == contents(tmp_path / "straight" / files)


@pytest.mark.parametrize("name", PHASES)
def test_progress_ends_where_it_says(tmp_path: Path, name: str) -> None:
    phase = PHASES[name](tmp_path)
    done, total = phase.progress()
    assert done == 0 < total and not phase.done()
    finish(phase)
    assert phase.progress() == (total, total)


@pytest.mark.parametrize("name", ["vision", "memory"])
def test_another_seed_is_another_training(tmp_path: Path, name: str) -> None:
    make = {"vision": vision, "memory": memory}[name]
    one, other = (finish(make(tmp_path, seed=seed)) for seed in (0, 1))
    assert one != other


# --- collect ------------------------------------------------------------------------------------


def played_by_hand(rounds: int, seed: int = 0) -> list[tuple[dict[str, np.ndarray], bool]]:
    """The same episodes with plain lists, one step after the other."""
    envs, policy, episodes = FakeEnvs(), FakePolicy(), []
    for index in range(rounds):
        seeds = [episode_seed(seed, TRAIN, env, index) for env in range(ENVS)]
        policy.reset(ENVS)
        obs_B = envs.reset(seeds)
        lists: list[dict[str, list]] = [{"frame": [], "action": [], "reward": []} for _ in seeds]
        end_B: list[tuple[bool, bool] | None] = [None] * ENVS
        while None in end_B:
            action_BA = policy.act(obs_B)
            now_B, (obs_B, reward_B, terminated_B, truncated_B) = obs_B, envs.step(action_BA)
            for b in [b for b in range(ENVS) if end_B[b] is None]:
                lists[b]["frame"].append(np.full((64, 64, 3), now_B[b], np.uint8))
                lists[b]["action"].append(action_BA[b])
                lists[b]["reward"].append(np.float32(reward_B[b]))
                if terminated_B[b] or truncated_B[b]:
                    end_B[b] = bool(terminated_B[b]), bool(truncated_B[b])
        for b, columns in enumerate(lists):
            episodes.append(({n: np.array(v) for n, v in columns.items()}, end_B[b][0]))
    return episodes


def test_collects_what_a_plain_loop_sees(tmp_path: Path) -> None:
    phase = collect(tmp_path)
    metrics = finish(phase)
    expected = played_by_hand(rounds=3)
    assert phase.frames.num_episodes == 7  # of 9: the last round has two too many
    for index, (columns, terminated) in enumerate(expected[:7]):
        check_equal(phase.frames.episode(index), columns)
        assert phase.frames.terminated_E[index] == terminated
    assert {True, False} == set(phase.frames.terminated_E.tolist())
    assert phase.env_steps == sum(len(columns["reward"]) for columns, _ in expected)
    returns = [float(columns["reward"].sum()) for columns, _ in expected[:3]]
    lengths = [len(columns["reward"]) for columns, _ in expected[:3]]
    assert metrics[0] == {
        "rollout/return_mean": pytest.approx(np.mean(returns)),
        "rollout/length_mean_env_steps": pytest.approx(np.mean(lengths)),
    }
    assert phase.frames.about == ABOUT
    [picture] = phase.report()
    assert picture.name == "collect/frames" and picture.image_HWC.shape == (4 * 66, 8 * 66, 3)


def test_long_episodes_are_cut_off_and_short_ones_dropped(tmp_path: Path) -> None:
    whole = [(len(c["reward"]), end) for c, end in played_by_hand(rounds=10)]
    phase = collect(tmp_path, max_episode_steps=5, min_episode_steps=4)
    finish(phase)
    kept = [(min(n, 5), end and n <= 5) for n, end in whole if min(n, 5) >= 4][:7]
    stored = zip(phase.frames.length_E.tolist(), phase.frames.terminated_E.tolist(), strict=True)
    assert list(stored) == kept
    assert phase.played > 7 and phase.progress() == (7, 7)


def test_a_round_is_played_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal is heard between them; a state taken there is that of the round's beginning."""
    straight = collect(tmp_path / "straight")
    finish(straight)
    monkeypatch.setattr("rlzoo.algos.world_models.collect.STEPS_AT_ONCE", 2)
    phase = collect(tmp_path / "pieces")
    finish(phase)
    check_equal(saved(phase), saved(straight))
    phase = collect(tmp_path / "stopped")
    while phase.progress()[0] < 3:
        phase.step()
    at_the_end = saved(phase)
    assert phase.step() == {}
    check_equal(saved(phase), at_the_end)
    phase.load(at_the_end)
    finish(phase)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_stops_a_phase_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    straight = PHASES[name](tmp_path / "straight")
    finish(straight)
    phase = PHASES[name](tmp_path / "full")
    phase.step()
    state, before = saved(phase), contents(tmp_path / "full" / FILES[name])

    class FullFile(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_disk(path: Path, mode: str, buffering: int = -1) -> Any:
        return FullFile(path, "r+") if mode == "r+b" else open(path, mode, buffering)

    with monkeypatch.context() as patch:
        patch.setattr("rlzoo.algos.world_models.frame_store.open", full_disk, raising=False)
        with pytest.raises(StorageError, match=r"cannot be written: No space left on device$"):
            finish(phase)
    assert contents(tmp_path / "full" / FILES[name]) == before
    resumed = PHASES[name](tmp_path / "full")
    resumed.load(state)
    finish(resumed)
    assert contents(tmp_path / "full" / FILES[name]) == contents(
        tmp_path / "straight" / FILES[name]
    )


def test_settings_that_keep_nothing_are_found_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"min_episode_steps: got 50, but none of the first 102 "):
        finish(collect(tmp_path, min_episode_steps=50))


def test_frames_of_another_env_are_not_continued(tmp_path: Path) -> None:
    phase = collect(tmp_path)
    phase.step()
    other = collect(tmp_path)
    other.about = {"env": "Other-v0"}
    before = contents(tmp_path)
    with pytest.raises(DataError, match="env is 'Fake-v0', expected 'Other-v0'"):
        other.load(saved(phase))
    assert contents(tmp_path) == before


# --- pictures -----------------------------------------------------------------------------------


def test_a_grid_keeps_its_pictures_in_place() -> None:
    picture_RCHWC = np.arange(2 * 3 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 3, 2, 2, 3)
    whole_HWC = grid(picture_RCHWC)
    assert whole_HWC.shape == (2 * 4, 3 * 4, 3)
    for row in range(2):
        for column in range(3):
            part = whole_HWC[4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3]
            np.testing.assert_array_equal(part, picture_RCHWC[row, column])


def test_steps_are_spread_evenly() -> None:
    assert spread(3, 11).tolist() == [0, 5, 10]
    assert spread(10, 4).tolist() == [0, 1, 2, 3]
    assert spread(2, 1).tolist() == [0]
