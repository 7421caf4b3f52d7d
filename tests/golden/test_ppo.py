"""PPO against an independent update, its schedules, and values known exactly."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from rlzoo.algos.ppo import PPO, PPOConfig
from rlzoo.core.algorithm import Network, Setup
from rlzoo.core.types import UsageError
from rlzoo.envs.make import EnvConfig, make_vector
from rlzoo.nets.mlp import NetworkConfig, vector_encoder


class Endless(gymnasium.Env[np.ndarray, int]):
    """Pays 1 a step and is cut after each: worth 1 / (1 - gamma) if truncated, 1 if terminated.

    An episode begins at 0 and ends at 1, which is where the value of its end has to be read.
    """

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, terminates: bool = False) -> None:
        self.terminates = terminates

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        return np.ones(1, np.float32), 1.0, self.terminates, not self.terminates, {}


class Wide(gymnasium.Env[np.ndarray, np.ndarray]):
    """Two engines of which the second can do little; the observation has a large offset."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(np.array([-1, -0.1], np.float32), np.array([1, 0.1], np.float32))
    taken: list[np.ndarray]

    def __init__(self) -> None:
        self.taken = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.age = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> Any:
        self.taken.append(action.copy())
        self.age += 1
        reward = float(-np.square(action - 0.5).sum())
        return self._observation(), reward, False, self.age == 7, {}

    def _observation(self) -> np.ndarray:
        return np.array([100 + self.np_random.standard_normal(), self.age], np.float32)


gymnasium.register("rlzoo_test/EndlessPPO-v0", Endless)
gymnasium.register("rlzoo_test/Wide-v0", Wide)
DISCRETE, CONTINUOUS = "CartPole-v1", "rlzoo_test/Wide-v0"
POLICIES = [(DISCRETE, False), (CONTINUOUS, False), (CONTINUOUS, True)]
every_policy = pytest.mark.parametrize(
    ("env_id", "gsde"), POLICIES, ids=("discrete", "box", "gsde")
)


def make(env_id: str = DISCRETE, *, num_envs: int = 2, total: int = 10_000, **settings: Any) -> PPO:
    torch.set_num_threads(1)
    kwargs = settings.pop("kwargs", None)
    env_config = EnvConfig(id=env_id, num_envs=num_envs, kwargs=kwargs, restore="replay")
    setup = Setup(
        make_vector(env_config, run_seed=5),
        seed=5,
        total_env_steps=total,
        network=Network(NetworkConfig(hidden=(16, 16), activation="tanh"), vector_encoder),
    )
    return PPO(PPOConfig(**{"rollout_env_steps": 64, "batch_size": 32, **settings}), setup)


def parameters(ppo: PPO) -> list[torch.Tensor]:
    return [p.detach().clone() for p in ppo.network.parameters()]


def collected(ppo: PPO) -> list[torch.Tensor]:
    """A rollout as the columns of `loss`."""
    ppo.collect()
    return list(ppo.prepared()[0])


def reference_log_prob(ppo: PPO, net: Any, obs: torch.Tensor, action: torch.Tensor) -> Any:
    """log pi(a|s) and the entropy of a network's policy by torch's own distributions."""
    named = dict(net.named_parameters())
    if isinstance(ppo.env.action_space, spaces.Discrete):
        policy: Any = torch.distributions.Categorical(logits=net.policy(obs))
    else:
        if ppo.config.gsde:
            hidden = net.policy.trunk(obs)
            mean = net.policy.last(hidden)
            width = named["distribution.log_std_FA"].exp()
            std = (hidden.detach() ** 2 @ width**2 + 1e-6).sqrt()
        else:
            mean, std = net.policy(obs), named["distribution.log_std_A"].exp()
        policy = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    return policy.log_prob(action), policy.entropy().mean()


@pytest.mark.parametrize("value_clip", [None, 0.05])
@every_policy
def test_one_update_against_plain_torch(env_id, gsde, value_clip):
    """Sums and means over a batch, with a policy that has moved since the rollout."""
    ppo = make(
        env_id,
        gsde=gsde,
        lr=1e-2,
        entropy_coef=0.01,
        value_coef=0.7,
        value_clip=value_clip,
        max_grad_norm=0.3,
    )
    columns = collected(ppo)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in ppo.network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    other = copy.deepcopy(ppo)
    got = ppo.update(*columns, torch.tensor(0.1))

    obs, action, old_log_prob, advantage, target, old_value = columns
    net = other.network
    log_prob, entropy = reference_log_prob(other, net, obs, action)
    ratio = torch.exp(log_prob - old_log_prob)
    assert ((ratio - 1).abs() > 0.1).any() and ((ratio - 1).abs() < 0.1).any()
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    actor = -torch.min(ratio * scaled, torch.clamp(ratio, 0.9, 1.1) * scaled).mean()
    value = net.value(obs)[:, 0]
    critic = functional.mse_loss(value, target)
    if value_clip:
        kept = old_value + torch.clamp(value - old_value, -value_clip, value_clip)
        critic = torch.max((value - target) ** 2, (kept - target) ** 2).mean()
    loss = actor + 0.7 * critic - 0.01 * entropy
    expected = {"loss": loss, "policy_loss": actor, "value_loss": critic, "entropy": entropy}
    for name, value in (expected | {"kl": (ratio - 1 - ratio.log()).mean()}).items():
        torch.testing.assert_close(got[name], value.detach())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, eps=1e-5)
    loss.backward()
    actor_grad = torch.cat([p.grad.flatten() for p in net.policy.parameters()])
    torch.testing.assert_close(got["policy_grad_norm"], actor_grad.norm())
    torch.testing.assert_close(
        got["grad_norm"], torch.nn.utils.clip_grad_norm_(net.parameters(), 0.3)
    )
    optimizer.step()
    for mine, theirs in zip(parameters(ppo), parameters(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"normalize_obs": True, "normalize_reward": True}])
@every_policy
def test_both_sides_of_the_ratio_are_of_the_same_observations(env_id, gsde, settings):
    ppo = make(env_id, gsde=gsde, **settings)
    ppo.step()  # so that normalisers have seen something
    outcomes = []
    update = ppo.update
    ppo.update = lambda *batch: outcomes.append(update(*batch)) or outcomes[-1]
    ppo.step()
    assert float(outcomes[0]["kl"]) == pytest.approx(0, abs=1e-9)
    assert outcomes[0]["clip_fraction"] == 0
    assert float(outcomes[-1]["kl"]) > 1e-6


@every_policy
def test_log_probabilities_are_those_of_the_policy_that_acted(env_id, gsde):
    ppo = make(env_id, gsde=gsde, normalize_obs=True)
    ppo.step()
    acting = copy.deepcopy(ppo.network), copy.deepcopy(ppo.obs_normalizer)
    ppo.collect()
    rollout = ppo.rollout
    obs, action, log_prob, *_ = ppo.prepared()[0]
    raw = rollout.obs_TN.reshape(len(obs), -1)
    torch.testing.assert_close(obs, torch.from_numpy(acting[1](raw)), rtol=0, atol=0)
    expected, _ = reference_log_prob(ppo, acting[0], obs, action)
    torch.testing.assert_close(log_prob, expected.detach(), rtol=1e-4, atol=1e-5)


@every_policy
def test_every_parameter_of_the_actor_has_a_gradient_that_means_something(env_id, gsde):
    ppo = make(env_id, gsde=gsde, value_coef=0.0)
    columns = collected(ppo)
    loss, _ = ppo.loss(*columns, torch.tensor(0.2))
    policy = [*ppo.network.policy.parameters(), *ppo.distribution.parameters()]
    for gradient in torch.autograd.grad(loss, policy):
        assert gradient.abs().max() > 1e-6

    # A step along it makes good actions more likely: the sign is that of the advantage.
    columns[3] = torch.where(torch.arange(len(columns[3])) == 0, 1.0, 0.0)
    before = columns[2][0]
    ppo.update(*columns, torch.tensor(0.2))
    output_BA, _ = ppo.network(columns[0])
    after, _ = ppo.distribution.log_prob_and_entropy(output_BA, columns[1])
    assert after[0] > before


def test_the_columns_of_a_rollout_belong_together():
    """Without a future, a return is the reward, which here is a function of the action."""
    ppo = make(CONTINUOUS, gamma=0.0)
    obs, action, _, advantage, target, value = collected(ppo)
    space = ppo.env.action_space
    clipped = action.clamp(torch.from_numpy(space.low), torch.from_numpy(space.high))
    torch.testing.assert_close(target, -(clipped - 0.5).square().sum(dim=1))
    torch.testing.assert_close(value, ppo.network(obs)[1].detach())
    torch.testing.assert_close(advantage, target - value)


def test_the_critic_learns_only_from_its_own_loss():
    ppo = make()
    loss, parts = ppo.loss(*collected(ppo), torch.tensor(0.2))
    values_loss = parts["value_loss"]
    critic = list(ppo.network.value.parameters())
    alone = torch.autograd.grad(0.5 * values_loss, critic, retain_graph=True)
    for whole, own in zip(torch.autograd.grad(loss, critic), alone, strict=True):
        torch.testing.assert_close(whole, own)


@pytest.mark.parametrize(("terminates", "value"), [(False, 2.0), (True, 1.0)])
@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_bootstraps_through_truncation_and_not_through_termination(terminates, value, gae_lambda):
    """Each step is worth 1 + 0.5 V(end); the end, which no step begins at, is given V = 2."""
    ppo = make(
        "rlzoo_test/EndlessPPO-v0", kwargs={"terminates": terminates}, gamma=0.5,
        gae_lambda=gae_lambda,
    )  # fmt: skip
    head = torch.nn.Linear(1, 1)
    with torch.no_grad():
        head.weight.fill_(2.0)
        head.bias.zero_()
    ppo.network.value = head  # V(s) = 2 s: 0 where episodes begin, 2 where they end
    columns = collected(ppo)
    assert columns[4].tolist() == pytest.approx([value] * 64)


def test_the_critic_finds_the_value_of_an_endless_task():
    ppo = make("rlzoo_test/EndlessPPO-v0", total=3000, gamma=0.5, lr=5e-3)
    seen = []
    while not ppo.done():
        ppo.step()
        with torch.no_grad():
            seen.append(ppo.network(torch.zeros(1, 1))[1].item())
    end = ppo.network(torch.ones(1, 1))[1].item()
    assert seen[-1] == pytest.approx(1 + 0.5 * end, abs=0.05)


def test_the_env_gets_clipped_actions_and_the_update_those_that_were_drawn():
    ppo = make(CONTINUOUS, num_envs=1)
    action = collected(ppo)[1].numpy()
    [member] = ppo.env.env.members
    taken = np.array(member.env.unwrapped.taken)
    low, high = ppo.env.action_space.low, ppo.env.action_space.high
    np.testing.assert_array_equal(taken, action.clip(low, high))
    outside = (action < low) | (action > high)
    assert outside[:, 1].mean() > 0.8  # a width of 1 in a range of 0.2
    assert np.unique(action[:, 1]).size == len(action)


def test_normalisers_stand_still_outside_of_training():
    ppo = make(CONTINUOUS, normalize_obs=True, normalize_reward=True)
    ppo.step()
    obs_B = ppo.env.obs_B.copy()
    before = copy.deepcopy([ppo.obs_normalizer.state(), ppo.reward_scaler.state()])
    first = ppo.act(obs_B, explore=False)
    for _ in range(3):
        np.testing.assert_array_equal(ppo.act(obs_B, explore=False), first)
        ppo.act(obs_B + 1000, explore=False)
        ppo.act(obs_B + 1000, explore=True)
    after = [ppo.obs_normalizer.state(), ppo.reward_scaler.state()]
    np.testing.assert_equal(after, before)
    assert ppo.obs_normalizer.statistics.count == 64


def test_final_observations_are_normalised_like_all_others():
    ppo = make(CONTINUOUS, normalize_obs=True, gamma=1.0, gae_lambda=0.0)
    ppo.step()
    seen = []
    forward = ppo.network.forward
    ppo.network.forward = lambda obs_B: seen.append(obs_B) or forward(obs_B)
    collected(ppo)
    [obs_B] = seen  # one call of the critic for the whole rollout
    assert len(obs_B) == 64 + 2 + len(ppo.rollout.final_obs) and ppo.rollout.final_obs
    assert obs_B[:, 0].abs().max() < 10  # the offset of 100 is gone everywhere


def test_statistics_take_in_each_observation_once():
    ppo = make(CONTINUOUS, normalize_obs=True, normalize_reward=True)
    everything = []
    for _ in range(3):
        ppo.step()
        everything.append(ppo.rollout.obs_TN.reshape(-1, 2).copy())
    seen = np.concatenate(everything).astype(np.float64)
    np.testing.assert_allclose(ppo.obs_normalizer.statistics.mean, seen.mean(axis=0))
    np.testing.assert_allclose(ppo.obs_normalizer.statistics.variance, seen.var(axis=0))
    assert ppo.reward_scaler.statistics.count == len(seen)


def test_target_kl_stops_the_epochs():
    free, bounded = make(lr=1e-2), make(lr=1e-2, target_kl=0.005)
    free.step()
    bounded.step()
    assert free.counters.updates == 20
    assert 1 < bounded.counters.updates < 20
    again = make(lr=1e-2)
    batches = again.minibatches(collected(again), 10)
    kls = [float(again.update(*batch, torch.tensor(0.2))["kl"]) for batch in batches]
    assert bounded.counters.updates == 1 + next(i for i, kl in enumerate(kls) if kl > 0.0075)


def test_schedules_follow_the_clock_of_env_steps_and_begin_in_full():
    ppo = make(total=64 * 4, lr=1e-2, lr_schedule="linear", clip=0.4, clip_schedule="linear")
    seen = []
    while not ppo.done():
        metrics = ppo.step()
        assert metrics["train/lr"] == ppo.optimizer.lr
        seen.append((metrics["train/lr"], metrics["train/clip"]))
    np.testing.assert_allclose(seen, [(0.01 * s, 0.4 * s) for s in (1, 0.75, 0.5, 0.25)])
    constant = make()
    constant.step()
    assert constant.step()["train/lr"] == 3e-4


@pytest.mark.parametrize("num_envs", [1, 4])
def test_clocks_count_env_steps_over_all_envs(num_envs):
    ppo = make(num_envs=num_envs, total=200, epochs=3, batch_size=30)
    seen = []
    while not ppo.done():
        ppo.step()
        seen.append((ppo.counters.env_steps, ppo.counters.updates))
    assert seen == [(64, 9), (128, 18), (192, 27), (256, 36)]  # 30 + 30 + 4 a pass


def test_each_epoch_sees_each_transition_once_in_another_order():
    ppo = make(epochs=2, batch_size=30)
    column = torch.arange(64)
    batches = list(ppo.minibatches((column, column + 100), 2))
    assert all(torch.equal(other, one + 100) for one, other in batches)
    batches = [one for one, _ in batches]
    assert [len(batch) for batch in batches] == [30, 30, 4] * 2
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert first.sort().values.equal(column) and second.sort().values.equal(column)
    assert not first.equal(second) and not first.equal(column)


def test_a_minibatch_of_one_is_not_normalised_to_nan():
    ppo = make(batch_size=63, epochs=1)
    ppo.step()
    assert all(p.isfinite().all() for p in parameters(ppo))


def test_returns_that_are_all_equal_give_a_finite_explained_variance():
    ppo = make("rlzoo_test/EndlessPPO-v0", kwargs={"terminates": True})
    assert np.isfinite(ppo.step()["train/explained_variance"])


@pytest.mark.parametrize(
    ("observations", "actions", "settings", "text"),
    [
        (spaces.Box(-1, 1, (2,)), spaces.Box(0, 9, (1,), np.int64), {}, "or Box of floats"),
        (spaces.Discrete(3), spaces.Discrete(2), {"normalize_obs": True}, "expected a Box"),
        (spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(2), {"normalize_obs": True}, "Box"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(observations, actions, settings, text):
    with pytest.raises(UsageError, match=text):
        PPO.check_spaces(PPOConfig(**settings), observations, actions)
