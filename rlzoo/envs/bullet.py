"""The PyBullet envs of pybullet_envs_gymnasium: env.id=rlzoo.envs.bullet:HopperBulletEnv-v0.

Importing this module registers them. They play the same episodes as the originals, bit for bit;
what differs is how they connect to the simulator and how they draw.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

try:
    import pybullet
    import pybullet_data
    from pybullet_envs_gymnasium.env_bases import Camera, MJCFBaseBulletEnv
    from pybullet_utils.bullet_client import BulletClient
except ImportError as error:
    raise ImportError(f"{error} (tools/setup.sh bullet installs PyBullet)") from error

MODELS = Path(pybullet_data.getDataPath())
ORIGINALS = "pybullet_envs_gymnasium."


class Client(BulletClient):
    """A connection to a simulation of its own; pybullet's functions are its methods."""

    def __init__(self, *, in_window: bool = False) -> None:
        """Raises RuntimeError where a window cannot be opened.

        The base class would first look for a simulation of somebody else's (in shared memory), and
        pass options, of which pybullet prints 'argv[0]=' on standard output.
        """
        self._client, self._pid = -1, os.getpid()
        if in_window and sys.platform == "linux" and not os.environ.get("DISPLAY"):
            # pybullet would end the process.
            raise RuntimeError("a window of PyBullet's needs an X display, and DISPLAY is not set")
        self._client = pybullet.connect(pybullet.GUI if in_window else pybullet.DIRECT)

    def __getattr__(self, name: str) -> Any:
        attribute = super().__getattr__(name)
        if name != "disconnect":  # the base class takes this look-up for the call
            setattr(self, name, attribute)  # found at once the next time
        return attribute

    def close(self) -> None:
        if self._client >= 0:
            self.disconnect()


class FollowingCamera(Camera):
    """Moves the window's view with the robot, without asking where it is.

    pybullet's getDebugVisualizerCamera answers for client 0, whichever one is asked, and raises
    where that one is gone; the original asks before drawing anything.
    """

    def move_and_look_at(self, i: Any, j: Any, k: Any, x: float, y: float, z: float) -> None:
        if self.env.render_mode == "human":
            view = self.env._cam_dist, self.env._cam_yaw, self.env._cam_pitch
            self.env._p.resetDebugVisualizerCamera(*view, (x, y, z))


class QuietEnv(MJCFBaseBulletEnv):
    """What is put before an original env class."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.physicsClientId < 0:
            self._connect()
        return super().reset(seed=seed, options=options)

    def _connect(self) -> None:
        """What the original does at its first reset, with our client."""
        self._p = Client(in_window=self.should_render)
        self.physicsClientId, self.ownsPhysicsClient = self._p._client, True
        self._p.resetSimulation()
        self._p.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
        self._p.configureDebugVisualizer(pybullet.COV_ENABLE_GUI, 0)
        self.camera = FollowingCamera(self)

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.render_mode == "human":
            self.render()  # follows the robot, and waits for the time of a frame
        return result


def _register() -> None:
    """Let the ids of the original envs make ours."""
    for spec in list(gymnasium.registry.values()):
        if isinstance(spec.entry_point, str) and spec.entry_point.startswith(ORIGINALS):
            original: Any = load_env_creator(spec.entry_point)
            name = spec.entry_point.rpartition(":")[2]
            ours = type(name, (QuietEnv, original), {"__module__": __name__})
            globals()[name] = ours
            spec.entry_point = f"{__name__}:{name}"


_register()
