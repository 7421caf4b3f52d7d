"""Take Cover of VizDoom as in World Models: dodge fireballs, one point for each tic alive.

Registered as TakeCover-v0, with the paper's limit of 2100 tics (a minute) as a truncation. Needs
the package vizdoom. The status bar is shown, under which the picture has the paper's perspective.

Skill 5, the default, is Nightmare, where fireballs fly twice as fast. 4, Ultra-Violence, is the
paper's game and that of conf/env/takecover.yaml: the paper's env (gym-doom) asks for 5, but the
VizDoom of its time (doom_py 0.0.13 to 0.0.15) makes that 4: in `DoomController::setSkill`,
"if(skill > 4) skill = 4".
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import vizdoom
from gymnasium import spaces

EXECUTABLE = str(Path(vizdoom.__file__).parent / "vizdoom")
THIRD = 1 / 3
LEFT, STAY, RIGHT = (1, 0), (0, 0), (0, 1)  # buttons MOVE_LEFT and MOVE_RIGHT


class TakeCover(gymnasium.Env[np.ndarray, Any]):
    """The player stands at one end of a room; monsters at the other throw fireballs.

    Observations are the screen, uint8 [240, 320, 3] (or what `resolution` says), or with
    `small_frames` its 64x64 picture (`rlzoo.envs.zoo.frames`). The action is a number in [-1, 1]:
    the lower third is left, the middle one stay, the upper one right (Ha and Schmidhuber, 2018);
    without `continuous` it is 0, 1 or 2 for the same. The game has no screen of the moment of
    death: the last observation of an episode that terminates is the one before it, once more.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        skill: int = 5,
        resolution: Literal["160x120", "320x240", "640x480"] = "320x240",
        continuous: bool = True,
        small_frames: bool = False,
    ) -> None:
        self.render_mode = render_mode
        self.continuous, self.small_frames = continuous, small_frames
        width, height = map(int, resolution.split("x"))
        shape = (64, 64, 3) if small_frames else (height, width, 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = (
            spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
        )
        self._directory = tempfile.TemporaryDirectory(prefix="rlzoo-doom-")
        self._game = vizdoom.DoomGame()
        self._game.load_config(os.path.join(vizdoom.scenarios_path, "take_cover.cfg"))
        self._game.set_doom_skill(skill)
        self._game.set_render_hud(True)
        self._game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self._game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{width}X{height}"))
        self._game.set_window_visible(False)
        self._game.set_doom_config_path(os.devnull)  # else written when the game ends
        self._game.set_vizdoom_path(launcher(Path(self._directory.name)))
        self._game.init()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**32)))
        self._game.new_episode()
        self._look()
        return self._obs, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self._game.make_action(self._buttons(action))
        dead = self._game.is_episode_finished()
        if not dead:
            self._look()
        return self._obs, reward, dead, False, {}

    def _buttons(self, action: Any) -> tuple[int, int]:
        if not self.continuous:
            return (LEFT, STAY, RIGHT)[action]
        if action[0] < -THIRD:
            return LEFT
        return RIGHT if action[0] > THIRD else STAY

    def _look(self) -> None:
        self._screen = self._game.get_state().screen_buffer
        self._obs = self._screen
        if self.small_frames:
            from rlzoo.envs.zoo.frames import frames64  # torch: only where it is needed

            self._obs = frames64(self._screen[None])[0]

    def render(self) -> Any:
        return self._screen if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._game.close()
        self._directory.cleanup()


def launcher(directory: Path) -> str:
    """A script that starts VizDoom's executable so that it leaves nothing behind.

    In `directory` (the game writes where it is started), away from the terminal's signals, which
    are meant for the training, and bound to end with the process that started it, even a killed
    one (on Linux).
    """
    code = (
        "import ctypes, os, signal, sys\n"
        "os.setsid()\n"
        "if sys.platform == 'linux':\n"
        "    ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    words = [sys.executable, "-I", "-c", code, EXECUTABLE]
    script = directory / "start"
    script.write_text(
        f'#!/bin/sh\ncd {shlex.quote(str(directory))} && exec {shlex.join(words)} "$@"\n'
    )
    script.chmod(0o700)
    return str(script)


gymnasium.register(
    "TakeCover-v0", entry_point="rlzoo.envs.zoo.takecover:TakeCover", max_episode_steps=2100
)
