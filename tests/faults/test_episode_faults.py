"""Members of a batch of episodes that raise, lie, hang or die; and what World Models says of it."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import gymnasium
import lamp
import numpy as np
import pytest
from commands import Command
from gymnasium import spaces
from test_env_faults import (
    NO_FLAGS,
    OBSERVATIONS,
    RAISED,
    REWARDS,
    WORKER_FAULTS,
    DiesInWorkers,
    FaultyEnv,
    MadeWrong,
    alive,
    assert_gone,
)

from rlzoo.core.types import EnvError, NonFiniteError
from rlzoo.envs.batch import GymEpisodes
from rlzoo.envs.process_batch import ProcessEpisodes

SEEDS = [7, 8, 9, 10]  # the fault strikes under the last one
PLACE = r"^member 3 \(seed 10\), step 2: "


def play(batch, steps: int = 2, seeds=SEEDS) -> None:
    batch.reset(seeds)
    for _ in range(steps):
        batch.step(np.zeros(len(seeds), np.int64))


def in_processes(timeout_seconds: float = 60.0, **kwargs) -> ProcessEpisodes:
    make = partial(FaultyEnv, at_seed=10, **kwargs)
    return ProcessEpisodes(make, workers=2, timeout_seconds=timeout_seconds)


def pids(batch: ProcessEpisodes) -> list[int]:
    assert batch._crew is not None
    return [int(worker.process.pid or 0) for worker in batch._crew.workers]


@pytest.mark.parametrize(("space", "obs", "kind", "text"), OBSERVATIONS)
def test_a_wrong_observation_stops_there(space, obs, kind, text: str) -> None:
    batch = GymEpisodes(partial(FaultyEnv, space=space, fault=("observation", obs), at_seed=10))
    with pytest.raises(kind, match=PLACE + "observation: .*" + text):
        play(batch)
    first = partial(FaultyEnv, space=space, fault=("observation", obs), at_seed=10, at_step=0)
    with pytest.raises(kind, match=PLACE.replace("step 2", "step 0") + "observation: .*" + text):
        play(GymEpisodes(first))


@pytest.mark.parametrize(("reward", "kind", "text"), REWARDS)
def test_a_wrong_reward_stops_there(reward, kind, text: str) -> None:
    with pytest.raises(kind, match=PLACE + text):
        play(GymEpisodes(partial(FaultyEnv, fault=("reward", reward), at_seed=10)))


@pytest.mark.parametrize(("fault", "text"), RAISED)
@pytest.mark.parametrize("at_step", [0, 2])
def test_whatever_an_env_raises_is_named(fault: str, text: str, at_step: int) -> None:
    make = partial(FaultyEnv, fault=fault, at_seed=10, at_step=at_step)
    place = PLACE if at_step else PLACE.replace("step 2", "step 0") + "reset: "
    with pytest.raises(EnvError, match=f"{place}{text}$"):
        play(GymEpisodes(make))


def test_an_interrupt_passes() -> None:
    for at_step in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            play(GymEpisodes(partial(FaultyEnv, fault="interrupt", at_seed=10, at_step=at_step)))
    for place in ("make", "close"):
        with pytest.raises(KeyboardInterrupt):
            GymEpisodes(partial(MadeWrong, place, "interrupt", always=True)).close()


@pytest.mark.parametrize("value", NO_FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_a_wrong_flag_stops_there(name: str, value: object) -> None:
    with pytest.raises(EnvError, match=PLACE + f"{name}: got .*, expected a bool"):
        play(GymEpisodes(partial(FaultyEnv, fault=(name, value), at_seed=10)))


@pytest.mark.parametrize(("fault", "text"), RAISED)
def test_a_constructor_and_close_are_named(fault: str, text: str) -> None:
    MadeWrong.made = 0
    with pytest.raises(EnvError, match=f"^member 2 cannot be made: {text}$"):
        play(GymEpisodes(partial(MadeWrong, "make", fault, 3)))
    MadeWrong.made = 0
    batch = GymEpisodes(partial(MadeWrong, "close", fault, 3))
    play(batch)
    with pytest.raises(EnvError, match=f"^member 2: close: {text}$"):
        batch.close()


def test_close_says_what_went_wrong_in_a_worker() -> None:
    batch = ProcessEpisodes(partial(MadeWrong, "close", "raise", 2), workers=2)
    play(batch)
    workers = pids(batch)
    with pytest.raises(EnvError, match=r"^member 1: close: ZeroDivisionError: not my day\n"):
        batch.close()
    assert not any(map(alive, workers))


def test_a_wrong_action_stops_there() -> None:
    batch = GymEpisodes(FaultyEnv)
    batch.reset([1, 2])
    with pytest.raises(EnvError, match=r"^member 1 \(seed 2\), step 1: action: got 4, expected"):
        batch.step(np.array([3, 4]))
    thrust = spaces.Box(-1, 1, (1,), np.float32)
    batch = GymEpisodes(partial(FaultyEnv, action_space=thrust))
    batch.reset([1, 2])
    with pytest.raises(EnvError, match=r"^member 0 \(seed 1\), step 1: action: .*1.5"):
        batch.step(np.array([[1.5], [0.0]], np.float32))


@pytest.mark.parametrize(("fault", "text"), WORKER_FAULTS)
def test_a_failing_worker_is_named_and_none_is_left(
    fault: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("core.workers", "envs.process"):  # who waits for a stuck worker waits for ever
        monkeypatch.setattr(f"rlzoo.{module}.LEAVE_SECONDS", 10_000.0)
    batch = in_processes(timeout_seconds=0.5 if fault == "hang" else 60.0, fault=fault)
    play(batch, 1)
    workers = pids(batch)
    assert len(workers) == 2 and all(map(alive, workers))
    with pytest.raises(EnvError, match=PLACE + text):
        batch.step(np.zeros(4, np.int64))
    assert not any(map(alive, workers))
    with pytest.raises(EnvError, match="already closed"):
        batch.step(np.zeros(4, np.int64))


def test_who_dies_at_the_start_of_an_episode_is_named() -> None:
    batch = in_processes(fault="die", at_step=0)
    play(batch, 2, SEEDS[:3])
    with pytest.raises(EnvError, match=r"^member 3 \(seed 10\), step 0: the worker process died"):
        batch.reset(SEEDS)


def test_a_worker_that_dies_as_it_starts_is_named() -> None:
    with pytest.raises(EnvError, match=r"^member 0 cannot be made: the worker process died"):
        ProcessEpisodes(DiesInWorkers, workers=1)
    batch = ProcessEpisodes(partial(MadeWrong, "make", "die", 2), workers=2)
    with pytest.raises(EnvError, match=r"^member 1 \(seed 8\), step 0: the worker process died"):
        batch.reset(SEEDS)


def test_a_worker_without_members_that_dies_is_found() -> None:
    batch = in_processes()
    play(batch)
    batch.reset(SEEDS[:2])
    os.kill(pids(batch)[1], signal.SIGKILL)
    with pytest.raises(EnvError, match=r"^member 1 \(seed 8\), .*the worker process died"):
        play(batch, seeds=SEEDS[:2])


def test_an_error_in_a_worker_keeps_its_kind_and_its_traceback() -> None:
    with pytest.raises(NonFiniteError, match=PLACE + "reward: got nan") as caught:
        play(in_processes(fault=("reward", float("nan"))))
    assert "batch.py" in "".join(caught.value.__notes__)


def test_close_leaves_nothing_and_can_be_repeated() -> None:
    batch = in_processes()
    batch.close()
    play(batch)
    few = pids(batch)
    play(batch, seeds=range(6))  # more than there was room for
    workers = pids(batch)
    assert_gone(few)
    batch.close()
    batch.close()
    assert not any(map(alive, workers))


# World Models -------------------------------------------------------------------------------------


class FaultyLamp(lamp.Lamp):
    """A lamp that fails in the `at`-th step that this process takes."""

    taken = 0

    def __init__(self, render_mode: str | None = None, fault: str = "none", at: int = 0) -> None:
        super().__init__(render_mode)
        self.fault, self.at = fault, at

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        FaultyLamp.taken += 1
        if FaultyLamp.taken == self.at:
            FaultyEnv(fault=self.fault, at_seed=0, at_step=0).reset(seed=0)
        return super().step(action)


gymnasium.register("FaultyLamp-v0", entry_point=FaultyLamp, max_episode_steps=9)
FAULTY = [
    *["algo=world_models", "env=gym", "env.id=test_episode_faults:FaultyLamp-v0", "debug=tiny"],
    *["total_env_steps=9999", "run_dir=run", "env.num_envs=2", "env.restore=replay"],
]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("raise", "ZeroDivisionError: not my day"),
        ("die", "died (exit code -9)"),
        ("hang", "within"),
    ],
)
def test_collection_over_processes_says_which_env_failed(tmp_path, fault: str, code: str) -> None:
    words = [*FAULTY, "env.backend=process", "env.workers=2", "env.timeout_seconds=1"]
    words += [f"env.kwargs={{fault: {fault}, at: 12}}", "algo.phases=[collect]"]
    command = Command(tmp_path, *words)
    assert command.wait() == 70
    last = command.output().splitlines()[-1]
    assert last.startswith("rlzoo: error: member ") and "(seed " in last and code in last
    assert (tmp_path / "run" / "status.json").exists()
