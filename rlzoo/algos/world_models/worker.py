"""From settings, V and M to what plays a share of a population, in this process or another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.algos.world_models.config import WorldModelsConfig
from rlzoo.algos.world_models.controller import ControllerConfig
from rlzoo.algos.world_models.controller_net import Controller, check_actions
from rlzoo.algos.world_models.dream import Beginnings, Dream
from rlzoo.algos.world_models.mdn_rnn import MDNRNN
from rlzoo.algos.world_models.memory import make_rnn
from rlzoo.algos.world_models.population import Player, SeenEpisodes, Senses, columns
from rlzoo.algos.world_models.vae import FRAME_SIZE, VAE
from rlzoo.algos.world_models.vision import make_vae
from rlzoo.core.parts import load_module
from rlzoo.core.types import UsageError
from rlzoo.envs.batch import EpisodeBatch
from rlzoo.envs.zoo.frames import SHOWN_ROWS, frames64


@dataclass(frozen=True)
class Recipe:
    """Plain values that can be sent to another process."""

    config: WorldModelsConfig
    make_episodes: Callable[[], EpisodeBatch]
    action_space: spaces.Box
    vae: dict[str, np.ndarray]
    rnn: dict[str, np.ndarray]
    beginnings: Beginnings | None  # of dreams
    threads: int
    device: str


def make_player(recipe: Recipe) -> Player:
    torch.set_num_threads(recipe.threads)
    config, [action_size] = recipe.config, recipe.action_space.shape
    wanted, latent_size = config.controller, config.vision.latent_size
    device = "cpu" if wanted.train_in == "dream" else recipe.device
    vae = make_vae(config.vision, 0, device)
    rnn = make_rnn(config.memory, latent_size, action_size, 0, device)
    load_module(vae, recipe.vae)
    load_module(rnn, recipe.rnn)
    envs: EpisodeBatch
    if wanted.train_in == "dream":
        assert recipe.beginnings is not None
        envs = Dream(
            rnn,
            recipe.beginnings,
            recipe.action_space,
            temperature=wanted.temperature,
            max_steps=wanted.max_dream_steps,
        )
    else:
        envs = SeenEpisodes(
            recipe.make_episodes(),
            make_senses(wanted, vae, rnn, device),
            preprocess=to_frames,
        )
    controller, part = make_controller(wanted, vae, rnn, recipe.action_space)
    return Player(envs, controller, part, wanted.num_envs)


def make_senses(config: ControllerConfig, vae: VAE, rnn: MDNRNN, device: str) -> Senses:
    return Senses(vae, None if config.inputs == "z" else rnn, latent=config.latent, device=device)


def make_controller(
    config: ControllerConfig, vae: VAE, rnn: MDNRNN, action_space: spaces.Box
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


def check_spaces(config: WorldModelsConfig, observation_space: Any, action_space: Any) -> None:
    """UsageError unless V can look at the observations, and all who play make the actions."""
    check_env(observation_space, action_space)
    collect = config.collect
    if (collect.policy == "one_control" or collect.forced_start_steps) and (
        action_space.shape != (3,)
    ):
        raise UsageError(
            "algo.collect: policy=one_control and forced_start_steps are for CarRacing, got "
            f"actions {action_space}"
        )


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
