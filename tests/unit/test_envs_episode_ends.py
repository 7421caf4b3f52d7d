"""True next observations, masks, seeds and resume, on an env whose episodes are known by heart.

A CountingEnv shows (seed, steps so far), and the seed alone decides how long an episode is and how
it ends, so that every number a vector env hands out can be computed without it.
"""

from __future__ import annotations

import json
from functools import partial

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.core.seeding import TRAIN, episode_seed
from rlzoo.core.types import DataError, Step
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.process import ProcessVectorEnv
from rlzoo.envs.sync import SyncVectorEnv

TERMINATED, TRUNCATED = 1, 2


def plan(seed: int, longest: int) -> tuple[int, int]:
    """Length of an episode, and how it ends: terminated, truncated, or both at once."""
    return 1 + seed % longest, 1 + seed // longest % 3


class CountingEnv(gymnasium.Env):
    action_space = gymnasium.spaces.Discrete(3)
    observation_space = gymnasium.spaces.Box(0, 2**40, (2,), np.int64)

    def __init__(self, longest: int = 5) -> None:
        self.longest = longest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps, self.sum = seed, 0, 0
        self.shown = np.zeros(2, dtype=np.int64)  # one array for all observations, as some envs do
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        self.sum += action
        length, end = plan(self.seed, self.longest)
        over = self.steps == length
        reward = self.sum + self.steps / 4
        return (
            self._observation(),
            reward,
            over and end != TRUNCATED,
            over and end != TERMINATED,
            {},
        )

    def _observation(self):
        self.shown[:] = self.seed, self.steps
        return self.shown


def sync(run_seed: int, num_envs: int, longest: int = 5, kind: type = SyncVectorEnv):
    make = partial(CountingEnv, longest)
    return kind(
        [EpisodeEnv(make, run_seed=run_seed, purpose=TRAIN, env_index=i) for i in range(num_envs)]
    )


def process(
    run_seed: int, num_envs: int, longest: int = 5, workers: int = 2, restore: str = "replay"
):
    return ProcessVectorEnv(
        partial(CountingEnv, longest),
        num_envs=num_envs,
        run_seed=run_seed,
        purpose=TRAIN,
        workers=workers,
        restore=restore,
    )


def assert_counts_right(vector, run_seed: int, longest: int, steps: int) -> None:
    """Every number of `steps` steps is what arithmetic says."""
    num_envs = vector.num_envs
    rng = np.random.Generator(np.random.PCG64(run_seed))
    episode, t, total = [0] * num_envs, [0] * num_envs, [0] * num_envs
    for _ in range(steps):
        obs_B = vector.obs_B
        seeds = [episode_seed(run_seed, TRAIN, i, episode[i]) for i in range(num_envs)]
        assert obs_B.tolist() == [[seeds[i], t[i]] for i in range(num_envs)]
        action_B = rng.integers(3, size=num_envs)
        step = vector.step(action_B)
        assert obs_B.tolist() == [[seeds[i], t[i]] for i in range(num_envs)], "written over"
        for i in range(num_envs):
            t[i] += 1
            total[i] += int(action_B[i])
            length, end = plan(seeds[i], longest)
            over = t[i] == length
            assert step.next_obs_B[i].tolist() == [seeds[i], t[i]]
            assert step.reward_B[i] == total[i] + t[i] / 4
            assert step.terminated_B[i] == (over and end != TRUNCATED)
            assert step.truncated_B[i] == (over and end != TERMINATED)
            if over:
                episode[i], t[i], total[i] = episode[i] + 1, 0, 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(1, 6), st.integers(1, 30))
def test_sync(run_seed: int, num_envs: int, longest: int, steps: int) -> None:
    assert_counts_right(sync(run_seed, num_envs, longest), run_seed, longest, steps)


@pytest.mark.parametrize(("num_envs", "workers", "longest"), [(5, 2, 4), (1, 1, 1)])
def test_process(num_envs: int, workers: int, longest: int) -> None:
    vector = process(7, num_envs, longest, workers)
    try:
        assert_counts_right(vector, 7, longest, 60)
    finally:
        vector.close()


def test_all_kinds_of_ends_occur() -> None:
    plans = [plan(episode_seed(7, TRAIN, i, e), 4) for i in range(5) for e in range(10)]
    assert {length for length, _ in plans} == {1, 2, 3, 4}
    assert {end for _, end in plans} == {1, 2, 3}


class FirstObservationOfTheNext(SyncVectorEnv):
    def step(self, action_B):
        return super().step(action_B)._replace(next_obs_B=self.obs_B)


class MergedEnds(SyncVectorEnv):
    def step(self, action_B):
        step = super().step(action_B)
        return step._replace(terminated_B=step.terminated_B | step.truncated_B)


class OneSeed(SyncVectorEnv):
    def step(self, action_B):
        step = super().step(action_B)
        for member in self.members:
            if member.length == 0:
                member.begin(0)
        return step


class ReusedObservations(SyncVectorEnv):
    def step(self, action_B):
        held_B = self.obs_B
        step = super().step(action_B)
        held_B[:] = self.obs_B
        self.obs_B = held_B
        return step


@pytest.mark.parametrize(
    "broken", [FirstObservationOfTheNext, MergedEnds, OneSeed, ReusedObservations]
)
def test_the_check_finds_planted_faults(broken: type) -> None:
    with pytest.raises(AssertionError):
        assert_counts_right(sync(7, 5, 4, broken), 7, 4, 60)


def play(vector, steps: int) -> list[list]:
    """What is seen; the actions depend on the observations."""
    seen = []
    for _ in range(steps):
        step: Step = vector.step(vector.obs_B.sum(axis=1) % 3)
        seen.append([a.tolist() for a in step] + [vector.obs_B.tolist()])
    return seen


def through_json(state):
    """A state as it comes back from a checkpoint: arrays as arrays, the rest through JSON."""
    if isinstance(state, dict):
        return {key: through_json(value) for key, value in state.items()}
    return state.copy() if isinstance(state, np.ndarray) else json.loads(json.dumps(state))


@pytest.mark.parametrize(
    ("first", "second", "steps"),
    [(sync, sync, 0), (sync, sync, 17), (sync, process, 17), (process, sync, 17)],
)
def test_resume_is_exact_with_either_backend(first, second, steps: int) -> None:
    straight, resumed = first(3, 3, 9), second(3, 3, 9)
    try:
        play(straight, steps)
        state, obs_B = straight.state(), straight.obs_B.tolist()
        expected = play(straight, 25)
        play(resumed, 5)
        resumed.load(through_json(state))
        assert resumed.obs_B.tolist() == obs_B
        assert play(resumed, 25) == expected
        assert resumed.resume_exact
    finally:
        straight.close()
        resumed.close()


def test_a_worker_tells_that_a_resume_was_not_exact() -> None:
    vector = process(0, 2, workers=1, restore="restart")
    assert vector.resume_exact
    vector.load(sync(0, 2).state())
    assert not vector.resume_exact
    vector.close()


def test_a_state_of_another_number_of_envs_is_refused() -> None:
    with pytest.raises(DataError, match="got 3 envs, expected 2"):
        sync(0, 2).load(sync(0, 3).state())


def test_without_auto_reset_an_end_stays_an_end() -> None:
    env = EpisodeEnv(CountingEnv, run_seed=0, purpose=TRAIN, env_index=0, auto_reset=False)
    env.begin(4)
    seed = episode_seed(0, TRAIN, 0, 4)
    length, _ = plan(seed, 5)
    for t in range(length):
        assert not env.over
        next_obs, _, terminated, truncated = env.step(1)
        assert next_obs.tolist() == env.obs.tolist() == [seed, t + 1]
    assert env.over and (terminated or truncated) and env.length == length
    with pytest.raises(AssertionError):
        env.step(1)
    env.begin(0)
    assert env.obs.tolist() == [episode_seed(0, TRAIN, 0, 0), 0]
