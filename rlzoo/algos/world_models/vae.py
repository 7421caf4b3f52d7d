"""V, the eyes: the convolutional variational autoencoder of Ha & Schmidhuber 2018, appendix A.1.

Frames are [B, H, W, 3] uint8 and images [B, H, W, 3] of 0 to 1, both of 64 x 64 pixels. Seen from
the convolutions such a tensor is [B, 3, H, W] in the memory format channels-last, which is also
the faster one. Shape suffixes: B batch, Z latent dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FRAME_SIZE = 64  # pixels: the only one that the layers fit
FEATURES = 1024  # between convolutions and latents, on both sides
# Output channels and kernel size of each layer; all have stride 2 and no padding.
ENCODER_LAYERS = ((32, 4), (64, 4), (128, 4), (256, 4))
DECODER_LAYERS = ((128, 5), (64, 5), (32, 6), (3, 6))


def as_images(frame_BHWC: Tensor) -> Tensor:
    """Frames (uint8) as numbers of 0 to 1."""
    return frame_BHWC.float() * (1 / 255)


def as_frames(image_BHWC: Tensor) -> Tensor:
    """Images of 0 to 1 as uint8."""
    return (image_BHWC.float() * 255).round().clamp(0, 255).to(torch.uint8)


class VAE(nn.Module):
    """Frames to the mean mu and log variance of Z latents, and latents back to images.

    4,348,547 parameters for Z = 32 (CarRacing), 4,446,915 for Z = 64 (TakeCover). With `bf16` the
    layers compute in bfloat16; parameters and results are float32 all the same.
    """

    def __init__(self, latent_size: int = 32, *, bf16: bool = False) -> None:
        super().__init__()
        self.latent_size, self.bf16 = latent_size, bf16
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel in ENCODER_LAYERS:
            layers += [nn.Conv2d(channels, out_channels, kernel, stride=2), nn.ReLU()]
            channels = out_channels
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.mu = nn.Linear(FEATURES, latent_size)
        self.logvar = nn.Linear(FEATURES, latent_size)
        self.features = nn.Linear(latent_size, FEATURES)
        (channels, kernel), *others = DECODER_LAYERS
        self.first = nn.ConvTranspose2d(FEATURES, channels, kernel)
        layers = []
        for out_channels, kernel in others:
            layers += [nn.ReLU(), nn.ConvTranspose2d(channels, out_channels, kernel, stride=2)]
            channels = out_channels
        self.decoder = nn.Sequential(*layers)

    def forward(self, frame_BHWC: Tensor, noise_BZ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructions [B, H, W, 3] from sampled latents, mu and logvar [B, Z]."""
        mu_BZ, logvar_BZ = self.encode(frame_BHWC)
        return self.decode(sample(mu_BZ, logvar_BZ, noise_BZ)), mu_BZ, logvar_BZ

    def encode(self, frame_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar [B, Z] of uint8 frames."""
        assert frame_BHWC.shape[1:] == (FRAME_SIZE, FRAME_SIZE, 3), frame_BHWC.shape
        with self._precision(frame_BHWC):
            features_BF = self.encoder(as_images(frame_BHWC).permute(0, 3, 1, 2))
            mu_BZ, logvar_BZ = self.mu(features_BF), self.logvar(features_BF)
        return mu_BZ.float(), logvar_BZ.float()

    def decode(self, latent_BZ: Tensor) -> Tensor:
        """Images [B, H, W, 3] of latents."""
        with self._precision(latent_BZ):
            x = self.decoder(self._from_one_pixel(self.features(latent_BZ)))
        return x.float().sigmoid().permute(0, 2, 3, 1)

    def _from_one_pixel(self, features_BF: Tensor) -> Tensor:
        """What `first` makes of an image of one pixel, as a matrix product: 7 times as fast."""
        weight, bias = self.first.weight, self.first.bias
        assert bias is not None
        patch_BCKK = (features_BF @ weight.flatten(1)).unflatten(1, weight.shape[1:])
        return (patch_BCKK + bias[:, None, None]).contiguous(memory_format=torch.channels_last)

    def _precision(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.bf16)


def sample(mu_BZ: Tensor, logvar_BZ: Tensor, noise_BZ: Tensor) -> Tensor:
    """Latents [B, Z] of N(mu, exp(logvar)), made from noise of N(0, 1) (Kingma & Welling 2014)."""
    return mu_BZ + (0.5 * logvar_BZ).exp() * noise_BZ


def has_bf16(device: str) -> bool:
    """Whether a device computes with bfloat16 itself; elsewhere it would be slower than float32."""
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.cuda.is_bf16_supported(including_emulation=False)
