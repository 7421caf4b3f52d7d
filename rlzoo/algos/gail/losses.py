"""Losses and rewards of adversarial imitation as pure functions of logits. Shapes: B batch.

A logit is that of D, the probability that a pair of observation and action is the expert's: it is
high for the expert, low for the agent.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

RewardForm = Literal["gail", "log_d", "airl", "fairl"]
FAIRL_CLIP = 5.0  # of the logit: the reward grows with its exponential


def discriminator_loss(expert_logit_B: Tensor, agent_logit_B: Tensor) -> Tensor:
    """Binary cross-entropy -E_expert[log D] - E_agent[log(1 - D)]; 2 ln 2 where D is 1/2.

    Ho & Ermon 2016, equation 15 (there with the roles of D and 1 - D exchanged).
    """
    assert expert_logit_B.ndim == agent_logit_B.ndim == 1
    return softplus(-expert_logit_B).mean() + softplus(agent_logit_B).mean()


def bernoulli_entropy(logit_B: Tensor) -> Tensor:
    """Mean entropy of the decisions with these logits, in nats."""
    return (softplus(logit_B) - torch.sigmoid(logit_B) * logit_B).mean()


def gradient_penalty(logit_B: Tensor, input_BF: Tensor, target: float = 1.0) -> Tensor:
    """Mean squared distance of the norm of d logit / d input from `target`.

    Gulrajani et al. 2017, equation 3. The inputs must require gradients.
    """
    [gradient_BF] = torch.autograd.grad(logit_B.sum(), input_BF, create_graph=True)
    # The norm has no gradient at 0.
    norm_B = (gradient_BF.square().sum(dim=1) + 1e-12).sqrt()
    return (norm_B - target).square().mean()


def imitation_reward(logit_B: Tensor, form: RewardForm) -> Tensor:
    """The reward [B] of the agent for pairs with these logits.

    gail    -log(1 - D), never negative: to survive pays, whatever one does (Ho & Ermon 2016)
    log_d   log D, never positive: to end the episode pays
    airl    log D - log(1 - D), of both signs (Fu et al. 2018)
    fairl   -h exp(h) of that h: the forward KL divergence (Ghasemipour et al. 2020)
    """
    if form == "gail":
        return softplus(logit_B)
    if form == "log_d":
        return logsigmoid(logit_B)
    if form == "airl":
        return logit_B
    h_B = logit_B.clamp(-FAIRL_CLIP, FAIRL_CLIP)
    return -h_B * h_B.exp()
