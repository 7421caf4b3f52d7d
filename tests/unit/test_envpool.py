"""EnvPool as a vector env of ours, and as a batch of single episodes."""

from __future__ import annotations

import json
import os
import sys
import types
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

pytest.importorskip("envpool")

import rlzoo
from rlzoo.core.seeding import SELECT, TRAIN, episode_seed
from rlzoo.core.types import DataError, EnvError, NonFiniteError, UsageError
from rlzoo.envs.batch import GymEpisodes
from rlzoo.envs.envpool import EnvPoolEpisodes, EnvPoolVectorEnv, make_pool, probe_pool
from rlzoo.envs.make import EnvConfig, make_episode_batch, make_vector
from rlzoo.envs.process_batch import ProcessEpisodes
from rlzoo.run.strict import read

CAR = partial(make_pool, "CarRacing-v3", threads=1, max_episode_steps=7)
POLE = partial(make_pool, "CartPole-v1", threads=1)
RUN_SEED = 3


def vector(make=CAR, num_envs: int = 3, kind: type = EnvPoolVectorEnv, **kwargs):
    return kind(make, num_envs=num_envs, run_seed=RUN_SEED, purpose=TRAIN, **kwargs)


def actions_of(space: gymnasium.Space, num_envs: int, steps: int) -> list[np.ndarray]:
    space.seed(0)
    return [np.stack([space.sample() for _ in range(num_envs)]) for _ in range(steps)]


# --- the vector env -------------------------------------------------------------------------------


def one_by_one(make, env: int, actions: list[np.ndarray]) -> list[tuple]:
    """What env number `env` shows, from a pool of its own that is reset by hand."""
    pool = make([episode_seed(RUN_SEED, TRAIN, env, 0)])
    obs, _ = pool.reset()
    seen = []
    for action_B in actions:
        next_obs, reward, terminated, truncated, _ = pool.step(action_B[env : env + 1])
        before, obs = obs, next_obs
        if terminated[0] or truncated[0]:
            obs, _ = pool.reset()
        ends = (bool(terminated[0]), bool(truncated[0]))
        seen.append((before[0].tobytes(), next_obs[0].tobytes(), float(reward[0]), *ends))
    return seen


def collected(envs: EnvPoolVectorEnv, actions: list[np.ndarray]) -> list[list[tuple]]:
    seen: list[list[tuple]] = [[] for _ in range(envs.num_envs)]
    for action_B in actions:
        obs_B = envs.obs_B
        step = envs.step(action_B)
        next_obs_B, *rest = step
        assert step.reward_B.dtype == np.float64
        for i in range(envs.num_envs):
            numbers = tuple(values_B[i].item() for values_B in rest)
            seen[i].append((obs_B[i].tobytes(), next_obs_B[i].tobytes(), *numbers))
    return seen


class LeftToItself(EnvPoolVectorEnv):
    """Lets EnvPool restart ended episodes in a step of their own."""

    def _begin_next(self, envs: np.ndarray) -> None:
        self._episode_B[envs] += 1


class FirstObservationOfTheNext(EnvPoolVectorEnv):
    def step(self, action_B: np.ndarray):
        return super().step(action_B)._replace(next_obs_B=self.obs_B)


@pytest.mark.parametrize(("make", "steps"), [(CAR, 24), (POLE, 120)])
def test_it_equals_envs_that_are_reset_by_hand(make, steps: int) -> None:
    envs = vector(make)
    actions = actions_of(envs.action_space, 3, steps)
    expected = [one_by_one(make, i, actions) for i in range(3)]
    assert collected(envs, actions) == expected
    ends = [end[3:] for seen in expected for end in seen]
    assert (True, False) in ends or (False, True) in ends
    for broken in (LeftToItself, FirstObservationOfTheNext):
        assert collected(vector(make, kind=broken), actions) != expected


def test_leaving_the_playfield_terminates_and_the_time_limit_truncates() -> None:
    envs = vector(partial(make_pool, "CarRacing-v3", threads=1), num_envs=1)
    for _ in range(400):
        step = envs.step(np.array([[0, 0.5, 0]], np.float32))
        if step.terminated_B[0]:
            break
    assert step.terminated_B[0] and not step.truncated_B[0] and step.reward_B[0] == -100
    envs = vector(num_envs=1)
    ends = [envs.step(np.zeros((1, 3), np.float32)) for _ in range(7)]
    assert [(bool(s.terminated_B[0]), bool(s.truncated_B[0])) for s in ends[-1:]] == [(False, True)]


def test_envs_and_purposes_have_tracks_of_their_own() -> None:
    first_B = vector().obs_B
    assert len({obs.tobytes() for obs in first_B}) == 3
    other = EnvPoolVectorEnv(CAR, num_envs=3, run_seed=RUN_SEED, purpose=SELECT)
    assert not {obs.tobytes() for obs in other.obs_B} & {obs.tobytes() for obs in first_B}


def through_json(state):
    if isinstance(state, dict):
        return {key: through_json(value) for key, value in state.items()}
    return state.copy() if isinstance(state, np.ndarray) else json.loads(json.dumps(state))


@pytest.mark.parametrize(("make", "steps"), [(CAR, 0), (CAR, 17), (POLE, 60)])
def test_resume_is_exact(make, steps: int) -> None:
    straight, resumed = vector(make), vector(make)
    actions = actions_of(straight.action_space, 3, steps + 30)
    collected(straight, actions[:steps])
    state = straight.state()
    expected = collected(straight, actions[steps:])
    collected(resumed, actions[:5])
    resumed.load(through_json(state))
    assert collected(resumed, actions[steps:]) == expected
    assert resumed.resume_exact


@pytest.mark.parametrize("fault", ["another observation", "restart"])
def test_what_cannot_be_repeated_starts_anew_and_says_so(fault: str) -> None:
    straight = vector()
    actions = actions_of(straight.action_space, 3, 17)
    collected(straight, actions)
    state = straight.state()
    if fault == "another observation":
        state["1"]["obs"][5, 5] ^= 1
    resumed = vector(restore="restart" if fault == "restart" else "replay")
    assert resumed.resume_exact
    resumed.load(state)
    assert not resumed.resume_exact
    assert [s["episode"] for s in resumed.state().values()] == [2, 2, 2]
    assert [len(s["actions"]) for s in resumed.state().values()] == [0, 0, 0]
    assert resumed.obs_B.tobytes() != vector().obs_B.tobytes()  # not the first tracks again
    again = vector()
    again.load(resumed.state())
    assert again.obs_B.tobytes() == resumed.obs_B.tobytes() and not again.resume_exact
    with pytest.raises(DataError, match="got 3 envs, expected 2"):
        vector(num_envs=2).load(state)


def test_the_restore_class_is_found_by_experiment() -> None:
    assert probe_pool(partial(make_pool, "CarRacing-v3"), 0) == "replay"
    slippery = partial(make_pool, "FrozenLake-v1")  # draws in its steps what resets draw from
    assert probe_pool(slippery, 0) == "restart"


# --- faults ---------------------------------------------------------------------------------------


class Broken:
    """A pool whose next step shows something wrong."""

    def __init__(self, pool, **faults) -> None:
        self.pool, self.faults = pool, faults

    def step(self, *arguments):
        obs, reward, *rest = self.pool.step(*arguments)
        if "reward" in self.faults:
            reward[1] = self.faults["reward"]
        if "obs" in self.faults:
            obs[2, 0] = self.faults["obs"]
        return obs, reward, *rest


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"reward": np.nan}, r"^env 1, episode 0 \(seed \d+\), step 1: reward: got nan"),
        ({"obs": np.inf}, r"^env 2, episode 0 \(seed \d+\), step 1: observation: got inf"),
    ],
)
def test_numbers_that_are_none_stop_with_their_place(faults: dict, expected: str) -> None:
    envs = vector(POLE)
    envs._pool = Broken(envs._pool, **faults)
    with pytest.raises(NonFiniteError, match=expected):
        envs.step(np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("make", "action_B", "expected"),
    [
        (CAR, np.array([[0, 0, 0], [0, 0, 0], [0, 2, 0]], np.float32), "env 2, episode 0"),
        (CAR, np.array([[0, 0, 0], [np.nan, 0, 0], [0, 0, 0]], np.float32), "got nan"),
        (CAR, np.zeros((3, 2), np.float32), r"actions: got float32 \(3, 2\)"),
        (POLE, np.array([0, 1, 2]), "env 2, .*action: got 2, expected an integer from 0 to 1"),
    ],
)
def test_impossible_actions_are_refused(make, action_B: np.ndarray, expected: str) -> None:
    with pytest.raises(EnvError, match=expected):
        vector(make).step(action_B)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"envpool_id": "CarRacin-v3"}, "Did you mean 'CarRacing-v3'"),
        ({"kwargs": {"no_such": 1}}, "no_such"),
        ({"id": "CartPole-v1"}, r"has Box\(0, 255, .*, expected Box\(.* as in CartPole-v1"),
    ],
)
def test_mistakes_are_one_line(changes: dict, expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as caught:
        make_vector(preset(**changes), run_seed=0)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match=r"env.backend=envpool needs the package envpool"):
        make_vector(preset(), run_seed=0)


def preset(**changes) -> EnvConfig:
    path = Path(rlzoo.__file__).parents[1] / "conf" / "env" / "car_racing_envpool.yaml"
    return read(EnvConfig, yaml.safe_load(path.read_text()) | changes, "env")


def test_the_preset(recwarn) -> None:
    config = preset(num_envs=2, restore="auto")
    envs = make_vector(config, run_seed=0)
    assert isinstance(envs, EnvPoolVectorEnv) and envs._restore == "replay"
    assert envs.obs_B.shape == (2, 96, 96, 3)
    assert preset().restore == "replay"
    assert not [w for w in recwarn if "precision" in str(w.message)]
    envs.close()


# --- one episode for each member ------------------------------------------------------------------


class Counting(gymnasium.Env):
    """An episode of `seed` steps; shows how many were taken, which is also the reward."""

    observation_space = gymnasium.spaces.Box(0, 99, (1,), np.int64)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.length, self.steps = seed, 0
        return np.array([0]), {}

    def step(self, action):
        self.steps += 1
        assert self.steps <= self.length, "stepped after its end"
        even = self.length % 2 == 0
        over = self.steps == self.length
        return np.array([self.steps]), self.steps, over and even, over and not even, {}


@pytest.mark.parametrize("kind", [GymEpisodes, partial(ProcessEpisodes, workers=3)])
def test_each_member_plays_one_episode_and_rests(kind) -> None:
    batch = kind(Counting)
    lengths = np.array([2, 3, 5, 4])
    for seeds in (lengths, lengths[:2]):
        assert batch.reset(seeds.tolist()).tolist() == [[0]] * len(seeds) and batch.alive_B.all()
        batch.alive_B[2:3] = False  # taken out at once: the rest of its episode is not played
        stopped = np.arange(len(seeds)) == 2
        for t in range(1, 7):
            step = batch.step(np.zeros(len(seeds), np.int64))
            plays = (t <= seeds) & ~stopped
            assert step.reward_B.tolist() == (t * plays).tolist()
            assert step.next_obs_B[:, 0].tolist() == (np.minimum(t, seeds) * ~stopped).tolist()
            assert step.terminated_B.tolist() == (plays & (t == seeds) & (seeds % 2 == 0)).tolist()
            assert step.truncated_B.tolist() == (plays & (t == seeds) & (seeds % 2 == 1)).tolist()
            assert batch.alive_B.tolist() == ((t < seeds) & ~stopped).tolist()
    batch.close()


def test_a_member_that_fails_is_named() -> None:
    batch = GymEpisodes(Counting)
    batch.reset([3, 1])
    batch.step(np.zeros(2, np.int64))
    batch.alive_B[1] = True
    expected = r"^member 1 \(seed 1\), step 2: AssertionError: stepped after"
    with pytest.raises(EnvError, match=expected):
        batch.step(np.zeros(2, np.int64))


def test_a_member_that_cannot_begin_is_named(monkeypatch) -> None:
    batch = GymEpisodes(Counting)
    monkeypatch.setattr(Counting, "reset", lambda self, seed: 1 // 0)
    with pytest.raises(EnvError, match=r"^member 0 \(seed 3\), step 0: ZeroDivisionError"):
        batch.reset([3, 1])


def test_members_in_envpool_do_not_see_each_other() -> None:
    """Poles fall at different times: each member's episode is what it is alone."""
    seeds, steps = [5, 5, 6, 7, 8], 60
    batch = EnvPoolEpisodes(POLE)
    actions = actions_of(batch.action_space, len(seeds), steps)

    def play(seeds: list[int], columns: list[int]) -> list[list]:
        shown = [batch.reset(seeds).tolist()]
        for action_B in actions:
            step = batch.step(action_B[columns])
            shown.append([[a[i].tolist() for a in step] for i in range(len(seeds))])
            shown.append(batch.alive_B.tolist())
        return [[row[i] for row in shown] for i in range(len(seeds))]

    together = play(seeds, [0, 0, 2, 3, 4])
    assert together[0] == together[1]  # one seed is one track
    assert {len(member) for member in together} == {1 + 2 * steps}
    ends = [member[2::2].index(False) for member in together]
    assert len(set(ends)) > 2
    for i, column in enumerate([0, 0, 2, 3, 4]):
        assert play([seeds[i]], [column])[0] == together[i]
        after = together[i][1 + 2 * (ends[i] + 1) :: 2]
        assert all(row[1:] == [0.0, False, False] for row in after)
        assert all(row[0] == after[0][0] for row in after)
    assert not batch.alive_B.any() and batch.step(actions[0][:1]).reward_B.tolist() == [0.0]


def test_a_reward_that_is_no_number_stops_there(monkeypatch) -> None:
    batch = EnvPoolEpisodes(POLE)
    batch.reset([5, 6])
    step = batch._pool.step

    def lies(action_B, alive):
        outcome = list(step(action_B, alive))
        outcome[1] = np.array([1.0, np.nan])
        return tuple(outcome)

    monkeypatch.setattr(batch, "_pool", types.SimpleNamespace(step=lies))
    with pytest.raises(NonFiniteError, match=r"^member 1 \(seed 6\), step 1: reward: got nan"):
        batch.step(np.zeros(2, np.int64))


def test_the_same_track_for_a_whole_population() -> None:
    batch = make_episode_batch(preset())
    assert isinstance(batch, EnvPoolEpisodes)
    first_B = batch.reset([11] * 4).copy()
    assert (first_B == first_B[0]).all()
    assert (batch.reset([12] * 4) != first_B).any()
    gym = make_episode_batch(EnvConfig(id="CartPole-v1"))
    assert isinstance(gym, GymEpisodes)
    apart = make_episode_batch(EnvConfig(id="CartPole-v1", backend="process", workers=2))
    assert isinstance(apart, ProcessEpisodes)
    assert (apart.reset([11, 12, 13]) == gym.reset([11, 12, 13])).all()
    apart.close()
    assert (gym.reset([11] * 2)[0] == gym.reset([11])[0]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_of_old_pools_end() -> None:
    batch = EnvPoolEpisodes(partial(make_pool, "CartPole-v1", threads=4))

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    batch.reset(range(8))
    before = threads()
    for _ in range(10):
        batch.reset(range(8))
    assert threads() <= before + 5
