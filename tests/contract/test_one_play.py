"""The return of (policy, seed) depends on nothing else: not on the verb, not on what plays beside.

Over all registered algorithms, with policies that have learnt something: those of a new network
are so flat that a rounding changes no action.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from lamp import small_vision
from test_algorithms import ALGORITHMS, start, tiny

from rlzoo.core.algorithm import Memory, Policy
from rlzoo.core.seeding import TEST, episode_seed
from rlzoo.demonstrations.recording import record
from rlzoo.envs.make import EnvConfig, make_env
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import evaluate, film_episode
from rlzoo.run.saved import SavedRun

EPISODES = 4
CASES = [*((name, ()) for name in ALGORITHMS), ("ppo", ("env=lunarlander_continuous",))]


@pytest.fixture(autouse=True, scope="module")
def fast() -> Iterator[None]:
    with small_vision():
        yield


def returns(policy: Policy, config: RunConfig, num_envs: int) -> list[float]:
    result = evaluate(
        policy,
        config.env,
        episodes=EPISODES,
        num_envs=num_envs,
        run_seed=config.seed,
        purpose=TEST,
    )
    return list(result.returns)


@pytest.mark.parametrize(("algo", "extra"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_every_way_to_play_has_the_same_returns(
    algo: str, extra: tuple[str, ...], tmp_path: Path
) -> None:
    start(tiny(algo, extra), tmp_path / "run")
    run = SavedRun(tmp_path / "run", checkpoint="last")
    config, policy = run.config(), run.algorithm().policy
    assert policy is not None
    wanted = returns(policy, config, 1)
    assert returns(policy, config, 3) == wanted
    assert returns(policy, config, 8) == wanted
    assert in_plain_gymnasium(run, config) == wanted
    for index in (0, EPISODES - 1):
        try:
            film = film_episode(
                policy, config.env, run_seed=config.seed, purpose=TEST, episode_index=index
            )
        except ValueError as error:
            assert "cannot draw itself" in str(error)
            continue
        assert film[2] == wanted[index]


def in_plain_gymnasium(run: SavedRun, config: RunConfig) -> list[float]:
    """As a user's program would play, one observation at a time."""
    policy, found = run.policy(), []
    for index in range(EPISODES):
        env = run.make_env()
        if config.env.restore == "settle":
            env.reset(seed=0)
        obs, _ = env.reset(seed=episode_seed(config.seed, TEST, 0, index))
        policy.reset()
        return_, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            return_, over = return_ + float(reward), terminated or truncated
        env.close()
        found.append(return_)
    return found


@pytest.mark.parametrize("algo", ["ppo", "q_learning", "world_models"])
def test_recorded_demonstrations_are_the_episodes_that_an_evaluation_would_play(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tiny(algo), tmp_path / "run")
    run = SavedRun(tmp_path / "run", checkpoint="last")
    config, policy = run.config(), run.algorithm().policy
    assert policy is not None
    # Demonstrations have seeds of their own; here, those of the test.
    monkeypatch.setattr("rlzoo.demonstrations.recording.TRAIN", TEST)
    monkeypatch.setattr("rlzoo.demonstrations.recording.derive_seed", lambda seed, _: seed)
    recorded = record(policy, config.env, episodes=EPISODES, seed=config.seed, source="")
    assert recorded.returns.tolist() == pytest.approx(returns(policy, config, 8), rel=1e-12)


class RowsMatter:
    """Acts by how many are asked at once, and by the place: what rounding does, only more of it."""

    def initial(self, num_envs: int) -> Memory:
        return ()

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        return (np.arange(len(obs_B)) + len(obs_B)) % 2, memory


def test_a_policy_whose_batches_matter_is_none_the_worse() -> None:
    cartpole = EnvConfig(id="CartPole-v1", restore="replay")
    play = partial(evaluate, RowsMatter(), cartpole, episodes=EPISODES, run_seed=0, purpose=TEST)
    assert play(num_envs=1) == play(num_envs=2) == play(num_envs=8)


def test_envs_that_draw_themselves_play_the_same() -> None:
    """The film's env has another render mode: nothing of the episode may depend on it."""
    config = EnvConfig(id="CartPole-v1", restore="replay")
    plain, drawn = make_env(config), make_env(config, render_mode="rgb_array")
    for env in (plain, drawn):
        env.reset(seed=3)
    assert np.array_equal(plain.step(1)[0], drawn.step(1)[0])
