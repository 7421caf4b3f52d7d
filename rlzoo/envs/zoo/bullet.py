"""The PyBullet envs of pybullet_envs_gymnasium: env.id=rlzoo.envs.zoo.bullet:HopperBulletEnv-v0.

Importing this module lets their ids make the classes here. These play the same episodes as the
originals, bit for bit. What differs: they print nothing, they draw themselves whatever else is
open, in a window they play at the speed of life, and the walkers among them are faster.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pybullet
import pybullet_data
from gymnasium.envs.registration import load_env_creator
from pybullet_envs_gymnasium.env_bases import Camera, MJCFBaseBulletEnv
from pybullet_envs_gymnasium.gym_locomotion_envs import WalkerBaseBulletEnv
from pybullet_utils.bullet_client import BulletClient

MODELS = Path(pybullet_data.getDataPath())
ORIGINALS = "pybullet_envs_gymnasium."


class Client(BulletClient):
    """A connection to a simulation of its own; pybullet's functions are its methods."""

    def __init__(self, *, in_window: bool = False) -> None:
        """Raises RuntimeError where there is no display.

        The base class would first look for a simulation of somebody else's (in shared memory), and
        pass options, of which pybullet prints 'argv[0]=' on standard output.
        """
        self._client, self._pid = -1, os.getpid()
        if in_window and sys.platform == "linux" and not _display_answers():
            # pybullet would end the process.
            name = os.environ.get("DISPLAY", "")
            raise RuntimeError(
                f"a window of PyBullet's needs an X display; DISPLAY is '{name}', and none answers"
            )
        self._client = pybullet.connect(pybullet.GUI if in_window else pybullet.DIRECT)

    def __getattr__(self, name: str) -> Any:
        attribute = super().__getattr__(name)
        if name != "disconnect":  # the base class takes this look-up for the call
            setattr(self, name, attribute)  # found at once the next time
        return attribute

    def close(self) -> None:
        if self._client >= 0:
            self.disconnect()


def _display_answers() -> bool:
    if not os.environ.get("DISPLAY"):
        return False
    try:
        x11 = ctypes.CDLL("libX11.so.6")  # the one that pybullet loads
    except OSError:
        return True  # it will say so itself
    x11.XOpenDisplay.restype, x11.XCloseDisplay.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    display = x11.XOpenDisplay(None)
    if display:
        x11.XCloseDisplay(display)
    return bool(display)


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


class FastWalkerEnv(QuietEnv, WalkerBaseBulletEnv):
    """Steps hopper, walker, cheetah and ant with 6 to 8 calls of pybullet instead of 25 to 50.

    Every number comes from the same operations in the same order as in the original's `step`,
    `apply_action` and `calc_state`: not a bit differs.
    """

    _body: int | None = None  # the robot's id, known after the first reset

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        if self._body is None:
            self._look_up()
        return result

    def _look_up(self) -> None:
        """What stays as it is after the first reset: indices, limits, the torque of action 1."""
        robot = self.robot
        [self._body] = robot.objects
        joints, parts = robot.ordered_joints, list(robot.parts.values())
        self._joints = [joint.jointIndex for joint in joints]
        self._lower = np.array([joint.lowerLimit for joint in joints])
        self._range = np.array([joint.upperLimit - joint.lowerLimit for joint in joints])
        self._torque = np.array([robot.power * joint.power_coef for joint in joints])
        self._feet = [foot.bodyPartIndex for foot in robot.feet]
        # A row for each part, in the original's order, because it is their mean that counts. Parts
        # that are not links are the floor, which stays, and the ant's torso.
        self._xyz = np.array([part.current_position() for part in parts])
        self._rows = [row for row, part in enumerate(parts) if part.bodyPartIndex >= 0]
        self._links = [parts[row].bodyPartIndex for row in self._rows]
        self._root_row = parts.index(robot.robot_body)
        self._root_is_link = self._root_row in self._rows

    def step(self, action: Any) -> Any:
        robot, client = self.robot, self._p
        assert np.isfinite(action).all()
        torque = self._torque * np.clip(action, -1, 1).astype(np.float64)
        client.setJointMotorControlArray(
            self._body, self._joints, pybullet.TORQUE_CONTROL, forces=torque.tolist()
        )
        client.stepSimulation()
        state = self._state()
        self._alive = float(robot.alive_bonus(state[0] + robot.initial_z, robot.body_rpy[1]))
        done = bool(self._isDone()) or not np.isfinite(state).all()
        touching = {
            link
            for _, _, other, link, other_link, *_ in client.getContactPoints(self._body)
            if (other, other_link) in self.ground_ids
        }
        robot.feet_contact[:] = [foot in touching for foot in self._feet]  # seen in the next state
        reward = self._reward(action)
        if self.render_mode == "human":
            self.render()
        return state, reward, done, False, {}

    def _state(self) -> np.ndarray:
        """The observation; leaves in `robot` what reward, termination and drawing look up there."""
        robot, client, count = self.robot, self._p, len(self._joints)
        features = np.empty(8 + 2 * count + len(self._feet), dtype=np.float32)
        states = client.getJointStates(self._body, self._joints)
        position, speed = np.array([state[:2] for state in states]).T
        joints = features[8 : 8 + 2 * count]
        joints[::2] = 2 * (position - self._lower) / self._range - 1.0
        joints[1::2] = 0.1 * speed
        robot.joint_speeds = joints[1::2].copy()
        robot.joints_at_limit = np.count_nonzero(np.abs(joints[::2]) > 0.99)

        links = client.getLinkStates(self._body, self._links, computeLinkVelocity=1)
        self._xyz[self._rows] = [link[0] for link in links]
        if self._root_is_link:
            _, orientation, *_, velocity, _ = links[self._rows.index(self._root_row)]
        else:
            at, orientation = client.getBasePositionAndOrientation(self._body)
            self._xyz[self._root_row] = at
            velocity, _ = client.getBaseVelocity(self._body)
        x, y = mean(self._xyz[:, 0]), mean(self._xyz[:, 1])
        robot.body_real_xyz = self._xyz[self._root_row].copy()
        z = robot.body_real_xyz[2]
        robot.body_xyz = x, y, z
        robot.body_rpy = roll, pitch, yaw = pybullet.getEulerFromQuaternion(orientation)
        ahead = np.array([robot.walk_target_y - y, robot.walk_target_x - x])
        robot.walk_target_dist = np.sqrt(ahead.dot(ahead))
        angle = np.arctan2(*ahead) - yaw
        cos, sin = np.cos(-yaw), np.sin(-yaw)
        vx, vy, vz = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).dot(velocity)
        features[:8] = (
            z - robot.initial_z,
            np.sin(angle),
            np.cos(angle),
            0.3 * vx,
            0.3 * vy,
            0.3 * vz,
            roll,
            pitch,
        )
        features[8 + 2 * count :] = robot.feet_contact
        return np.clip(features, -5, 5, out=features)

    def _reward(self, action: np.ndarray) -> float:
        robot = self.robot
        potential_before, self.potential = self.potential, robot.calc_potential()
        electricity = self.electricity_cost * float(mean(np.abs(action * robot.joint_speeds)))
        electricity += self.stall_torque_cost * float(mean(np.square(action)))
        progress = float(self.potential - potential_before)
        at_limit = float(self.joints_at_limit_cost * robot.joints_at_limit)
        # Not with +: sum rounds in its own way since Python 3.12.
        return sum([self._alive, progress, electricity, at_limit])


def mean(x: np.ndarray) -> Any:
    """x.mean() of a vector to the bit, in a third of its time."""
    return np.add.reduce(x) / len(x)


def _register() -> None:
    """Let the ids of the original envs make ours."""
    for spec in list(gymnasium.registry.values()):
        if isinstance(spec.entry_point, str) and spec.entry_point.startswith(ORIGINALS):
            original: Any = load_env_creator(spec.entry_point)
            name = spec.entry_point.rpartition(":")[2]
            is_walker = issubclass(original, WalkerBaseBulletEnv) and name != "HumanoidBulletEnv"
            mixin = FastWalkerEnv if is_walker else QuietEnv
            ours = type(name, (mixin, original), {"__module__": __name__})
            globals()[name] = ours
            spec.entry_point = f"{__name__}:{name}"


_register()
