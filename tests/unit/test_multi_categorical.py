"""Several choices at once: MultiDiscrete and MultiBinary actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from rlzoo.core.types import UsageError
from rlzoo.demonstrations.files import encode
from rlzoo.demonstrations.recording import record
from rlzoo.envs.make import EnvConfig
from rlzoo.envs.play import RandomActions
from rlzoo.nets.actor_critic import make_distribution
from rlzoo.nets.multi_categorical import MultiCategorical
from rlzoo.run.build import build
from rlzoo.run.config import compose

DISCRETE = spaces.MultiDiscrete([2, 3], start=[5, -1])
BINARY = spaces.MultiBinary([2, 2])
GRID = spaces.MultiDiscrete([[2, 3], [4, 2]])


@pytest.mark.parametrize("space", [DISCRETE, BINARY, GRID], ids=str)
def test_it_is_the_product_of_categoricals(space: Any) -> None:
    made = make_distribution(space)
    assert isinstance(made, MultiCategorical)
    rng = np.random.default_rng(0)
    logit_BA, other_BA = (
        torch.from_numpy(rng.normal(size=(5, made.num_outputs)).astype(np.float32))
        for _ in range(2)
    )
    parts, others = (
        [distributions.Categorical(logits=part) for part in logits.split(made.sizes, dim=1)]
        for logits in (logit_BA, other_BA)
    )
    action_BM = torch.stack([part.sample() for part in parts], dim=1)
    log_prob_B, entropy = made.log_prob_and_entropy(logit_BA, action_BM)
    terms = [part.log_prob(action_BM[:, m]) for m, part in enumerate(parts)]
    torch.testing.assert_close(log_prob_B, torch.stack(terms).sum(dim=0))
    torch.testing.assert_close(entropy, sum(part.entropy() for part in parts).mean())
    kl_B = sum(map(distributions.kl_divergence, parts, others))
    torch.testing.assert_close(made.kl(made.as_tensors(logit_BA), made.as_tensors(other_BA)), kl_B)
    best = [part.probs.argmax(dim=1) for part in parts]
    assert made.mode(logit_BA).tolist() == torch.stack(best, dim=1).tolist()
    assert made.mode(logit_BA.numpy()).tolist() == made.mode(logit_BA).tolist()


@pytest.mark.parametrize("space", [DISCRETE, BINARY, GRID], ids=str)
def test_actions_reach_the_env_in_its_own_form(space: Any) -> None:
    made = make_distribution(space)
    space.seed(0)
    action_B = np.stack([space.sample() for _ in range(20)])
    inside_BM = made.from_env(action_B)
    assert inside_BM.min() == 0 and inside_BM.shape == (20, *made.action_shape)
    back = made.to_env(inside_BM)
    assert np.array_equal(back, action_B) and all(map(space.contains, back))


def test_each_choice_is_drawn_by_its_probabilities() -> None:
    made = make_distribution(DISCRETE)
    probability = np.array([0.9, 0.1, 0.2, 0.3, 0.5])
    logits = np.log(probability)[None].repeat(20_000, axis=0)
    [noise_BA] = made.draw(np.random.default_rng(0), 1, len(logits))
    drawn_BM = made.sample(logits, noise_BA)
    shares = [*np.bincount(drawn_BM[:, 0]), *np.bincount(drawn_BM[:, 1])]
    np.testing.assert_allclose(np.array(shares) / len(logits), probability, atol=0.015)


class Locks(gymnasium.Env):
    """One point for each choice that is right, in each of ten steps."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, binary: bool = False) -> None:
        self.action_space = BINARY if binary else DISCRETE
        self.right = np.array([[1, 0], [0, 1]]) if binary else np.array([6, 1])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, float((action == self.right).mean()), False, False, {}


@pytest.fixture(params=[False, True], ids=["discrete", "binary"])
def env_words(request: pytest.FixtureRequest) -> Any:
    gymnasium.register("Locks-v0", entry_point=Locks, max_episode_steps=10)
    binary = f"env.kwargs.binary={str(request.param).lower()}"
    yield ["env=gym", "env.id=Locks-v0", binary, "env.restore=replay", "debug=tiny"]
    del gymnasium.registry["Locks-v0"]


@pytest.mark.parametrize(
    "words",
    [
        ["algo=ppo", "algo.lr=1e-2", "algo.epochs=8", "algo.batch_size=96"],
        ["algo=trpo", "algo.target_kl=0.1", "algo.batch_size=96"],
    ],
    ids=["ppo", "trpo"],
)
def test_an_agent_learns_all_choices(env_words: list[str], words: list[str]) -> None:
    agent = build(compose([*words, *env_words, "algo.rollout_env_steps=96"]))
    for _ in range(20):
        agent.step()
    obs_B = np.zeros((1, 2), np.float32)
    action_B, _ = agent.policy.act(obs_B, (), explore=False)
    right = Locks(binary=agent.env.action_space == BINARY).right
    assert np.array_equal(action_B[0], right)
    assert "train/action_std" not in agent.gauges()


@pytest.mark.parametrize("algo", ["bc", "gail", "airl"])
def test_imitation_takes_such_actions(env_words: list[str], algo: str, tmp_path: Any) -> None:
    config = compose([f"algo={algo}", *env_words])
    env = EnvConfig(id="Locks-v0", kwargs=config.env.kwargs, restore="replay")
    space = Locks(**config.env.kwargs).action_space
    file = tmp_path / "d.npz"
    recorded = record(RandomActions(space, 0), env, episodes=3, seed=0, source=str(file))
    file.write_bytes(encode(recorded, "imitation"))
    agent = build(compose([f"algo={algo}", *env_words, f"algo.demonstrations.path={file}"]))
    metrics = agent.step()
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_what_has_no_distribution_is_still_refused() -> None:
    for space in (spaces.Box(0, 9, (1,), np.int64), spaces.Dict(a=DISCRETE), spaces.Text(3)):
        with pytest.raises(UsageError, match="expected Discrete, MultiDiscrete, MultiBinary, or"):
            make_distribution(space)
