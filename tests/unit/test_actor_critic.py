"""Policies over both kinds of actions, and the network that feeds them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions, tensor

from rlzoo.core import registry
from rlzoo.core.seeding import torch_seed
from rlzoo.core.types import UsageError
from rlzoo.nets.acting import numpy_forward
from rlzoo.nets.actor_critic import ActorCritic, make_distribution
from rlzoo.nets.distributions import Categorical, DiagonalGaussian
from rlzoo.nets.gsde import StateDependentGaussian
from rlzoo.nets.mlp import NetworkConfig

VECTOR = spaces.Box(-1, 1, (4,))
FRAMES = spaces.Box(0, 255, (2, 40, 40), np.uint8)
ENGINES = spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, np.inf], np.float32))


def network(
    obs_space: spaces.Space = VECTOR,
    action_space: spaces.Space = ENGINES,
    name: str = "mlp",
    **options: Any,
) -> ActorCritic:
    config = NetworkConfig(name=name, hidden=(16, 8), activation="tanh")
    make_encoder = registry.get("network", name)[0]
    features = options.pop("gsde_features", None)
    with torch_seed(0, "test"):
        distribution = make_distribution(action_space, gsde_features=features)
        return ActorCritic(obs_space, distribution, config, make_encoder=make_encoder, **options)


def test_categorical_log_prob_and_entropy() -> None:
    logit_BA = tensor([[0.0, math.log(3)], [0.0, 0.0]])
    got, entropy = Categorical(spaces.Discrete(2)).log_prob_and_entropy(logit_BA, tensor([1, 0]))
    torch.testing.assert_close(got, tensor([math.log(0.75), math.log(0.5)]))
    both = (-0.75 * math.log(0.75) - 0.25 * math.log(0.25) + math.log(2)) / 2
    torch.testing.assert_close(entropy, tensor(both))


def test_gaussian_log_prob_is_summed_over_the_dimensions() -> None:
    gaussian = DiagonalGaussian(ENGINES)
    with torch.no_grad():
        gaussian.log_std_A.copy_(tensor([math.log(2), 0.0]))
    mean_BA = tensor([[0.0, 1.0], [5.0, -1.0]])
    got, entropy = gaussian.log_prob_and_entropy(mean_BA, tensor([[2.0, 1.0], [5.0, 1.0]]))
    # -(1/2) - ln 2 - ln tau / 2 and - ln tau / 2; - ln 2 - ln tau / 2 and -2 - ln tau / 2
    log_tau = math.log(2 * math.pi)
    torch.testing.assert_close(
        got, tensor([-0.5 - math.log(2) - log_tau, -math.log(2) - 2 - log_tau])
    )
    torch.testing.assert_close(entropy, tensor(1 + log_tau + math.log(2)))
    reference = distributions.Independent(
        distributions.Normal(mean_BA, tensor([2.0, 1.0])), reinterpreted_batch_ndims=1
    )
    torch.testing.assert_close(got, reference.log_prob(tensor([[2.0, 1.0], [5.0, 1.0]])))
    torch.testing.assert_close(entropy, reference.entropy()[0])


def test_samples_of_a_categorical_are_distributed_as_its_softmax() -> None:
    categorical = Categorical(spaces.Discrete(3))
    probability = np.array([0.1, 0.3, 0.6])
    [noise_BA] = categorical.draw(np.random.default_rng(0), 1, 20_000)
    action_B = categorical.sample(np.log(probability), noise_BA)
    np.testing.assert_allclose(np.bincount(action_B) / 20_000, probability, atol=0.015)


def test_samples_of_a_gaussian_have_its_mean_and_width() -> None:
    gaussian = DiagonalGaussian(ENGINES, log_std_init=math.log(0.5))
    [noise_BA] = gaussian.draw(np.random.default_rng(0), 1, 20_000)
    action_BA = gaussian.sample(np.array([3.0, -1.0], np.float32), noise_BA)
    assert action_BA.dtype == np.float32
    np.testing.assert_allclose(action_BA.mean(axis=0), [3, -1], atol=0.015)
    np.testing.assert_allclose(action_BA.std(axis=0), 0.5, atol=0.01)
    assert abs(np.corrcoef(action_BA.T)[0, 1]) < 0.03


def gsde() -> StateDependentGaussian:
    """Three features, two engines, widths that all differ."""
    gaussian = StateDependentGaussian(ENGINES, 3, hold_steps=4)
    with torch.no_grad():
        gaussian.log_std_FA.copy_(tensor([[0.1, 1.0], [2.0, 0.5], [0.3, 3.0]]).log())
    return gaussian


def test_gsde_log_prob_and_entropy() -> None:
    # Features 1, 2, 0: variances 0.01 + 4 * 4 and 1 + 4 * 0.25.
    output_BX = tensor([[0.5, -1.0, 1.0, 2.0, 0.0]])
    got, entropy = gsde().log_prob_and_entropy(output_BX, tensor([[4.5, 1.0]]))
    first = distributions.Normal(0.5, math.sqrt(16.01))
    second = distributions.Normal(-1.0, math.sqrt(2.0))
    expected = first.log_prob(tensor(4.5)) + second.log_prob(tensor(1.0))
    torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, first.entropy() + second.entropy(), atol=1e-5, rtol=1e-5)


def test_gsde_samples_have_the_width_of_the_density() -> None:
    gaussian = gsde()
    output_BX = np.tile(np.array([[0.5, -1.0, 1.0, 2.0, 0.0]], np.float32), (20_000, 1))
    [noise_BFA] = gaussian.draw(np.random.default_rng(0), 1, 20_000)
    action_BA = gaussian.sample(output_BX, noise_BFA)
    np.testing.assert_allclose(action_BA.mean(axis=0), [0.5, -1], atol=0.08)
    np.testing.assert_allclose(action_BA.std(axis=0), np.sqrt([16.01, 2]), rtol=0.02)
    np.testing.assert_allclose(gaussian.std(output_BX)[0], np.sqrt([16.01, 2]), rtol=1e-5)
    np.testing.assert_array_equal(gaussian.mode(output_BX), output_BX[:, :2])


def test_gsde_noise_is_a_function_of_the_state_that_is_held() -> None:
    first, *others = gsde().draw(np.random.default_rng(0), 9, 2)
    assert first.shape == (2, 3, 2) and not np.array_equal(first[0], first[1])
    assert [np.array_equal(first, other) for other in others] == [True] * 3 + [False] * 5
    assert np.array_equal(others[3], others[6]) and not np.array_equal(others[6], others[7])


def test_gsde_policy_gives_means_and_features_without_a_gradient() -> None:
    net = network(gsde_features=8)
    obs_B = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    output_BX, _ = net(obs_B)
    features_BF = net.policy.trunk(obs_B)
    torch.testing.assert_close(output_BX[:, 2:], features_BF)
    torch.testing.assert_close(output_BX[:, :2], net.policy.last(features_BF))
    first = net.policy.trunk[0].weight
    assert not torch.autograd.grad(output_BX[:, 2:].sum() + 0 * first.sum(), first)[0].any()
    got = numpy_forward(net.encoder, net.policy)(obs_B.numpy())
    np.testing.assert_allclose(got, output_BX.detach().numpy(), rtol=1e-5, atol=1e-6)
    weight = net.policy.last[0].weight.detach()
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(2), atol=1e-6, rtol=1e-3)


def test_gsde_of_discrete_actions_is_refused() -> None:
    with pytest.raises(UsageError, match="gsde: got actions Discrete"):
        make_distribution(spaces.Discrete(2), gsde_features=3)


def test_actions_for_the_env() -> None:
    assert Categorical(spaces.Discrete(3, start=5)).to_env(np.array([0, 2])).tolist() == [5, 7]
    action_BA = np.array([[-3.0, -3.0], [0.5, 1e9]], np.float32)
    kept = action_BA.copy()
    clipped = DiagonalGaussian(ENGINES).to_env(action_BA)
    np.testing.assert_array_equal(clipped, np.array([[-1, -2], [0.5, 1e9]], np.float32))
    np.testing.assert_array_equal(action_BA, kept)


def test_actions_of_any_shape_are_flat_inside() -> None:
    space = spaces.Box(-1, 1, (2, 3), np.float64)
    gaussian = DiagonalGaussian(space)
    assert gaussian.num_outputs == 6
    action_B = gaussian.to_env(np.zeros((4, 6), np.float32))
    assert action_B.shape == (4, 2, 3) and action_B.dtype == np.float64


def test_orthogonal_weights_and_zero_biases() -> None:
    net = network()
    for mlp, last in ((net.policy, 0.01), (net.value, 1.0)):
        layers = [layer for layer in mlp if isinstance(layer, torch.nn.Linear)]
        for layer, gain in zip(layers, (math.sqrt(2), math.sqrt(2), last), strict=True):
            weight = layer.weight.detach()
            if weight.shape[0] > weight.shape[1]:
                weight = weight.T
            gram = weight @ weight.T
            torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-5, rtol=1e-4)
            assert not layer.bias.any()
    default = network(orthogonal=False)
    assert default.policy[0].bias.any()
    assert not torch.equal(default.policy[-1].weight, net.policy[-1].weight)


def test_convolutions_are_orthogonal_too_and_shared() -> None:
    net = network(FRAMES, spaces.Discrete(3), name="nature_cnn")
    kernel = net.encoder.layers[0].weight.detach().flatten(1)
    torch.testing.assert_close(kernel @ kernel.T, 2 * torch.eye(32), atol=1e-4, rtol=1e-4)
    output_BA, value_B = net(torch.zeros(5, 2, 40, 40, dtype=torch.uint8))
    assert output_BA.shape == (5, 3) and value_B.shape == (5,)


def test_policy_and_value_share_nothing_for_vectors() -> None:
    net = network()
    output_BA, value_B = net(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    value_parameters = torch.autograd.grad(
        output_BA.sum(), list(net.value.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in value_parameters)
    policy_parameters = torch.autograd.grad(
        value_B.sum(), list(net.policy.parameters()), allow_unused=True
    )
    assert all(gradient is None for gradient in policy_parameters)


def test_the_widths_are_parameters() -> None:
    names = dict(network().named_parameters())
    assert names["distribution.log_std_A"].shape == (2,)
    assert not any(
        "log_std" in n for n, _ in network(VECTOR, spaces.Discrete(2)).named_parameters()
    )


def test_numpy_policy_equals_torch() -> None:
    net = network()
    obs_B = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(obs_B))[0].numpy()
    got = numpy_forward(net.encoder, net.policy)(obs_B)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    frames = network(FRAMES, spaces.Discrete(3), name="nature_cnn")
    obs_B = np.full((2, 2, 40, 40), 100, np.uint8)
    with torch.no_grad():
        expected = frames(torch.from_numpy(obs_B))[0].numpy()
    np.testing.assert_array_equal(numpy_forward(frames.encoder, frames.policy)(obs_B), expected)
