"""Losses and rewards of adversarial imitation against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlzoo.algos.gail.losses import (
    bernoulli_entropy,
    discriminator_loss,
    gradient_penalty,
    imitation_reward,
)

LN2 = math.log(2)


def test_a_discriminator_that_knows_nothing_loses_2_ln_2():
    loss = discriminator_loss(torch.zeros(5), torch.zeros(7))
    assert float(loss) == pytest.approx(2 * LN2)


def test_discriminator_loss_by_hand():
    # D = 3/4 for one expert pair, 1/2 for the other; D = 1/4 for the only agent's.
    expert = torch.tensor([math.log(3), 0.0])
    agent = torch.tensor([-math.log(3)])
    wanted = -(math.log(3 / 4) + math.log(1 / 2)) / 2 - math.log(3 / 4)
    assert float(discriminator_loss(expert, agent)) == pytest.approx(wanted)


def test_the_loss_falls_when_the_experts_logit_rises_and_the_agents_falls():
    expert, agent = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss(expert, agent).backward()
    # d/dx softplus(-x) = -1/2 and d/dx softplus(x) = 1/2 at 0, each over its own batch.
    assert expert.grad.tolist() == pytest.approx([-1 / 4] * 2)
    assert agent.grad.tolist() == pytest.approx([1 / 6] * 3)


def test_no_overflow_where_d_is_certain():
    far = torch.tensor([500.0])
    assert float(discriminator_loss(-far, far)) == pytest.approx(1000)
    assert float(discriminator_loss(far, -far)) == 0
    assert float(bernoulli_entropy(far)) == float(bernoulli_entropy(-far)) == 0
    for form in ("gail", "log_d", "airl", "fairl"):
        assert torch.isfinite(imitation_reward(torch.tensor([-500.0, 500.0]), form)).all()


def test_entropy_by_hand():
    # D = 1/2 and D = 1/4
    logit_B = torch.tensor([0.0, -math.log(3)])
    wanted = (LN2 - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)) / 2
    assert float(bernoulli_entropy(logit_B)) == pytest.approx(wanted)


def test_gradient_penalty_by_hand():
    # logit = 3 x + 4 y^2 / 2: gradients (3, 0) and (3, 4), norms 3 and 5.
    input_BF = torch.tensor([[7.0, 0.0], [1.0, 1.0]], requires_grad=True)
    logit_B = 3 * input_BF[:, 0] + 2 * input_BF[:, 1] ** 2
    assert float(gradient_penalty(logit_B, input_BF)) == pytest.approx((2**2 + 4**2) / 2)
    logit_B = 3 * input_BF[:, 0] + 2 * input_BF[:, 1] ** 2
    assert float(gradient_penalty(logit_B, input_BF, 0.0)) == pytest.approx((3**2 + 5**2) / 2)


def test_gradient_penalty_reaches_the_parameters_also_where_the_gradient_is_zero():
    weight = torch.tensor([[2.0, 0.0]], requires_grad=True)
    input_BF = torch.ones(1, 2, requires_grad=True)
    gradient_penalty((input_BF @ weight.T).squeeze(1), input_BF).backward()
    assert weight.grad.tolist() == [[2.0, 0.0]]  # d (|w| - 1)^2 / dw
    weight = torch.zeros(1, 2, requires_grad=True)
    gradient_penalty((input_BF @ weight.T).squeeze(1), input_BF).backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("gail", [math.log(4), LN2, -math.log(3 / 4)]),  # -log(1 - D)
        ("log_d", [math.log(3 / 4), -LN2, math.log(1 / 4)]),  # log D
        ("airl", [math.log(3), 0.0, -math.log(3)]),  # log D - log(1 - D)
        ("fairl", [-3 * math.log(3), 0.0, math.log(3) / 3]),  # -h exp(h)
    ],
)
def test_rewards_by_hand(form, wanted):
    logit_B = torch.tensor([math.log(3), 0.0, -math.log(3)])  # D = 3/4, 1/2, 1/4
    assert imitation_reward(logit_B, form).tolist() == pytest.approx(wanted, abs=1e-6)
    # Only FAIRL's falls where D is surer of the expert.
    rises = (imitation_reward(logit_B, form).diff() < 0).all()
    assert bool(rises) == (form != "fairl")
