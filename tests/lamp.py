"""A small env of pictures, and a V that is quick to train: for tests of World Models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlzoo.algos.world_models import models


class Lamp(gymnasium.Env[np.ndarray, Any]):
    """A picture whose brightness wanders; the reward is higher for actions that match it."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, watts: int = 60) -> None:
        self.render_mode = render_mode
        self.watts = watts

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.light = 0, int(self.np_random.integers(256))
        return self.render(), {}

    def render(self) -> np.ndarray:
        picture = np.full((64, 64, 3), self.light, np.uint8)
        picture[: self.t * 4] = 255 - self.light
        return picture

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        reward = 1 - abs(float(action[0]) - (self.light / 127.5 - 1))
        self.light = (self.light + int(20 * action[1])) % 256
        return self.render(), reward, self.light > 250, False, {}


gymnasium.register("Lamp-v0", entry_point=Lamp, max_episode_steps=9)


@contextmanager
def small_vision() -> Iterator[None]:
    """Within the block, a new V has a thousandth of its parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "ENCODER_LAYERS", ((4, 4), (4, 4), (4, 4), (8, 4)))
        patch.setattr(models, "DECODER_LAYERS", ((8, 5), (4, 5), (4, 6), (3, 6)))
        patch.setattr(models, "FEATURES", 32)
        yield
