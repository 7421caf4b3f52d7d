"""Small envs, stores and phases of World Models for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlzoo.algos.world_models.collect import CollectConfig, CollectPhase
from rlzoo.algos.world_models.frame_store import Column, FrameStore
from rlzoo.algos.world_models.imitate import ImitateConfig, ImitatePhase
from rlzoo.algos.world_models.memory import MemoryConfig, MemoryPhase, make_rnn
from rlzoo.algos.world_models.models import Controller
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.policy import Senses, VMCPolicy, columns
from rlzoo.algos.world_models.vision import (
    EncodeConfig,
    EncodePhase,
    VisionConfig,
    VisionPhase,
    make_vae,
)
from rlzoo.core.parts import load_part, state_of
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.types import State
from rlzoo.io.encoding import decode, encode

ENVS = 3
ABOUT = {"env": "Fake-v0"}


class FakeEnvs:
    """Episodes that are functions of their seed and actions; what follows an end is garbage."""

    num_envs = ENVS

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.seed_B, self.t = np.array(seeds), 0
        return self._obs()

    def _obs(self) -> np.ndarray:
        return ((self.seed_B + 17 * self.t) % 256).astype(np.uint8)

    def step(self, action_BA: np.ndarray) -> tuple[np.ndarray, ...]:
        self.t += 1
        end_B = 3 + self.seed_B % 7
        over_B, late_B = self.t >= end_B, self.t > end_B
        reward_B = np.where(late_B, np.nan, action_BA.sum(axis=1))
        terminates_B = (self.seed_B % 2 == 0) ^ late_B
        return self._obs(), reward_B, over_B & terminates_B, over_B & ~terminates_B


class FakePolicy:
    def __init__(self) -> None:
        self.rng = numpy_generator(0, "policy")

    def reset(self, num_envs: int) -> None:
        self.scale = self.rng.random()

    def act(self, obs_B: np.ndarray) -> np.ndarray:
        return (self.scale * self.rng.random((len(obs_B), 2))).astype(np.float32)

    def state(self) -> State:
        return {"rng": state_of(self.rng)}

    def load(self, state: State) -> None:
        load_part(self.rng, state["rng"])


def to_frames(obs_B: np.ndarray) -> np.ndarray:
    return np.broadcast_to(obs_B[:, None, None, None], (len(obs_B), 64, 64, 3))


def collect(directory: Path, seed: int = 0, **settings: int) -> CollectPhase:
    return CollectPhase(
        CollectConfig(**{"episodes": 7, **settings}),
        seed=seed,
        directory=directory,
        envs=FakeEnvs(),
        policy=FakePolicy(),
        preprocess=to_frames,
        action_size=2,
        about=ABOUT,
    )


def finish(phase: Any) -> list[dict[str, float]]:
    metrics = []
    while not phase.done():
        metrics.append({name: float(value) for name, value in phase.step().items()})
    return metrics


def shown(phase: Phase) -> dict[str, np.ndarray]:
    """Its pictures and films by their names."""
    return {report.name: report[1] for report in phase.report()}


def saved(phase: Phase) -> State:
    """What a checkpoint would give back."""
    tree, arrays = encode(phase.state())
    arrays = {name: array.copy() for name, array in arrays.items()}
    return decode(json.loads(json.dumps(tree)), arrays, Path("checkpoint"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*"))}


def as_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: as_arrays(part) for name, part in state.items()}
    return state.numpy() if isinstance(state, torch.Tensor) else state


def check_equal(left: Any, right: Any) -> None:
    np.testing.assert_equal(
        as_arrays(left), as_arrays(right)
    )  # walks through dicts and compares bit for bit


def pictures_store(
    directory: Path, lengths: Sequence[int] = (5, 4, 3), action_size: int = 2
) -> FrameStore:
    """Episodes of smooth random pictures; the last step of the second is terminal."""
    columns = {
        "frame": Column("uint8", (64, 64, 3)),
        "action": Column("float32", (action_size,)),
        "reward": Column("float32", ()),
    }
    store = FrameStore.create(directory, columns, ABOUT)
    rng = np.random.default_rng(0)
    for index, length in enumerate(lengths):
        coarse = rng.integers(0, 256, (length, 8, 8, 3), np.uint8)
        episode = {
            "frame": coarse.repeat(8, axis=1).repeat(8, axis=2),
            "action": rng.random((length, action_size), np.float32),
            "reward": rng.random(length, np.float32),
        }
        store.append_episode(episode, terminated=index == 1)
    return store


def latents_store(directory: Path, lengths: Sequence[int] = (9, 2, 6, 1, 12)) -> FrameStore:
    latent = Column("float32", (4,))
    columns = {
        "mu": latent,
        "logvar": latent,
        "action": Column("float32", (2,)),
        "reward": Column("float32", ()),
    }
    store = FrameStore.create(directory, columns, ABOUT)
    rng = np.random.default_rng(0)
    for index, length in enumerate(lengths):
        shapes = {name: (length, *column.shape) for name, column in columns.items()}
        episode = {n: rng.standard_normal(shape, np.float32) for n, shape in shapes.items()}
        store.append_episode(episode, terminated=index % 2 == 0)
    return store


def vision(directory: Path, seed: int = 0, **settings: Any) -> VisionPhase:
    config = VisionConfig(**{"latent_size": 4, "epochs": 2, "batch_size": 4, **settings})
    frames = directory / "frames"
    store = FrameStore.open(frames) if frames.exists() else pictures_store(frames)
    return VisionPhase(config, seed=seed, frames=store)


def encoding(directory: Path, seed: int = 0, earlier: FrameStore | None = None) -> EncodePhase:
    frames = directory / "frames"
    store = FrameStore.open(frames) if frames.exists() else pictures_store(frames)
    vae = make_vae(VisionConfig(latent_size=4, precision="float32"), seed=seed)
    config = EncodeConfig(batch_size=2)
    latents = directory / "latents"
    return EncodePhase(config, frames=store, vae=vae, directory=latents, earlier=earlier)


def memory(directory: Path, seed: int = 0, **settings: Any) -> MemoryPhase:
    sizes = {"hidden_size": 8, "num_components": 2, "batch_size": 3, "epochs": 4}
    options = {"reward_head": True, "done_head": True, "sequence_steps": 5, "block_updates": 2}
    latents = directory / "latents"
    store = FrameStore.open(latents) if latents.exists() else latents_store(latents)
    return MemoryPhase(MemoryConfig(**{**sizes, **options, **settings}), seed=seed, latents=store)


def vmc(seed: int, latent_size: int = 4, hidden_size: int = 3, **settings: Any) -> VMCPolicy:
    """V, M and C at random; C acts on z and h."""
    vae = make_vae(VisionConfig(latent_size=latent_size, precision="float32"), seed=seed)
    rnn = make_rnn(MemoryConfig(hidden_size=hidden_size), latent_size, 2, seed)
    part = columns("zh", latent_size, hidden_size)
    controller = Controller(latent_size + hidden_size, spaces.Box(-1, 1, (2,)), **settings)
    policy = VMCPolicy(Senses(vae, rnn, latent="mean"), controller, part, seed=seed)
    policy.params_N = np.random.default_rng(0).standard_normal(controller.num_params)
    return policy


def imitation(
    directory: Path,
    seed: int = 0,
    *,
    agent: VMCPolicy | None = None,
    pupil: VMCPolicy | None = None,
    patience_env_steps: int | None = None,
    **settings: Any,
) -> ImitatePhase:
    """A phase where `pupil` learns from an agent at random; `episodes` and `ridge` may be given."""
    frames = directory / "frames"
    store = FrameStore.open(frames) if frames.exists() else pictures_store(frames, (9, 8, 7, 9))
    return ImitatePhase(
        ImitateConfig(**settings),
        seed=seed,
        frames=store,
        agent=agent or vmc(1),
        pupil=pupil or vmc(2, latent_size=5),
        patience_env_steps=patience_env_steps,
    )
