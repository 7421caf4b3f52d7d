"""What V sees and M expects, as pictures: beside the real frames, and as dreams without any.

For `rlzoo play`; all that it takes is in checkpoints, no stores of frames or latents are needed.
Shape suffixes: B envs, T frames of a film, H x W pixels, M numbers carried from step to step.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlzoo.algos.world_models.dream import Dream
from rlzoo.algos.world_models.mixture import mixture_mean, split_mixture
from rlzoo.algos.world_models.vae import as_frames
from rlzoo.algos.world_models.worker import to_frames

if TYPE_CHECKING:
    from rlzoo.algos.world_models.agent import WorldModels


@torch.inference_mode()
def beside(agent: WorldModels, obs_B: np.ndarray, memory_BM: np.ndarray) -> np.ndarray:
    """Frames [B, H, 3 * W, 3] uint8: what is there, what V keeps of it, what M had expected.

    `memory_BM` is what `act_with_memory` takes together with these observations. Without an M that
    has learnt something and is in use, the last third is missing. UsageError without V.
    """
    agent.artefacts.require("vision", "beside=true")
    frame_BHWC, device = to_frames(obs_B), agent.setup.device
    mu_BZ, _ = agent.vae.encode(torch.from_numpy(frame_BHWC).to(device))
    shown = [frame_BHWC, as_frames(agent.vae.decode(mu_BZ)).cpu().numpy()]
    if agent.senses.hidden_size and "memory" in agent.artefacts:
        h_BH = torch.from_numpy(memory_BM[:, : agent.senses.hidden_size]).to(device)
        mixture = split_mixture(agent.rnn.predict(h_BH).mixture, agent.rnn.num_components)
        shown.append(as_frames(agent.vae.decode(mixture_mean(mixture))).cpu().numpy())
    return np.concatenate(shown, axis=2)


def dream_film(
    agent: WorldModels, *, seed: int, temperature: float | None = None
) -> tuple[np.ndarray, float | None]:
    """An episode that the policy dreams, decoded: frames [T, H, W, 3] uint8 and its return.

    The return is None where M knows neither rewards nor an end: then all dreams are worth the same.
    The temperature is that of the settings where none is given. UsageError without M, or latents to
    begin with.
    """
    for phase in ("encode", "memory"):
        agent.artefacts.require(phase, "dream=true")
    config = agent.config.controller
    dream = Dream(
        deepcopy(agent.rnn).cpu(),
        agent.artefacts.beginnings(),
        agent.env.action_space,
        temperature=config.temperature if temperature is None else temperature,
        max_steps=config.max_dream_steps,
        vae=deepcopy(agent.vae).cpu(),
    )
    feature_BF, return_ = dream.reset([seed]), 0.0
    frames = [dream.render()[0]]
    while dream.alive_B[0]:
        step = dream.step(agent.policy(feature_BF))
        feature_BF, return_ = step.next_obs_B, return_ + float(step.reward_B[0])
        frames.append(dream.render()[0])
    is_known = agent.rnn.reward_head or agent.rnn.done_head
    return np.stack(frames), return_ if is_known else None
