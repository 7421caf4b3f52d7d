"""The three networks of Ha & Schmidhuber 2018 and what V and M learn by: V, M, and C.

V, the eyes: a convolutional variational autoencoder (appendix A.1). M, the memory: an LSTM that
predicts the next latents as a mixture density (section 2.3, appendix A.2; Bishop 1994). C, the
controller: a linear policy on what V sees and M remembers (section 2.4). Frames are [B, H, W, 3]
uint8 and images [B, H, W, 3] of 0 to 1, both of 64 x 64 pixels. Shape suffixes: T time, B batch, Z
latent dimensions, A action dimensions, H units of the LSTM, K components of a mixture, R rows, F
features, N parameters of C.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.core.types import UsageError
from rlzoo.nets.update import Named

FRAME_SIZE = 64  # pixels: the only one that the layers fit
FEATURES = 1024  # between convolutions and latents, on both sides
# Output channels and kernel size of each layer; all have stride 2 and no padding.
ENCODER_LAYERS = ((32, 4), (64, 4), (128, 4), (256, 4))
DECODER_LAYERS = ((128, 5), (64, 5), (32, 6), (3, 6))
FORGET_BIAS = 1.0  # the LSTM's gate is open at first, as in the original
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)

# ------------------------------------------------------------------------------------ V: vision


def as_images(frame_BHWC: Tensor) -> Tensor:
    """Frames (uint8) as numbers of 0 to 1."""
    return frame_BHWC.float() * (1 / 255)


def as_frames(image_BHWC: Tensor) -> Tensor:
    """Images of 0 to 1 as uint8."""
    return (image_BHWC.float() * 255).round().clamp(0, 255).to(torch.uint8)


class VAE(nn.Module):
    """Frames to the mean mu and log variance of Z latents, and latents back to images.

    4,348,547 parameters for Z = 32 (CarRacing), 4,446,915 for Z = 64 (TakeCover). With `bf16` the
    layers compute in bfloat16; parameters and results are float32 all the same. The convolutions
    work on [B, 3, H, W] in the memory format channels-last, which is also the faster one.
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
) -> tuple[Tensor, Named]:
    """Mean over the batch of squared error + max(KL, free_nats * Z), and the two terms' means.

    Below its floor an image's KL costs nothing, so that the latents stay in use (the original's
    `kl_tolerance`; Kingma et al. 2016 call it free bits).
    """
    error_B = squared_error(reconstruction_B, image_B)
    kl_B = kl_to_standard_normal(mu_BZ, logvar_BZ)
    floor = free_nats * mu_BZ.shape[1]
    total = (error_B + torch.clamp(kl_B, min=floor)).mean()
    return total, {"reconstruction_error": error_B.mean(), "kl": kl_B.mean()}


# ------------------------------------------------------------------------------------ M: memory


class LSTMState(NamedTuple):
    """What the LSTM carries from step to step, [B, H] each."""

    h: Tensor
    c: Tensor


class Prediction(NamedTuple):
    """What M expects after the action; leading dimensions as those of `h`."""

    mixture: Tensor  # [..., Z * 3 * K], for `split_mixture`
    reward: Tensor | None  # [...]
    done_logit: Tensor | None  # [...] of P(this action ends the episode in a terminal state)


class MDNRNN(nn.Module):
    """Latents and actions to a mixture of K normal distributions for each next latent dimension.

    Acting needs only `remember`; `predict` is one linear layer on top. With the paper's sizes there
    are 480 outputs for CarRacing (Z 32, A 3, H 256) and 961 for TakeCover (Z 64, H 512, done head).
    The former makes 423,392 parameters: PyTorch's LSTM has a second bias, TensorFlow's 422,368 not.
    """

    def __init__(
        self,
        latent_size: int = 32,
        action_size: int = 3,
        *,
        hidden_size: int = 256,
        num_components: int = 5,
        reward_head: bool = False,
        done_head: bool = False,
    ) -> None:
        super().__init__()
        self.latent_size, self.action_size = latent_size, action_size
        self.hidden_size, self.num_components = hidden_size, num_components
        self.reward_head, self.done_head = reward_head, done_head
        self.lstm = nn.LSTM(latent_size + action_size, hidden_size)
        self.mixture_outputs = latent_size * 3 * num_components
        self.head = nn.Linear(hidden_size, self.mixture_outputs + reward_head + done_head)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
        # PyTorch's order of the gates: input, forget, cell, output.
        forget = self.lstm.get_parameter("bias_ih_l0")[hidden_size : 2 * hidden_size]
        nn.init.constant_(forget, FORGET_BIAS)

    def initial(self, batch_size: int) -> LSTMState:
        """Zeros: what an episode begins with."""
        zeros_BH = self.head.weight.new_zeros(batch_size, self.hidden_size)
        return LSTMState(zeros_BH, zeros_BH.clone())

    def remember(self, latent_BZ: Tensor, action_BA: Tensor, state: LSTMState) -> LSTMState:
        """The state after one step: what a controller sees, and what the next step needs."""
        # CUDA's LSTM refuses views such as columns of a wider tensor.
        h_TBH, c_TBH = (part.contiguous().unsqueeze(0) for part in state)
        x_TBX = torch.cat([latent_BZ, action_BA], dim=-1).unsqueeze(0)
        _, (h_TBH, c_TBH) = self.lstm(x_TBX, (h_TBH, c_TBH))
        return LSTMState(h_TBH[0], c_TBH[0])

    def forward(
        self, latent_TBZ: Tensor, action_TBA: Tensor, state: LSTMState | None = None
    ) -> Prediction:
        """Predictions after each of T steps, [T, B, ...]; without `state` from zeros."""
        return self.predict(self.remembered(latent_TBZ, action_TBA, state))

    def remembered(
        self, latent_TBZ: Tensor, action_TBA: Tensor, state: LSTMState | None = None
    ) -> Tensor:
        """The LSTM's outputs [T, B, H] after each of T steps, for `predict`."""
        start = None if state is None else (state.h.unsqueeze(0), state.c.unsqueeze(0))
        return self.lstm(torch.cat([latent_TBZ, action_TBA], dim=-1), start)[0]

    def predict(self, h: Tensor) -> Prediction:
        """What follows from the LSTM's outputs [..., H]."""
        output = self.head(h)
        mixture = output[..., : self.mixture_outputs]
        reward = output[..., self.mixture_outputs] if self.reward_head else None
        return Prediction(mixture, reward, output[..., -1] if self.done_head else None)


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


# -------------------------------------------------------------------------------- C: controller

Layer = tuple[Tensor, Tensor]  # weight [R, inputs, outputs], bias [R, 1, outputs]


class Controller:
    """A function from features to actions; its parameters come with each call.

    It is linear, or has one layer of `hidden` tanh units. Outputs are a tanh: scaled to the range
    of the action, or, in the dimensions `clipped`, clipped to it, so that 0 stays 0 (CarRacing's
    brake).
    """

    def __init__(
        self,
        num_features: int,
        action_space: spaces.Box,
        *,
        hidden: int = 0,
        bias: bool = True,
        clipped: Sequence[int] = (),
    ) -> None:
        check_actions(action_space)
        self.action_space = action_space
        [self.action_size] = action_space.shape
        self._has_bias = bias
        self._low_A = low_A = torch.from_numpy(action_space.low)
        self._high_A = high_A = torch.from_numpy(action_space.high)
        is_clipped_A = torch.tensor([i in clipped for i in range(self.action_size)])
        self._scale_A = torch.where(is_clipped_A, 1.0, (high_A - low_A) / 2)
        self._offset_A = torch.where(is_clipped_A, 0.0, (high_A + low_A) / 2)
        sizes = [num_features, *([hidden] if hidden else []), self.action_size]
        self._shapes = list(itertools.pairwise(sizes))

    @property
    def num_params(self) -> int:
        return sum((inputs + self._has_bias) * outputs for inputs, outputs in self._shapes)

    def layers(self, params_RN: Tensor) -> list[Layer]:
        """The layers of R controllers, as views of their parameters."""
        assert params_RN.shape[1:] == (self.num_params,), params_RN.shape
        layers, rest = [], params_RN
        for inputs, outputs in self._shapes:
            weight, rest = rest.tensor_split([inputs * outputs], dim=1)
            bias, rest = rest.tensor_split([outputs if self._has_bias else 0], dim=1)
            layers.append((weight.unflatten(1, (inputs, outputs)), bias.unsqueeze(1)))
        return layers

    def outputs(self, layers: list[Layer], features_RF: Tensor) -> Tensor:
        """What the last tanh is of [R, A]: each row's features under its own controller, or all
        under one.
        """
        x, last = features_RF.unsqueeze(1), len(layers) - 1
        for index, (weight, bias) in enumerate(layers):
            x = torch.matmul(x, weight)
            x = x + bias if self._has_bias else x
            x = x if index == last else x.tanh()
        return x.squeeze(1)

    def __call__(self, layers: list[Layer], features_RF: Tensor) -> Tensor:
        """Actions [R, A]."""
        action_RA = self._offset_A + self._scale_A * self.outputs(layers, features_RF).tanh()
        return action_RA.clamp(self._low_A, self._high_A)


def check_actions(space: Any) -> None:
    """UsageError for actions that C cannot make."""
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
    if not is_vector or space.dtype != np.float32 or not space.is_bounded():
        raise UsageError(f"got actions {space}, expected a bounded Box of float32 [A]")
