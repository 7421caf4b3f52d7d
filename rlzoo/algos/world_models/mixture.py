"""Mixture density of M: one mixture of normal distributions for *each* latent dimension.

Ha & Schmidhuber 2018, section 2.3 and appendix A.2; Bishop 1994. Shapes: Z latent dimensions, K
components; any number of leading dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

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
    mixture: Mixture, uniform: Tensor, normal: Tensor, *, temperature: float
) -> Tensor:
    """[..., Z] values for random numbers [..., Z]: uniform in [0, 1), and standard normal.

    A higher temperature makes them less certain: logits are divided by it, standard deviations
    multiplied by its square root (ibid., appendix A.2).
    """
    # With the components first, all but one operation run over whole rows, which is faster.
    logit, mean, log_std = (part.movedim(-1, 0).contiguous() for part in mixture)
    cumulative = (logit / temperature).softmax(dim=0).cumsum(dim=0)
    # The last component is what is left, so that a sum of 0.9999999 cannot pick one too many.
    choice = (uniform > cumulative[:-1]).sum(dim=0, keepdim=True)
    std = log_std.gather(0, choice).squeeze(0).exp()
    return mean.gather(0, choice).squeeze(0) + std * (math.sqrt(temperature) * normal)


def mixture_mean(mixture: Mixture) -> Tensor:
    """[..., Z] expected values."""
    return (mixture.logit.softmax(dim=-1) * mixture.mean).sum(dim=-1)
