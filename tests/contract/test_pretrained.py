"""The trained agents in outputs/pretrained/ are read and act with the code of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlzoo.core.seeding import TEST
from rlzoo.run.build import close
from rlzoo.run.evaluate import evaluate
from rlzoo.run.saved import SavedRun

PRETRAINED = Path(__file__).parents[2] / "outputs" / "pretrained"
AGENTS = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())


def test_there_are_agents() -> None:
    assert {"dqn_mountaincar", "gail_mountaincar", "world_models_car_racing"} <= set(AGENTS)


@pytest.mark.parametrize("name", AGENTS)
def test_a_trained_agent_acts(name: str) -> None:
    algorithm = SavedRun(PRETRAINED / name).algorithm()
    policy = algorithm.policy
    assert policy is not None
    [action], _ = policy.act(algorithm.env.obs_B, policy.initial(1), explore=False)
    assert action in algorithm.env.action_space
    close(algorithm)


@pytest.mark.parametrize("name", ["dqn_mountaincar", "gail_mountaincar"])
def test_it_reaches_the_flag(name: str) -> None:
    """MountainCar ends at -200 for who does not; the record says about -100."""
    run = SavedRun(PRETRAINED / name)
    algorithm = run.algorithm()
    assert algorithm.policy is not None
    result = evaluate(
        algorithm.policy, run.config().env, episodes=10, num_envs=10, run_seed=0, purpose=TEST
    )
    close(algorithm)
    assert result.mean > -120
