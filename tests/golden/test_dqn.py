"""DQN against an independent update, the clocks of its schedule, and values known exactly."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from rlzoo.algos.dqn import DQN, DQNConfig
from rlzoo.core.algorithm import Network, Setup
from rlzoo.data.replay import Replay
from rlzoo.envs.make import EnvConfig, make_vector
from rlzoo.nets.mlp import NetworkConfig, vector_encoder


class Endless(gymnasium.Env[np.ndarray, int]):
    """Pays 1 a step and is cut after each: worth 1 / (1 - gamma) if truncated, 1 if terminated."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, terminates: bool = False) -> None:
        self.terminates = terminates

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        return np.zeros(1, np.float32), 1.0, self.terminates, not self.terminates, {}


gymnasium.register("rlzoo_test/Endless-v0", Endless)


@pytest.fixture(autouse=True)
def one_round_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlzoo.algos.off_policy.BLOCK_ENV_STEPS", 1)


def make(
    config: DQNConfig, env_id: str = "CartPole-v1", num_envs: int = 1, **kwargs: Any
) -> tuple[DQN, Setup]:
    torch.set_num_threads(1)
    env = make_vector(
        EnvConfig(id=env_id, num_envs=num_envs, kwargs=kwargs or None, restore="replay"), run_seed=5
    )
    setup = Setup(
        env,
        seed=5,
        total_env_steps=1000,
        network=Network(NetworkConfig(hidden=(16, 16)), vector_encoder),
        make_replay=lambda env: Replay(
            env.observation_space, env.action_space, env.num_envs, capacity=2000
        ),
    )
    return DQN(config, setup), setup


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("double", [False, True])
def test_one_update_against_plain_torch(double):
    config = DQNConfig(learning_starts_env_steps=10_000, lr=1e-2, double=double, max_grad_norm=0.5)
    dqn, _ = make(config)
    while dqn.counters.env_steps < 200:
        dqn.step()
    with torch.no_grad():  # so that the two networks disagree
        for p in dqn.target_q.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    q, target = copy.deepcopy(dqn.q), copy.deepcopy(dqn.target_q)
    batch = dqn.replay.sample(32, np.random.default_rng(0), gamma=0.99)
    # Far-away next observations, where the networks differ about the best action.
    next_obs_B = 3 * torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    batch = batch._replace(next_obs_B=next_obs_B)
    got_loss = dqn.update(*batch[:5], batch.weight_B)["loss"]

    optimizer = torch.optim.Adam(q.parameters(), lr=1e-2)
    next_q = target(batch.next_obs_B)
    assert (q(batch.next_obs_B).argmax(1) != next_q.argmax(1)).any()
    chosen = (q if double else target)(batch.next_obs_B).argmax(1)
    y = batch.return_B + batch.discount_B * next_q[range(32), chosen].detach()
    loss = functional.smooth_l1_loss(q(batch.obs_B)[range(32), batch.action_B], y)
    torch.testing.assert_close(got_loss, loss.detach())  # Adam's first step only sees signs
    loss.backward()
    torch.nn.utils.clip_grad_norm_(q.parameters(), 0.5)
    optimizer.step()
    for got, want in zip(parameters(dqn.q), parameters(q), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_target_is_synchronised_by_env_steps_while_collecting():
    """The porting trap: with a short interval, the target of a round is the network before it."""
    config = DQNConfig(
        learning_starts_env_steps=8,
        train_every_env_steps=8,
        gradient_steps=5,
        target_every_env_steps=2,
    )
    dqn, _ = make(config)
    for _ in range(4):
        before = parameters(dqn.q)
        dqn.step()
        assert all(map(torch.equal, parameters(dqn.target_q), before))
    assert not all(map(torch.equal, parameters(dqn.q), before))


def test_target_is_synchronised_every_interval():
    config = DQNConfig(
        learning_starts_env_steps=8, train_every_env_steps=8, target_every_env_steps=16
    )
    dqn, _ = make(config)
    dqn.step()
    changed = []
    for _ in range(8):
        before = parameters(dqn.target_q)
        dqn.step()
        changed.append(not all(map(torch.equal, parameters(dqn.target_q), before)))
    # At 16 there was nothing new to copy: the first updates came at the end of that round.
    assert changed == [False, False, True, False, True, False, True, False]


def test_target_stays_between_synchronisations_and_tau_mixes():
    dqn, _ = make(DQNConfig(learning_starts_env_steps=4, target_every_env_steps=100, tau=0.25))
    first = parameters(dqn.target_q)
    while dqn.counters.env_steps < 96:
        dqn.step()
    assert all(map(torch.equal, parameters(dqn.target_q), first))
    online = parameters(dqn.q)
    dqn.step()  # collects to env step 100, synchronises, then learns
    for got, old, new in zip(parameters(dqn.target_q), first, online, strict=True):
        torch.testing.assert_close(got, 0.75 * old + 0.25 * new)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_clocks_count_env_steps_over_all_envs(num_envs):
    config = DQNConfig(
        learning_starts_env_steps=100,
        train_every_env_steps=8,
        gradient_steps=3,
        epsilon_fraction=0.5,
        epsilon_final=0.1,
    )
    dqn, _ = make(config, num_envs=num_envs)
    seen = {}
    while not dqn.done():
        dqn.step()
        seen[dqn.counters.env_steps] = (dqn.counters.updates, dqn.epsilon())
    assert list(seen) == list(range(8, 1001, 8))
    assert seen[96] == (0, 1.0)
    assert seen[104][0] == 3
    assert seen[1000][0] == 3 * (1000 - 96) // 8
    assert seen[248][1] == pytest.approx(1 - 0.9 * 248 / 500)
    assert seen[504][1] == pytest.approx(0.1)


def test_the_learning_rate_falls_to_zero_over_the_run():
    """1,000 env steps: 0.1 at first, 0.06 when the update after 400 of them is made."""
    for schedule, rate in (("linear", 0.06), ("constant", 0.1)):
        dqn, _ = make(DQNConfig(lr=0.1, lr_schedule=schedule, train_every_env_steps=8))
        while dqn.counters.env_steps < 400:
            dqn.step()
        assert dqn.optimizer.lr == pytest.approx(rate)


def test_exploration_draws_for_each_env():
    config = DQNConfig(learning_starts_env_steps=0, epsilon_start=0.5, epsilon_final=0.5)
    dqn, setup = make(config, num_envs=4)
    obs_B = np.tile(setup.env.obs_B[:1], (4, 1))
    greedy = dqn.act(obs_B, explore=False)
    other_BT = np.array([dqn.act(obs_B, explore=True) != greedy for _ in range(2000)])
    assert other_BT.mean() == pytest.approx(0.25, abs=0.02)  # half of the random ones are greedy
    assert np.corrcoef(other_BT.T)[0, 1] == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize(("terminates", "value"), [(False, 2.0), (True, 1.0)])
@pytest.mark.parametrize("n_step", [1, 3])
def test_bootstraps_through_truncation_and_not_through_termination(terminates, value, n_step):
    config = DQNConfig(
        gamma=0.5,
        lr=5e-3,
        learning_starts_env_steps=16,
        train_every_env_steps=2,
        target_every_env_steps=10,
        n_step=n_step,
    )
    dqn, setup = make(config, "rlzoo_test/Endless-v0", terminates=terminates)
    while not dqn.done():
        dqn.step()
    assert dqn.q_values(setup.env.obs_B) == pytest.approx(np.full((1, 2), value), abs=0.05)
