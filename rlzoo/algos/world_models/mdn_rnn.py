"""M, the memory: an LSTM that predicts the next latents (Ha & Schmidhuber 2018, appendix A.2).

Shape suffixes: T time, B batch, Z latent dimensions, A action dimensions, H units of the LSTM.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

FORGET_BIAS = 1.0  # the gate is open at first, as in the original


class Memory(NamedTuple):
    """What the LSTM carries from step to step, [B, H] each."""

    h: Tensor
    c: Tensor


class Prediction(NamedTuple):
    """What M expects after the action; leading dimensions as those of `h`."""

    mixture: Tensor  # [..., Z * 3 * K], for `losses.mixture.split_mixture`
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

    def initial(self, batch_size: int) -> Memory:
        """Zeros: what an episode begins with."""
        zeros_BH = self.head.weight.new_zeros(batch_size, self.hidden_size)
        return Memory(zeros_BH, zeros_BH.clone())

    def remember(self, latent_BZ: Tensor, action_BA: Tensor, memory: Memory) -> Memory:
        """The memory after one step: what a controller sees, and what the next step needs."""
        # CUDA's LSTM refuses views such as columns of a wider tensor.
        h_TBH, c_TBH = (part.contiguous().unsqueeze(0) for part in memory)
        x_TBX = torch.cat([latent_BZ, action_BA], dim=-1).unsqueeze(0)
        _, (h_TBH, c_TBH) = self.lstm(x_TBX, (h_TBH, c_TBH))
        return Memory(h_TBH[0], c_TBH[0])

    def forward(
        self, latent_TBZ: Tensor, action_TBA: Tensor, memory: Memory | None = None
    ) -> Prediction:
        """Predictions after each of T steps, [T, B, ...]; without `memory` from zeros."""
        return self.predict(self.remembered(latent_TBZ, action_TBA, memory))

    def remembered(
        self, latent_TBZ: Tensor, action_TBA: Tensor, memory: Memory | None = None
    ) -> Tensor:
        """The LSTM's outputs [T, B, H] after each of T steps, for `predict`."""
        start = None if memory is None else (memory.h.unsqueeze(0), memory.c.unsqueeze(0))
        return self.lstm(torch.cat([latent_TBZ, action_TBA], dim=-1), start)[0]

    def predict(self, h: Tensor) -> Prediction:
        """What follows from the LSTM's outputs [..., H]."""
        output = self.head(h)
        mixture = output[..., : self.mixture_outputs]
        reward = output[..., self.mixture_outputs] if self.reward_head else None
        return Prediction(mixture, reward, output[..., -1] if self.done_head else None)
