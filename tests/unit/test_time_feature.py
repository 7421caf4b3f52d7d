"""env.time_feature: the elapsed part of the time limit as the last feature."""

from __future__ import annotations

import numpy as np
import pytest

from rlzoo.core.types import UsageError
from rlzoo.envs.make import EnvConfig, make_env


def test_the_last_feature_is_the_elapsed_part_of_the_limit() -> None:
    plain = make_env(EnvConfig(id="CartPole-v1", max_episode_steps=4))
    timed = make_env(EnvConfig(id="CartPole-v1", max_episode_steps=4, time_feature=True))
    assert timed.observation_space.shape == (5,)
    for episode in range(2):  # a reset sets it back
        obs = [plain.reset(seed=episode)[0]]
        seen = [timed.reset(seed=episode)[0]]
        for _ in range(4):
            obs.append(plain.step(0)[0])
            seen.append(timed.step(0)[0])
        assert np.array_equal([o[:4] for o in seen], obs)
        assert [float(o[4]) for o in seen] == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert all(o.dtype == np.float32 for o in seen)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"id": "FrozenLake-v1"}, "expected a vector of features"),
        ({"id": "rlzoo.envs.zoo.car_racing:CarRacingFast-v3"}, "expected a vector of features"),
    ],
)
def test_other_observations_are_refused(settings: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        make_env(EnvConfig(**settings, time_feature=True))


def test_envpool_has_none() -> None:
    with pytest.raises(UsageError, match=r"time_feature=true: not with env\.backend=envpool"):
        EnvConfig(id="CartPole-v1", time_feature=True, backend="envpool").check()
