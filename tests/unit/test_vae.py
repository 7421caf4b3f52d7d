"""V: the paper's sizes, its loss worked out by hand, and the faults that are easily made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlzoo.algos.world_models.models import (
    VAE,
    as_frames,
    as_images,
    has_bf16,
    kl_to_standard_normal,
    sample,
    squared_error,
    vae_loss,
)
from rlzoo.core.seeding import torch_generator, torch_seed
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named


def make(latent_size: int = 32, *, bf16: bool = False) -> VAE:
    with torch_seed(0, "test"):
        return VAE(latent_size, bf16=bf16)


def some_frames(count: int, seed: int = 0) -> Tensor:
    """Smooth pictures, uint8: a coarse random pattern blown up."""
    generator = torch_generator(seed, "frames")
    coarse = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    fine = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return fine.permute(0, 2, 3, 1).contiguous()


def some_noise(count: int, latent_size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(count, latent_size, generator=torch_generator(seed, "noise"))


# --- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize(("latent_size", "parameters"), [(32, 4_348_547), (64, 4_446_915)])
def test_has_the_papers_number_of_parameters(latent_size: int, parameters: int) -> None:
    assert sum(p.numel() for p in VAE(latent_size).parameters()) == parameters


def test_shapes_ranges_and_types() -> None:
    frame_BHWC = some_frames(3)
    image_BHWC, mu_BZ, logvar_BZ = make(64)(frame_BHWC, some_noise(3, 64))
    assert image_BHWC.shape == frame_BHWC.shape and mu_BZ.shape == logvar_BZ.shape == (3, 64)
    assert {t.dtype for t in (image_BHWC, mu_BZ, logvar_BZ)} == {torch.float32}
    assert image_BHWC.min() >= 0 and image_BHWC.max() <= 1
    with pytest.raises(AssertionError):
        make().encode(frame_BHWC[:, :32])
    with pytest.raises(AssertionError):
        make().encode(frame_BHWC.permute(0, 3, 1, 2))


def reference(vae: VAE, frame_BHWC: Tensor, noise_BZ: Tensor) -> Tensor:
    """The same layers in PyTorch's usual layout, one after the other."""
    x = frame_BHWC.permute(0, 3, 1, 2).contiguous() / 255
    for layer in vae.encoder:
        x = layer(x)
    z = vae.mu(x) + (vae.logvar(x) / 2).exp() * noise_BZ
    x = vae.first(vae.features(z).reshape(-1, 1024, 1, 1))
    return torch.sigmoid(vae.decoder(x)).permute(0, 2, 3, 1)


def test_equals_the_plain_layers_also_in_its_gradients() -> None:
    vae, frame_BHWC, noise_BZ = make(), some_frames(4), some_noise(4)
    expected, got = reference(vae, frame_BHWC, noise_BZ), vae(frame_BHWC, noise_BZ)[0]
    torch.testing.assert_close(got, expected)
    parameters = list(vae.parameters())
    gradients = [torch.autograd.grad(image.square().sum(), parameters) for image in (got, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_layers_are_the_papers() -> None:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    layers = [m for m in make().modules() if isinstance(m, kinds)]
    sizes = [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in layers]
    encoder = [(3, 32, 4), (32, 64, 4), (64, 128, 4), (128, 256, 4)]
    assert sizes == [*encoder, (1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)]
    assert [m.stride for m in layers if m.in_channels != 1024] == [(2, 2)] * 7
    vae = make()
    assert [type(m) for m in vae.encoder] == [nn.Conv2d, nn.ReLU] * 4 + [nn.Flatten]
    assert [type(m) for m in vae.decoder] == [nn.ReLU, nn.ConvTranspose2d] * 3


def test_bfloat16_differs_by_roundings_only() -> None:
    frame_BHWC, noise_BZ = some_frames(4), some_noise(4)
    for got, expected in zip(
        make(bf16=True)(frame_BHWC, noise_BZ), make()(frame_BHWC, noise_BZ), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0, atol=0.02)
        assert not torch.equal(got, expected)
    assert isinstance(has_bf16("cpu"), bool)


def test_frames_survive_being_images() -> None:
    frame_BHWC = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(as_frames(as_images(frame_BHWC)), frame_BHWC)
    assert as_frames(torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1])).tolist() == [0, 0, 128, 255, 255]


def test_latents_are_sampled_with_the_standard_deviation() -> None:
    # exp(log(4) / 2) = 2
    mu_BZ, logvar_BZ = torch.tensor([[1.0, -1.0]]), torch.tensor([[math.log(4.0), 0.0]])
    z_BZ = sample(mu_BZ, logvar_BZ, torch.tensor([[0.5, -3.0]]))
    torch.testing.assert_close(z_BZ, torch.tensor([[2.0, -4.0]]))


# --- the loss, by hand --------------------------------------------------------------------------

MU_BZ = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
LOGVAR_BZ = torch.tensor([[0.0, math.log(2.0)], [math.log(0.5), 0.0]])
# (mu^2 + var - 1 - log var) / 2: .5 + (2 - 1 - log 2) / 2, and (.5 - 1 + log 2) / 2 + 2
KL = [0.5 + (1 - math.log(2)) / 2, (math.log(2) - 0.5) / 2 + 2]
IMAGE_BHWC = torch.zeros(2, 2, 1, 3)
RECONSTRUCTION_BHWC = torch.stack([torch.full((2, 1, 3), 0.5), torch.full((2, 1, 3), 0.1)])
ERROR = [6 * 0.25, 6 * 0.01]  # six numbers each, summed


def loss(free_nats: float) -> tuple[Tensor, Named]:
    return vae_loss(RECONSTRUCTION_BHWC, IMAGE_BHWC, MU_BZ, LOGVAR_BZ, free_nats=free_nats)


def test_kl_and_error_by_hand() -> None:
    torch.testing.assert_close(kl_to_standard_normal(MU_BZ, LOGVAR_BZ), torch.tensor(KL))
    torch.testing.assert_close(squared_error(RECONSTRUCTION_BHWC, IMAGE_BHWC), torch.tensor(ERROR))
    assert kl_to_standard_normal(torch.zeros(1, 5), torch.zeros(1, 5)).item() == 0


def test_kl_is_torchs() -> None:
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        normal(MU_BZ, (LOGVAR_BZ / 2).exp()), normal(torch.zeros(2, 2), torch.ones(2, 2))
    )
    torch.testing.assert_close(kl_to_standard_normal(MU_BZ, LOGVAR_BZ), theirs.sum(dim=1))


@pytest.mark.parametrize(
    ("free_nats", "kl"),
    [(0.0, KL), (0.5, [1.0, KL[1]]), (2.0, [4.0, 4.0])],  # floors: 0, 2 * .5, 2 * 2
)
def test_free_bits_by_hand(free_nats: float, kl: list[float]) -> None:
    total, parts = loss(free_nats)
    assert total.item() == pytest.approx(sum(ERROR) / 2 + sum(kl) / 2)
    expected = {"reconstruction_error": sum(ERROR) / 2, "kl": sum(KL) / 2}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected)


def test_below_the_floor_the_kl_pulls_at_nothing() -> None:
    """Without free bits it does: the gradient is mu and (var - 1) / 2."""
    for free_nats, expected in ((2.0, torch.zeros(2, 2)), (0.0, MU_BZ / 2)):
        mu_BZ = MU_BZ.clone().requires_grad_()
        args = (RECONSTRUCTION_BHWC, IMAGE_BHWC, mu_BZ, LOGVAR_BZ)
        vae_loss(*args, free_nats=free_nats)[0].backward()
        torch.testing.assert_close(mu_BZ.grad, expected)


PLANTED = {
    "mean over pixels instead of the sum": lambda: (
        (RECONSTRUCTION_BHWC - IMAGE_BHWC).square().mean() + torch.tensor(KL).clamp(min=1.0).mean()
    ),
    "mean over latents instead of the sum": lambda: (
        sum(ERROR) / 2 + (torch.tensor(KL) / 2).clamp(min=1.0).mean()
    ),
    "no free bits": lambda: torch.tensor(sum(ERROR) / 2 + sum(KL) / 2),
    "a floor under the batch's mean": lambda: (
        torch.tensor(sum(ERROR) / 2) + torch.tensor(KL).mean().clamp(min=1.0)
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_known_faults_give_another_loss(fault: str) -> None:
    assert float(PLANTED[fault]()) != pytest.approx(loss(0.5)[0].item(), rel=1e-3)


def test_gradients_are_finite_differences() -> None:
    mu_BZ = MU_BZ.double().requires_grad_()
    logvar_BZ = LOGVAR_BZ.double().requires_grad_()
    image = RECONSTRUCTION_BHWC.double().requires_grad_()

    def total(image: Tensor, mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
        return vae_loss(image, IMAGE_BHWC.double(), mu_BZ, logvar_BZ, free_nats=0.5)[0]

    assert torch.autograd.gradcheck(total, (image, mu_BZ, logvar_BZ))


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(AssertionError):
        squared_error(RECONSTRUCTION_BHWC, IMAGE_BHWC[:1])
    with pytest.raises(AssertionError):
        kl_to_standard_normal(MU_BZ, LOGVAR_BZ[:1])


# --- training -----------------------------------------------------------------------------------


def trained(updates: int, *, bf16: bool) -> list[float]:
    """Losses of some updates on 8 pictures of one colour each."""
    vae = make(bf16=bf16)
    optimizer = Adam(vae.parameters(), lr=1e-3)
    frame_BHWC = some_frames(8)[:, :1, :1].repeat(1, 64, 64, 1)

    def loss(frame_BHWC: Tensor, noise_BZ: Tensor) -> tuple[Tensor, Named]:
        image_BHWC, mu_BZ, logvar_BZ = vae(frame_BHWC, noise_BZ)
        return vae_loss(image_BHWC, as_images(frame_BHWC), mu_BZ, logvar_BZ, free_nats=0.5)

    update = GradientStep(optimizer, loss, max_grad_norm=None, compile=False)
    return [update(frame_BHWC, some_noise(8, seed=i))["loss"].item() for i in range(updates)]


@pytest.mark.parametrize("bf16", [False, True])
def test_learns_with_our_optimiser_and_is_repeatable(bf16: bool) -> None:
    losses = trained(16, bf16=bf16)
    assert losses[-1] < 0.8 * losses[0]
    assert trained(2, bf16=bf16) == losses[:2]


def test_channels_last_gradients_reach_their_parameters() -> None:
    """The optimiser flattens gradients: whatever their layout, that must keep their order."""
    vae, frame_BHWC, noise_BZ = make(), some_frames(4), some_noise(4)
    theirs = make()
    adam = Adam(vae.parameters(), lr=1e-3)
    reference_adam = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)

    def loss(frame_BHWC: Tensor) -> tuple[Tensor, Named]:
        return vae(frame_BHWC, noise_BZ)[0].square().sum(), {}

    GradientStep(adam, loss, max_grad_norm=None, compile=False)(frame_BHWC)
    theirs(frame_BHWC, noise_BZ)[0].square().sum().backward()
    reference_adam.step()
    for one, other in zip(vae.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not np.array_equal(adam.vector.numpy(), Adam(make().parameters(), lr=1).vector.numpy())
