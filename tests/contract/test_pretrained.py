"""The trained agents in outputs/pretrained/ are read and act with the code of today."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlzoo.core.seeding import TEST
from rlzoo.run.build import find_checkpoint, load_policy, open_run
from rlzoo.run.evaluate import Greedy, evaluate

PRETRAINED = Path(__file__).parents[2] / "outputs" / "pretrained"
AGENTS = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())


def test_there_are_agents() -> None:
    assert {"dqn_mountaincar", "gail_mountaincar", "car_racing_world_models_best"} <= set(AGENTS)


@pytest.mark.parametrize("name", AGENTS)
def test_a_trained_agent_acts(name: str) -> None:
    directory, config = open_run(str(PRETRAINED / name))
    policy = load_policy(config, find_checkpoint(directory, "best")[1])
    [action] = Greedy(policy)([0], np.stack([policy.env.obs_B[0]]))
    assert action in policy.env.action_space
    policy.env.close()


@pytest.mark.parametrize("name", ["dqn_mountaincar", "gail_mountaincar"])
def test_it_reaches_the_flag(name: str) -> None:
    """MountainCar ends at -200 for who does not; the record says about -100."""
    directory, config = open_run(str(PRETRAINED / name))
    policy = load_policy(config, find_checkpoint(directory, "best")[1])
    result = evaluate(policy, config.env, episodes=10, num_envs=10, run_seed=0, purpose=TEST)
    policy.env.close()
    assert result.mean > -120
