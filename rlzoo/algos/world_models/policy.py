"""V, M and C together: what acts, sees and dreams.

In each step V makes latents z of the frame, C chooses an action from z and what M remembers, and M
remembers both (Ha & Schmidhuber 2018, section 2.4). Shape suffixes: B envs, R rows, T steps of an
episode, Z latents, H units of M, F features [z | h | c], M what is carried [h | c], X inputs of C,
A actions, N parameters of C.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.world_models.dream import Beginnings, Dream
from rlzoo.algos.world_models.models import (
    FRAME_SIZE,
    MDNRNN,
    VAE,
    Controller,
    LSTMState,
    as_frames,
    check_actions,
    mixture_mean,
    sample,
    split_mixture,
)
from rlzoo.core.algorithm import Memory
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import UsageError
from rlzoo.envs.zoo.frames import SHOWN_ROWS, frames64

FRAMES_AT_ONCE = 500  # of an episode, for V
NOISE_STEPS = 4096  # after so many steps of an episode, greedy actions meet the same noise again

Inputs = Literal["zh", "z", "h", "zhc"]


@dataclass(frozen=True)
class PolicyConfig:
    """What C is and sees. The defaults make the paper's CarRacing controller of 867 parameters."""

    inputs: Inputs = setting(
        "zh", "what C sees: latents z, M's output h, M's cell c (TakeCover: zhc)", fixed=True
    )
    latent: Literal["sample", "mean"] = setting(
        "sample", "z is drawn from V's distribution (the paper), or is its mean"
    )
    hidden: int = setting(
        0, "tanh units between; 0: C is linear (the paper with V alone: 40)", low=0, fixed=True
    )
    bias: bool = setting(True, "layers have a bias (TakeCover: none)", fixed=True)
    clipped_actions: tuple[int, ...] = setting(
        (),
        "action dimensions where tanh is clipped to the range instead of scaled to it, so that 0 "
        "stays 0 (CarRacing's brake: [2])",
        low=0,
    )


class Senses:
    """V and M as they stand between frames and C. Without `rnn` there is V alone, and H is 0.

    They live on `device`; everything that goes in or comes out is on the CPU.
    """

    def __init__(
        self,
        vae: VAE,
        rnn: MDNRNN | None,
        *,
        latent: Literal["sample", "mean"],
        device: str = "cpu",
    ) -> None:
        self._vae, self._rnn, self._device = vae, rnn, device
        self._samples = latent == "sample"
        self.latent_size = vae.latent_size
        self.hidden_size = rnn.hidden_size if rnn else 0
        self.num_features = self.latent_size + 2 * self.hidden_size

    def look(self, frame_RHWC: np.ndarray, noise_RZ: np.ndarray) -> Tensor:
        """Latents [R, Z]."""
        mu_RZ, logvar_RZ = self._vae.encode(torch.from_numpy(frame_RHWC).to(self._device))
        if not self._samples:
            return mu_RZ.cpu()
        return sample(mu_RZ.cpu(), logvar_RZ.cpu(), torch.from_numpy(noise_RZ))

    def remember(self, feature_RF: Tensor, action_RA: Tensor) -> Tensor:
        """M's [h | c] after an action."""
        sizes = [self.latent_size, self.hidden_size, self.hidden_size]
        z_RZ, h_RH, c_RH = feature_RF.to(self._device).split(sizes, dim=1)
        if self._rnn is None:
            return feature_RF[:, :0]
        state = self._rnn.remember(z_RZ, action_RA.to(self._device), LSTMState(h_RH, c_RH))
        return torch.cat(state, dim=1).cpu()

    def along(self, frame_THWC: np.ndarray, action_TA: np.ndarray, noise_TZ: np.ndarray) -> Tensor:
        """Features [T, F] in each step of an episode that is over."""
        feature_TF = torch.zeros(len(frame_THWC), self.num_features)
        for first in range(0, len(frame_THWC), FRAMES_AT_ONCE):
            part = slice(first, first + FRAMES_AT_ONCE)
            feature_TF[part, : self.latent_size] = self.look(frame_THWC[part], noise_TZ[part])
        for t in range(1, len(feature_TF)):
            before = slice(t - 1, t)
            carry_RM = self.remember(feature_TF[before], torch.from_numpy(action_TA[before]))
            feature_TF[t, self.latent_size :] = carry_RM[0]
        return feature_TF


class VMCPolicy:
    """The policy (a `core.algorithm.Policy`): senses, and C with `params_N` on a part of them.

    It carries M's [h | c] and the time through an episode. Latents are sampled as in training;
    greedy ones with noise that depends on the time alone.
    """

    def __init__(
        self, senses: Senses, controller: Controller, columns: slice, *, seed: int
    ) -> None:
        self.senses, self.controller, self.columns = senses, controller, columns
        self.params_N = np.zeros(controller.num_params)
        self.explore_rng = numpy_generator(seed, "exploration")
        noise_rng = numpy_generator(seed, "greedy latents")
        self._noise_TZ = noise_rng.standard_normal((NOISE_STEPS, senses.latent_size), np.float32)

    def initial(self, num_envs: int) -> Memory:
        carry_BM = np.zeros((num_envs, 2 * self.senses.hidden_size), np.float32)
        return carry_BM, np.zeros(num_envs, np.int64)

    @torch.inference_mode()
    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        carry_BM, t_B = memory
        if explore:
            shape = (len(obs_B), self.senses.latent_size)
            noise_BZ = self.explore_rng.standard_normal(shape, np.float32)
        else:
            noise_BZ = self._noise_TZ[t_B % NOISE_STEPS]
        latent_BZ = self.senses.look(to_frames(obs_B), noise_BZ)
        feature_BF = torch.cat([latent_BZ, torch.from_numpy(carry_BM)], dim=1)
        action_BA = self.choose(feature_BF.numpy())
        carried_BM = self.senses.remember(feature_BF, torch.from_numpy(action_BA))
        return action_BA, (carried_BM.numpy(), t_B + 1)

    def choose(self, feature_BF: np.ndarray) -> np.ndarray:
        """Actions of C for features."""
        layers = self.controller.layers(torch.from_numpy(self.params_N[None].astype(np.float32)))
        return self.controller(layers, torch.from_numpy(feature_BF[:, self.columns])).numpy()

    def inputs(self, frame_THWC: np.ndarray, action_TA: np.ndarray, noise_TZ: np.ndarray) -> Tensor:
        """What C is given in each step of an episode [T, X]."""
        return self.senses.along(frame_THWC, action_TA, noise_TZ)[:, self.columns]


# ---------------------------------------------------------------- how it is put together


def columns(inputs: Inputs, latent_size: int, hidden_size: int) -> slice:
    """Where the inputs of C stand among the features."""
    begin = 0 if "z" in inputs else latent_size
    return slice(begin, latent_size + hidden_size * sum(part in inputs for part in "hc"))


def make_senses(config: PolicyConfig, vae: VAE, rnn: MDNRNN, device: str) -> Senses:
    return Senses(vae, None if config.inputs == "z" else rnn, latent=config.latent, device=device)


def make_controller(
    config: PolicyConfig, vae: VAE, rnn: MDNRNN, action_space: spaces.Box
) -> tuple[Controller, slice]:
    """C, and where its inputs stand among the features."""
    part = columns(config.inputs, vae.latent_size, rnn.hidden_size)
    controller = Controller(
        part.stop - part.start,
        action_space,
        hidden=config.hidden,
        bias=config.bias,
        clipped=config.clipped_actions,
    )
    return controller, part


def to_frames(obs_BHWC: np.ndarray) -> np.ndarray:
    """Observations as the frames that V looks at."""
    is_frame = obs_BHWC.shape[1:3] == (FRAME_SIZE, FRAME_SIZE)
    return obs_BHWC if is_frame else frames64(obs_BHWC)


def check_env(observation_space: Any, action_space: Any) -> None:
    """UsageError unless V can look at the observations, and C make the actions."""
    sizes = [(FRAME_SIZE, FRAME_SIZE), *SHOWN_ROWS]
    shape = observation_space.shape or ()
    is_image = isinstance(observation_space, spaces.Box) and observation_space.dtype == np.uint8
    if not is_image or shape[2:] != (3,) or shape[:2] not in sizes:
        known = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise UsageError(
            f"algo=world_models: got observations {observation_space}, expected pictures of uint8 "
            f"[H, W, 3] of {known} pixels"
        )
    try:
        check_actions(action_space)
    except UsageError as error:
        raise UsageError(f"algo=world_models: {error}") from error


# ---------------------------------------------------------------- to look at


@torch.inference_mode()
def beside(obs_B: np.ndarray, memory: Memory, vae: VAE, rnn: MDNRNN | None) -> np.ndarray:
    """Frames [B, H, W * 3, 3] uint8: what is there, what V keeps of it, what M had expected.

    `memory` is what the policy acts on these observations with. Without `rnn` the last third is
    missing.
    """
    device = next(vae.parameters()).device
    frame_BHWC = to_frames(obs_B)
    mu_BZ, _ = vae.encode(torch.from_numpy(frame_BHWC).to(device))
    shown = [frame_BHWC, as_frames(vae.decode(mu_BZ)).cpu().numpy()]
    if rnn is not None:
        h_BH = torch.from_numpy(memory[0][:, : rnn.hidden_size]).to(device)
        mixture = split_mixture(rnn.predict(h_BH).mixture, rnn.num_components)
        shown.append(as_frames(vae.decode(mixture_mean(mixture))).cpu().numpy())
    return np.concatenate(shown, axis=2)


def dream_film(
    policy: VMCPolicy,
    vae: VAE,
    rnn: MDNRNN,
    beginnings: Beginnings,
    *,
    seed: int,
    temperature: float,
    max_steps: int,
) -> tuple[np.ndarray, float | None]:
    """An episode that the policy dreams, decoded: frames [T, H, W, 3] uint8 and its return.

    The return is None where M knows neither rewards nor an end: then all dreams are worth the same.
    """
    dream = Dream(
        deepcopy(rnn).cpu(),
        beginnings,
        policy.controller.action_space,
        temperature=temperature,
        max_steps=max_steps,
        vae=deepcopy(vae).cpu(),
    )
    feature_BF, return_ = dream.reset([seed]), 0.0
    frames = [dream.render()[0]]
    while dream.alive_B[0]:
        step = dream.step(policy.choose(feature_BF))
        feature_BF, return_ = step.next_obs_B, return_ + float(step.reward_B[0])
        frames.append(dream.render()[0])
    return np.stack(frames), return_ if rnn.reward_head or rnn.done_head else None
