"""TRPO and its parts against explicit matrices, torch's distributions, and numbers by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, tensor
from torch.distributions import Independent, Normal

from rlzoo.algos.on_policy import Samples
from rlzoo.algos.ppo import PPO, PPOConfig
from rlzoo.algos.trpo import TRPO, TRPOConfig
from rlzoo.core.algorithm import Network, Setup
from rlzoo.core.types import NonFiniteError
from rlzoo.envs.make import EnvConfig, make_vector
from rlzoo.losses.trust_region import (
    conjugate_gradients,
    flat_gradient,
    hessian_product,
    line_search,
    surrogate,
)
from rlzoo.nets.cnn import image_encoder
from rlzoo.nets.distributions import Categorical, DiagonalGaussian
from rlzoo.nets.gsde import StateDependentGaussian
from rlzoo.nets.mlp import NetworkConfig, vector_encoder

ENGINES = spaces.Box(-1, 1, (2,), np.float32)


class Target(gymnasium.Env[np.ndarray, Any]):
    """One step an episode; pays for actions near to a place that the observation names."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, discrete: bool = False) -> None:
        self.action_space = spaces.Discrete(2) if discrete else ENGINES

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.9, 0.9, 2).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        if isinstance(self.action_space, spaces.Discrete):
            reward = float(action == (self.place[0] > 0))
        else:
            reward = -float(np.square(action - self.place).sum())
        return self.place, reward, True, False, {}


class Picture(Target):
    """The same place, shown as an image."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = np.full((1, 36, 36), self.np_random.integers(256), np.uint8)
        return self.place, {}

    def step(self, action: Any) -> Any:
        return self.place, float(action == 0), True, False, {}


gymnasium.register("rlzoo_test/Target-v0", Target)
gymnasium.register("rlzoo_test/Picture-v0", Picture)
POLICIES = ("discrete", "box", "gsde")
every_policy = pytest.mark.parametrize("policy", POLICIES)


def setup(env_id: str, *, kwargs: Any = None, hidden: tuple[int, ...] = (3,)) -> Setup:
    torch.set_num_threads(1)
    env_config = EnvConfig(id=env_id, num_envs=2, kwargs=kwargs, restore="replay")
    is_image = env_id == "rlzoo_test/Picture-v0"
    return Setup(
        make_vector(env_config, run_seed=5),
        seed=5,
        total_env_steps=10_000,
        network=Network(
            NetworkConfig(hidden=hidden, activation="tanh"),
            image_encoder if is_image else vector_encoder,
        ),
    )


def make(policy: str = "box", hidden: tuple[int, ...] = (3,), **settings: Any) -> TRPO:
    """With weights of PyTorch's default: those of gain 0.01 would hide what is wrong."""
    kwargs = {"discrete": policy == "discrete"}
    settings = {"rollout_env_steps": 64, "batch_size": 32, "orthogonal_init": False, **settings}
    config = TRPOConfig(gsde=policy == "gsde", **settings)
    return TRPO(config, setup("rlzoo_test/Target-v0", kwargs=kwargs, hidden=hidden))


def collected(trpo: TRPO) -> Samples:
    trpo.collect()
    return trpo.prepared()[0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits(*modules: torch.nn.Module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for module in modules for p in module.parameters()]


def torch_policy(trpo: TRPO, obs_B: Tensor) -> Any:
    """The policy of a network as one of torch's own distributions."""
    output_BX, distribution = trpo.network.policy(obs_B), trpo.distribution
    if isinstance(distribution, Categorical):
        return torch.distributions.Categorical(logits=output_BX)
    mean_BA, features_BF = output_BX[:, :2], output_BX[:, 2:]
    if isinstance(distribution, DiagonalGaussian):
        return Independent(Normal(mean_BA, distribution.log_std_A.exp().repeat(len(obs_B), 1)), 1)
    variance_BA = features_BF.square() @ (2 * distribution.log_std_FA).exp() + 1e-6
    return Independent(Normal(mean_BA, variance_BA.sqrt()), 1)


@torch.no_grad()
def kl_to(trpo: TRPO, obs_B: Tensor, policy: Any) -> Tensor:
    """Mean KL divergence of a policy from that of `trpo`, by torch."""
    return torch.distributions.kl_divergence(policy, torch_policy(trpo, obs_B)).mean()


def explicit_fisher(trpo: TRPO, obs_B: Tensor) -> Tensor:
    """The Fisher matrix [P, P], entry by entry: the variance of the score, or its closed form.

    Of a normal distribution it is 1 / variance for the mean, and 2 for the log of the deviation.
    """
    policy = torch_policy(trpo, obs_B)
    if isinstance(trpo.distribution, Categorical):
        rows = [(policy.logits, policy.probs.detach())]
    else:
        normal = policy.base_dist
        precision_BA = normal.scale.detach() ** -2
        rows = [
            (normal.loc, precision_BA),
            (normal.scale.log(), torch.full(precision_BA.shape, 2.0)),
        ]
    fisher_PP = torch.zeros(len(trpo.policy_P), len(trpo.policy_P))
    for output_BA, weight_BA in rows:
        for output, weight in zip(output_BA.flatten(), weight_BA.flatten(), strict=True):
            score = torch.autograd.grad(
                output, trpo.policy_parameters, retain_graph=True, materialize_grads=True
            )
            score_P = torch.cat([piece.flatten() for piece in score])
            fisher_PP += weight * torch.outer(score_P, score_P)
    return fisher_PP / len(obs_B)


# ---------------------------------------------------------------- KL divergences


def test_kl_of_categoricals_by_hand() -> None:
    categorical = Categorical(spaces.Discrete(2))
    old = categorical.as_tensors(tensor([[0.0, 0.0], [0.0, math.log(3)]]))
    new = categorical.as_tensors(tensor([[0.0, math.log(3)], [0.0, math.log(3)]]))
    # ln(0.5 / 0.25) / 2 + ln(0.5 / 0.75) / 2; the other pair is equal
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(categorical.kl(old, new), tensor([expected, 0.0]))


def test_kl_of_gaussians_by_hand() -> None:
    old = tensor([[0.0, 1.0]]), tensor([[0.0, math.log(2)]])
    new = tensor([[3.0, 1.0]]), tensor([[math.log(2), 0.0]])
    # ln 2 + (1 + 9) / 8 - 1/2, and -ln 2 + 4 / 2 - 1/2
    expected = tensor([10 / 8 - 0.5 + 2 - 0.5])
    torch.testing.assert_close(DiagonalGaussian(ENGINES).kl(old, new), expected)


def test_kl_of_state_dependent_gaussians_by_hand() -> None:
    gaussian = StateDependentGaussian(spaces.Box(-1, 1, (1,)), num_features=2)
    before = gaussian.as_tensors(tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]]))
    with torch.no_grad():
        gaussian.log_std_FA.copy_(tensor([[math.log(2)], [0.0]]))
    after = gaussian.as_tensors(tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]]))
    # Variances 1 + 4 and 1, then 4 + 4 and 4; the mean of the second moves by 3.
    expected = tensor([0.5 * math.log(8 / 5) + 5 / 16 - 0.5, math.log(2) + 10 / 8 - 0.5])
    torch.testing.assert_close(gaussian.kl(before, after), expected, rtol=1e-5, atol=1e-6)


@every_policy
def test_kl_of_policies_against_torch(policy: str) -> None:
    """Also: what is known of the old policy outlives a change of the parameters in place."""
    trpo = make(policy)
    obs_B = noise(9, 2)
    before, old = torch_policy(trpo, obs_B), trpo.distribution.as_tensors(trpo._outputs(obs_B))
    trpo.policy_P += 0.3 * noise(len(trpo.policy_P))
    after, new = torch_policy(trpo, obs_B), trpo.distribution.as_tensors(trpo._outputs(obs_B))
    expected = torch.distributions.kl_divergence(before, after)
    assert (expected > 1e-3).all()
    torch.testing.assert_close(trpo.distribution.kl(old, new), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trpo.distribution.kl(new, old), expected, rtol=1e-2)


# ---------------------------------------------------------------- the natural gradient


@every_policy
def test_fisher_products_against_the_explicit_matrix(policy: str) -> None:
    trpo = make(policy, cg_damping=0.05)
    obs_B = noise(7, 2)
    fisher_PP = explicit_fisher(trpo, obs_B) + 0.05 * torch.eye(len(trpo.policy_P))
    product = trpo.fisher_product(obs_B)
    for seed in range(3):
        vector_P = noise(len(trpo.policy_P), seed=seed)
        torch.testing.assert_close(product(vector_P), fisher_PP @ vector_P, rtol=1e-4, atol=1e-5)


@every_policy
def test_fisher_products_against_finite_differences_of_the_kl(policy: str) -> None:
    """KL(theta, theta + e v) = e^2 v.Fv / 2, and terms of e^3 that two signs cancel."""
    trpo = make(policy, cg_damping=0.0)
    obs_B = noise(7, 2)
    vector_P = noise(len(trpo.policy_P))
    if policy == "gsde":  # the features that its noise depends on are taken as given
        trunk = len(torch.cat([p.flatten() for p in trpo.network.policy.trunk.parameters()]))
        vector_P[:trunk] = 0.0
    old, start_P, kls = torch_policy(trpo, obs_B), trpo.policy_P.clone(), []
    expected = vector_P @ trpo.fisher_product(obs_B)(vector_P)
    for step in (0.01, -0.01):
        trpo.policy_P.copy_(start_P + step * vector_P)
        kls.append(kl_to(trpo, obs_B, old))
    torch.testing.assert_close(sum(kls) / 0.01**2, expected, rtol=0.01, atol=0)


def test_hessian_product_of_a_quadratic() -> None:
    parameters = [tensor([1.0, 2.0], requires_grad=True), tensor([3.0], requires_grad=True)]
    x, y, z = *parameters[0], parameters[1][0]
    product = hessian_product(x * x + 3 * x * y + 0.5 * z * z, parameters, damping=0.5)
    # [[2, 3, 0], [3, 0, 0], [0, 0, 1]] + 0.5
    torch.testing.assert_close(product(tensor([1.0, 10.0, 100.0])), tensor([32.5, 8.0, 150.0]))


def positive_definite(size: int) -> Tensor:
    root = noise(size, size).double()
    return root @ root.T + 0.1 * torch.eye(size)


def test_conjugate_gradients_against_numpy() -> None:
    matrix, b = positive_definite(12), noise(12, seed=1).double()
    x, residual = conjugate_gradients(lambda v: matrix @ v, b, iterations=40)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-4)
    assert residual.norm() <= 1e-5 * b.norm()
    x, residual = conjugate_gradients(lambda v: matrix @ v, b, iterations=3)
    torch.testing.assert_close(residual, b - matrix @ x)
    assert residual.norm() > 1e-2 * b.norm()
    # Of all vectors of its subspace, x has the least error in the norm of the matrix.
    basis = torch.stack([b, matrix @ b, matrix @ matrix @ b], dim=1)
    weights = torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
    torch.testing.assert_close(x, basis @ weights)


def test_conjugate_gradients_end_early() -> None:
    calls = []

    def product(vector: Tensor) -> Tensor:
        calls.append(vector)
        return tensor([2.0, 2.0, 5.0, 5.0]) * vector

    x, _ = conjugate_gradients(product, tensor([1.0, 2.0, 3.0, 4.0]), iterations=50)
    torch.testing.assert_close(x, tensor([0.5, 1.0, 0.6, 0.8]))
    assert len(calls) == 2  # two eigenvalues
    x, residual = conjugate_gradients(product, torch.zeros(4), iterations=50)
    assert not x.any() and not residual.any() and len(calls) == 2
    x, residual = conjugate_gradients(lambda v: -v, torch.ones(4), iterations=50)
    assert not x.any() and residual.equal(torch.ones(4))


def test_the_natural_step_of_a_gaussian_by_hand() -> None:
    """Where observations are 0, a linear policy has biases for means: F = (1 / sigma^2, 2)."""
    trpo = make(hidden=(), cg_damping=0.0, log_std_init=math.log(2))
    gradient_P = tensor([0, 0, 0, 0, 1.0, 0, 3.0, 0])  # of a bias and a log standard deviation
    step_P, residual = trpo.natural_step(gradient_P, torch.zeros(5, 2), 0.02)
    # x = (4 * 1, 3 / 2), x.Fx = 4 + 4.5; length sqrt(2 * 0.02 / 8.5)
    expected_P = math.sqrt(0.04 / 8.5) * tensor([0, 0, 0, 0, 4.0, 0, 1.5, 0])
    torch.testing.assert_close(step_P, expected_P)
    assert residual < 1e-5


def test_the_trust_region_can_shrink_over_the_run() -> None:
    """In its first rollout it has all of its size, half-way half: the step is sqrt(1/2) as long."""

    def step_length(done_share: float, schedule: str) -> float:
        trpo = make(target_kl=1e-4, kl_schedule=schedule)
        samples = collected(trpo)
        trpo.counters.env_steps += int(done_share * trpo.setup.total_env_steps)
        before_P = trpo.policy_P.clone()
        assert trpo.improve(samples)["train/line_search_steps"] == 1
        return float(torch.linalg.vector_norm(trpo.policy_P - before_P))

    whole = step_length(0.0, "linear")
    assert whole == pytest.approx(step_length(0.0, "constant"))
    assert step_length(0.5, "linear") == pytest.approx(math.sqrt(0.5) * whole, rel=1e-3)
    assert step_length(0.5, "constant") == pytest.approx(whole)


def test_surrogate_by_hand() -> None:
    log_ratio_B = tensor([math.log(0.5), math.log(3)], requires_grad=True)
    advantage_B = tensor([4.0, -1.0], requires_grad=True)
    gain = surrogate(log_ratio_B, advantage_B)
    torch.testing.assert_close(gain, tensor((2.0 - 3.0) / 2))
    torch.testing.assert_close(flat_gradient(gain, [log_ratio_B]), tensor([1.0, -1.5]))
    with pytest.raises(RuntimeError, match="not have been used"):
        flat_gradient(surrogate(log_ratio_B, advantage_B), [advantage_B])
    with pytest.raises(AssertionError):
        surrogate(log_ratio_B, advantage_B[:, None])


# ---------------------------------------------------------------- the line search

START = tensor([0.1, -0.0, 1e-42, 3.0])
NAN, INF = math.nan, math.inf


def search(landscape: Any, trials: int = 4) -> tuple[Any, Tensor, list[float]]:
    """What is found along steps of 1, 1/2, 1/4, ... where landscape(step) = (improvement, kl)."""
    parameters_P, seen = START.clone(), []

    def evaluate() -> tuple[Tensor, Tensor]:
        seen.append(float(parameters_P[3]) - 3.0)
        improvement, kl = landscape(seen[-1])
        return tensor(improvement), tensor(kl)

    step_P = tensor([1.0, 1.0, 1.0, 1.0])
    found = line_search(parameters_P, step_P, evaluate, max_kl=0.25, factor=0.5, trials=trials)
    return found, parameters_P, seen


def test_the_longest_step_that_does_both_is_taken() -> None:
    # 1 makes it worse; 1/2 makes it better, but goes too far; 1/4 goes just far enough.
    found, parameters_P, seen = search(lambda step: (0.6 - step, step))
    assert found.accepted and found.trials == 3 and seen == [1.0, 0.5, 0.25]
    assert found.kl == 0.25 and found.improvement == pytest.approx(0.35)
    torch.testing.assert_close(parameters_P, START + 0.25)


@pytest.mark.parametrize(
    "landscape",
    [(1.0, 0.26), (0.0, 0.0), (-1.0, 0.0), (NAN, 0.0), (1.0, NAN), (INF, INF), (-INF, 0.0)],
    ids=str,
)
def test_without_improvement_or_outside_of_the_trust_region_nothing_changes(landscape) -> None:
    found, parameters_P, seen = search(lambda step: landscape)
    assert found == (False, 4, 0.0, 0.0)
    assert seen == [1.0, 0.5, 0.25, 0.125]  # it did move meanwhile
    assert parameters_P.numpy().tobytes() == START.numpy().tobytes()


# ---------------------------------------------------------------- the policy's step


@every_policy
@pytest.mark.parametrize("entropy_coef", [0.0, 0.3])
def test_one_update_against_explicit_matrices(policy: str, entropy_coef: float) -> None:
    """The same step by solving with the whole Fisher matrix, and torch's distributions."""
    settings = {"entropy_coef": entropy_coef, "target_kl": 0.2, "cg_iterations": 200}
    trpo, other = make(policy, **settings), make(policy, **settings)
    samples = collected(trpo)
    metrics = trpo.improve(samples)

    obs_B, action_B, log_prob_B, advantage_B, *_ = samples
    scaled_B = (advantage_B - advantage_B.mean()) / (advantage_B.std() + 1e-8)

    def objective() -> Tensor:
        new = torch_policy(other, obs_B)
        ratio_B = (new.log_prob(action_B) - log_prob_B).exp()
        return (ratio_B * scaled_B).mean() + entropy_coef * new.entropy().mean()

    old, first, start_P = torch_policy(other, obs_B), objective(), other.policy_P.clone()
    gradient_P = flat_gradient(first, other.policy_parameters)
    fisher_PP = explicit_fisher(other, obs_B) + 0.1 * torch.eye(len(start_P))
    x_P = torch.linalg.solve(fisher_PP, gradient_P)
    step_P = math.sqrt(2 * 0.2 / (x_P @ fisher_PP @ x_P)) * x_P
    trials = 0
    while trials == 0 or objective() <= first or kl_to(other, obs_B, old) > 0.2:
        assert trials < 10
        other.policy_P.copy_(start_P + 0.8**trials * step_P)
        trials += 1
    assert metrics["train/line_search_steps"] == trials
    torch.testing.assert_close(trpo.policy_P, other.policy_P, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(trpo.policy_P, start_P, atol=1e-2)
    numbers = [float(metrics[f"train/{n}"]) for n in ("grad_norm", "kl", "surrogate_improvement")]
    expected = gradient_P.norm(), kl_to(other, obs_B, old), objective() - first
    np.testing.assert_allclose(numbers, [e.item() for e in expected], rtol=1e-2, atol=1e-5)
    assert metrics["train/entropy"].item() == pytest.approx(old.entropy().mean().item(), rel=1e-4)


@every_policy
def test_accepted_steps_improve_and_stay_in_the_trust_region(policy: str) -> None:
    trpo = make(policy, hidden=(16, 16))
    for _ in range(5):
        trpo.collect()
        obs_B = torch.from_numpy(trpo.rollout.obs_TN.reshape(-1, 2).copy())
        old = torch_policy(copy.deepcopy(trpo), obs_B)
        metrics = trpo.learn()
        assert metrics["train/policy_step_accepted"] == 1
        assert metrics["train/surrogate_improvement"] > 0
        kl = float(kl_to(trpo, obs_B, old))
        assert 1e-4 < kl <= 0.01 + 1e-6
        assert kl == pytest.approx(metrics["train/kl"], rel=1e-2)


def test_a_failed_line_search_leaves_the_policy_as_it_was(monkeypatch: Any) -> None:
    trpo = make()
    samples = collected(trpo)
    before, critic = bits(trpo.network.policy, trpo.distribution), bits(trpo.network.value)
    kl = DiagonalGaussian.kl
    monkeypatch.setattr(DiagonalGaussian, "kl", staticmethod(lambda *pair: kl(*pair) + 1.0))
    metrics = trpo.improve(samples)
    assert metrics["train/policy_step_accepted"] == 0 and metrics["train/line_search_steps"] == 10
    assert metrics["train/kl"] == metrics["train/surrogate_improvement"] == 0
    assert bits(trpo.network.policy, trpo.distribution) == before
    assert bits(trpo.network.value) != critic  # the values are fitted all the same

    monkeypatch.undo()
    assert trpo.improve(samples)["train/policy_step_accepted"] == 1
    assert bits(trpo.network.policy, trpo.distribution) != before


def test_without_a_gradient_there_is_no_step() -> None:
    trpo = make()
    samples = collected(trpo)
    before = bits(trpo.network.policy, trpo.distribution)
    flat = samples._replace(advantage_B=torch.full_like(samples.advantage_B, 3.0))
    metrics = trpo.improve(flat)
    assert metrics["train/policy_step_accepted"] == 0 and metrics["train/grad_norm"] == 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert bits(trpo.network.policy, trpo.distribution) == before
    keen = make(entropy_coef=1.0)
    keen.improve(collected(keen)._replace(advantage_B=flat.advantage_B))
    assert (keen.distribution.log_std_A > 0.05).all()


def test_parameters_are_views_of_one_vector_that_acting_sees() -> None:
    trpo = make()
    obs_B = trpo.env.obs_B.copy()
    trpo.act(obs_B, explore=False)
    for _ in range(2):
        trpo.step()
    pieces = torch.cat([p.detach().flatten() for p in trpo.policy_parameters])
    assert trpo.policy_P.equal(pieces)
    expected = torch_policy(trpo, torch.from_numpy(obs_B)).mean.detach().numpy()
    np.testing.assert_allclose(trpo.policy_outputs(obs_B), expected, rtol=1e-5, atol=1e-6)
    other = make()
    other.load(trpo.state())
    assert other.policy_P.equal(trpo.policy_P)


def test_fisher_matrix_of_a_part_of_the_rollout(monkeypatch: Any) -> None:
    trpo, seen = make(fisher_fraction=0.25), []
    samples = collected(trpo)
    outputs = trpo._outputs
    monkeypatch.setattr(trpo, "_outputs", lambda obs_B: seen.append(obs_B) or outputs(obs_B))
    for _ in range(2):
        trpo.fisher_product(samples.obs_B)
    rows = samples.obs_B.tolist()
    chosen = [[rows.index(row) for row in obs_B.tolist()] for obs_B in seen]
    assert [len(set(rows)) for rows in chosen] == [16, 16] and chosen[0] != chosen[1]
    assert {index % 2 for index in chosen[0]} == {0, 1}  # of both envs


# ---------------------------------------------------------------- the values


def test_the_values_are_fitted_by_themselves() -> None:
    trpo = make(critic_updates=3, batch_size=30)
    samples = collected(trpo)
    network, before = trpo.network, bits(trpo.network.policy, trpo.distribution)
    trpo._fit_values(samples)
    assert bits(network.policy, trpo.distribution) == before
    assert trpo.counters.updates == 3 * 3  # 30 + 30 + 4 a pass
    values = bits(network.value)
    trpo._improve_policy(samples)
    assert bits(network.value) == values
    assert bits(network.policy, trpo.distribution) != before
    assert trpo.counters.updates == 3 * 3 + 1


def test_an_update_of_the_values_against_plain_torch() -> None:
    trpo, other = make(batch_size=64, critic_updates=1), make()
    obs_B, *_, return_B, _ = samples = collected(trpo)
    metrics = trpo._fit_values(samples)
    optimizer = torch.optim.Adam(other.network.value.parameters(), lr=1e-3, eps=1e-5)
    loss = torch.nn.functional.mse_loss(other.network.value(obs_B)[:, 0], return_B)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(metrics["train/value_loss"], loss.detach())
    pairs = zip(trpo.network.value.parameters(), other.network.value.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_images_the_encoder_learns_from_the_policy_alone() -> None:
    config = TRPOConfig(rollout_env_steps=16, batch_size=8)
    trpo = TRPO(config, setup("rlzoo_test/Picture-v0", kwargs={"discrete": True}, hidden=(8,)))
    samples = collected(trpo)
    encoder, policy = bits(trpo.network.encoder), bits(trpo.network.policy)
    value = bits(trpo.network.value)
    trpo._fit_values(samples)
    assert bits(trpo.network.encoder) == encoder and bits(trpo.network.policy) == policy
    assert bits(trpo.network.value) != value
    assert trpo._improve_policy(samples)["train/policy_step_accepted"] == 1
    assert all(new != old for new, old in zip(bits(trpo.network.encoder), encoder, strict=True))


# ---------------------------------------------------------------- bad numbers


@pytest.mark.parametrize("column", ["advantage_B", "log_prob_B", "obs_B"])
def test_nan_stops_before_anything_changes(column: str) -> None:
    trpo = make()
    samples = collected(trpo)
    before = bits(trpo.network)
    planted = getattr(samples, column).clone()
    planted[3] = NAN
    with pytest.raises(NonFiniteError, match=r"^(loss|gradient norm) is not finite .* unchanged"):
        trpo.improve(samples._replace(**{column: planted}))
    assert bits(trpo.network) == before and int(trpo.optimizer.clock) == 0


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_fisher_matrix_that_is_not_finite_stops_it_too(bad: float, monkeypatch: Any) -> None:
    trpo = make()
    samples = collected(trpo)
    before = bits(trpo.network)
    monkeypatch.setattr(trpo, "fisher_product", lambda obs_B: lambda vector_P: vector_P * bad)
    with pytest.raises(NonFiniteError, match="natural gradient is not finite"):
        trpo.improve(samples)
    assert bits(trpo.network) == before


# ---------------------------------------------------------------- what it shares with PPO


@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
def test_rewards_may_be_replaced_between_collecting_and_learning(algorithm: str) -> None:
    """As GAIL does. Without a future, a return is the reward."""
    settings = {"rollout_env_steps": 64, "batch_size": 32, "gamma": 0.0}
    made = setup("rlzoo_test/Target-v0")
    ours = PPO(PPOConfig(**settings), made) if algorithm == "ppo" else make(gamma=0.0)
    ours.collect()
    ours.rollout.reward_TN[:] = np.arange(64).reshape(32, 2)
    prepared, _ = ours.prepared()
    assert prepared.return_B.tolist() == pytest.approx(list(range(64)), abs=1e-4)
    before = ours.counters.env_steps, ours.counters.episodes
    assert before == (64, 64)
    ours.learn()
    assert (ours.counters.env_steps, ours.counters.episodes) == before


@pytest.mark.parametrize("policy", ["discrete", "box"])
def test_it_learns(policy: str) -> None:
    trpo = make(policy, hidden=(16,), rollout_env_steps=128, log_std_init=-1.0)
    rewards = []
    for _ in range(20):
        trpo.step()
        rewards.append(trpo.rollout.reward_TN.mean())
    first, last = np.mean(rewards[:3]), np.mean(rewards[-3:])
    assert last > 0.85 if policy == "discrete" else last > 0.4 * first  # from 0.5; from -0.9
