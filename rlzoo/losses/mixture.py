"""Mixture density of M: one mixture of normal distributions for *each* latent dimension.

Ha & Schmidhuber 2018, section 2.3 and appendix A.2; Bishop 1994. Shapes: Z latent dimensions, K
components; any number of leading dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)


class Mixture(NamedTuple):
    """K weighted normal distributions for each of Z dimensions, all [..., Z, K]."""

    logit: Tensor  # unnormalised log weights
    mean: Tensor
    log_std: Tensor


def split_mixture(output: Tensor, num_components: int) -> Mixture:
    """What a linear layer gives, [..., Z * 3 * K], as the parameters of Z mixtures."""
    return Mixture(*output.unflatten(-1, (-1, 3, num_components)).unbind(-2))


def mixture_nll(mixture: Mixture, value: Tensor) -> Tensor:
    """[..., Z] -log density, in nats, of values [..., Z]: each under its own mixture."""
    assert mixture.mean.shape[:-1] == value.shape, (mixture.mean.shape, value.shape)
    deviation = (value.unsqueeze(-1) - mixture.mean) * (-mixture.log_std).exp()
    log_density = mixture.logit - mixture.log_std - 0.5 * deviation.square()
    log_sum = log_density.logsumexp(dim=-1) - mixture.logit.logsumexp(dim=-1)
    return LOG_SQRT_TAU - log_sum


def sample_mixture(
    mixture: Mixture, temperature: float, generator: torch.Generator | None
) -> Tensor:
    """[..., Z] values; a higher temperature makes them less certain (ibid., appendix A.2).

    Logits are divided by the temperature, standard deviations multiplied by its square root.
    """
    cumulative = (mixture.logit / temperature).softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.empty_like(mixture.mean[..., 0]).uniform_(generator=generator)
    normal = torch.empty_like(uniform).normal_(generator=generator)
    # The last component is what is left, so that a sum of 0.9999999 cannot pick one too many.
    choice = (uniform.unsqueeze(-1) > cumulative[..., :-1]).sum(dim=-1, keepdim=True)
    mean = mixture.mean.gather(-1, choice).squeeze(-1)
    log_std = mixture.log_std.gather(-1, choice).squeeze(-1)
    return mean + log_std.exp() * (math.sqrt(temperature) * normal)


def mixture_mean(mixture: Mixture) -> Tensor:
    """[..., Z] expected values."""
    return (mixture.logit.softmax(dim=-1) * mixture.mean).sum(dim=-1)
