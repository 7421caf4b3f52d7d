"""The loss of the VAE of World Models. Shapes: B batch, Z latent dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class VAELoss(NamedTuple):
    total: Tensor  # scalar, the one to minimise
    reconstruction: Tensor  # scalar, mean of `squared_error`
    kl: Tensor  # scalar, nats, mean of `kl_to_standard_normal` before its floor


def squared_error(reconstruction_B: Tensor, image_B: Tensor) -> Tensor:
    """[B] squared errors, *summed* over all pixels and colours of an image."""
    assert reconstruction_B.shape == image_B.shape, (reconstruction_B.shape, image_B.shape)
    return (reconstruction_B - image_B).square().flatten(1).sum(dim=1)


def kl_to_standard_normal(mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """[B] KL(N(mu, exp(logvar)) || N(0, 1)) in nats (Kingma & Welling 2014, appendix B)."""
    assert mu_BZ.shape == logvar_BZ.shape, (mu_BZ.shape, logvar_BZ.shape)
    kl_BZ = 0.5 * (mu_BZ.square() + logvar_BZ.exp() - 1 - logvar_BZ)
    return kl_BZ.sum(dim=1)


def vae_loss(
    reconstruction_B: Tensor,
    image_B: Tensor,
    mu_BZ: Tensor,
    logvar_BZ: Tensor,
    *,
    free_nats: float,
) -> VAELoss:
    """Mean over the batch of squared error + max(KL, free_nats * Z).

    Below its floor an image's KL costs nothing, so that the latents stay in use (the original's
    `kl_tolerance`; Kingma et al. 2016 call it free bits).
    """
    error_B = squared_error(reconstruction_B, image_B)
    kl_B = kl_to_standard_normal(mu_BZ, logvar_BZ)
    floor = free_nats * mu_BZ.shape[1]
    total = (error_B + torch.clamp(kl_B, min=floor)).mean()
    return VAELoss(total, error_B.mean(), kl_B.mean())
