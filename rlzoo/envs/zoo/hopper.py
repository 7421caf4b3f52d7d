"""The one-legged hopper in PyBullet with the 11 observations of MuJoCo's.

env.id=rlzoo.envs.zoo.hopper:Hopper11BulletEnv-v0
"""

from __future__ import annotations

import time
from math import sin
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlzoo.envs.zoo.bullet import MODELS, Client

TORQUE_NM = 75.0  # at action 1
SPEED_LIMIT, PITCH_LIMIT, FEATURE_LIMIT = 10.0, 0.2, 100.0
TORSO_HEIGHT_M = 1.25  # of its middle, where the model stands upright
DISPLACEMENT = 0.1  # at most, at the start
SECONDS_PER_STEP, SUBSTEPS = 0.0165, 4
JOINTS = ("ignore1", "ignore2", "ignore3", "thigh_joint", "leg_joint", "foot_joint")
HEIGHT, WIDTH = 240, 320  # of an image
VIEW = {"distance": 3.0, "yaw": 0.0, "pitch": -20.0}  # m, degrees: from the side


class Hopper11BulletEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Hop forward on one leg, for at most 1,000 steps of 16.5 ms.

    The observation is that of MuJoCo's Hopper, as float32:

    | feature | what | unit |
    | --- | --- | --- |
    | 0 | height: the root's vertical slide + `height_offset` | m |
    | 1 | pitch, positive is forward; the root turns about the ground below it | rad |
    | 2, 3, 4 | angles of thigh, leg and foot joint | rad |
    | 5, 6 | root velocity, forward and up | m/s, clipped to +-10 |
    | 7 | pitch velocity | rad/s, clipped to +-10 |
    | 8, 9, 10 | velocities of thigh, leg and foot joint | rad/s, clipped to +-10 |

    The action is the torque of thigh, leg and foot joint in units of 75 Nm, within +-1. The reward
    is the torso's forward velocity in m/s + 1 - 0.001 |action|^2. An episode terminates when the
    root is no longer higher than `min_height` (m, 1.25 is upright, whatever `height_offset` is),
    when the pitch reaches 0.2 rad, or any feature 100. It starts at rest, with the root and all
    joints displaced by up to 0.1 m or rad.

    This is `HopperMuJoCoEnv-v0` of benelot/pybullet-gym: its model, simulation, torques, start and
    terms of the reward. What differs on purpose:

    - The height is 0 there when upright; 1.25 is MuJoCo's. `height_offset=0` observes theirs.
    - Termination below 0.7 m is MuJoCo's; theirs is `min_height=0.95`.
    - The torso's velocity is that over the whole step. There, positions are a substep (4.1 ms) old,
      except for the first one of an episode.
    - A seed means the same episode in every instance and process; there, contacts of a fallen
      hopper are worked off in no fixed order.
    """

    metadata = {  # noqa: RUF012 (declared as an instance's by the base class)
        "render_modes": ["human", "rgb_array"],
        "render_fps": round(1 / SECONDS_PER_STEP),
    }

    def __init__(
        self,
        *,
        height_offset: float = TORSO_HEIGHT_M,
        min_height: float = 0.7,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._height_offset, self._min_height = height_offset, min_height
        self.observation_space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._client = Client(in_window=render_mode == "human")
        self._robot, self._joints = load(self._client)
        self._motors = self._joints[3:]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        displacement = self.np_random.uniform(-DISPLACEMENT, DISPLACEMENT, len(self._joints))
        for joint, position in zip(self._joints, displacement.tolist(), strict=True):
            self._client.resetJointState(self._robot, joint, position, 0.0)
        obs, self._torso_x, _ = self._look()
        return obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        client = self._client
        action = np.clip(action, -1.0, 1.0, dtype=np.float64)
        torque = (TORQUE_NM * action).tolist()
        client.setJointMotorControlArray(
            self._robot, self._motors, client.TORQUE_CONTROL, forces=torque
        )
        client.stepSimulation()
        x_before = self._torso_x
        obs, self._torso_x, is_upright = self._look()
        velocity = (self._torso_x - x_before) / SECONDS_PER_STEP
        reward = velocity + 1.0 - 1e-3 * float(action @ action)
        if self.render_mode == "human":
            self.render()
        return obs, reward, not is_upright, False, {}

    def _look(self) -> tuple[np.ndarray, float, bool]:
        """The observation, the x of the torso's middle (m), and whether the episode may go on."""
        states = self._client.getJointStates(self._robot, self._joints)
        (x, z, pitch, *angles), speeds, *_ = zip(*states, strict=True)
        features = (z + self._height_offset, pitch, *angles, *speeds)
        obs = np.array(features, dtype=np.float32)
        np.clip(obs[5:], -SPEED_LIMIT, SPEED_LIMIT, out=obs[5:])
        is_upright = z + TORSO_HEIGHT_M > self._min_height and abs(pitch) < PITCH_LIMIT
        is_sane = bool(np.abs(obs).max() < FEATURE_LIMIT)  # False for NaN, too
        return obs, x + TORSO_HEIGHT_M * sin(pitch), is_upright and is_sane

    def render(self) -> np.ndarray | None:
        """An image (240 x 320 RGB, uint8); in a window, follow the hopper for a step's time."""
        client, target = self._client, (self._torso_x, 0.0, 0.8)
        if self.render_mode == "human":
            client.resetDebugVisualizerCamera(*VIEW.values(), target)
            time.sleep(SECONDS_PER_STEP)
            return None
        view = client.computeViewMatrixFromYawPitchRoll(target, *VIEW.values(), 0, upAxisIndex=2)
        lens = client.computeProjectionMatrixFOV(60, WIDTH / HEIGHT, 0.1, 100.0)
        _, _, image, _, _ = client.getCameraImage(
            WIDTH, HEIGHT, view, lens, renderer=client.ER_TINY_RENDERER
        )
        return np.reshape(image, (HEIGHT, WIDTH, 4))[:, :, :3].astype(np.uint8)

    def close(self) -> None:
        self._client.close()


def load(client: Client) -> tuple[int, list[int]]:
    """Set the simulation up; returns the hopper's id and the indices of JOINTS."""
    client.setGravity(0, 0, -9.8)
    client.setDefaultContactERP(0.9)
    client.setPhysicsEngineParameter(
        fixedTimeStep=SECONDS_PER_STEP,
        numSubSteps=SUBSTEPS,
        numSolverIterations=5,
        deterministicOverlappingPairs=1,
    )
    [floor] = client.loadSDF(str(MODELS / "plane_stadium.sdf"))
    client.changeDynamics(floor, -1, lateralFriction=0.8, restitution=0.5)
    flags = (
        client.URDF_USE_SELF_COLLISION
        | client.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
        | client.URDF_GOOGLEY_UNDEFINED_COLORS  # the model has no colours of its own
    )
    [robot] = client.loadMJCF(str(MODELS / "mjcf" / "hopper.xml"), flags=flags)
    index = {}
    for joint in range(client.getNumJoints(robot)):
        index[client.getJointInfo(robot, joint)[1].decode()] = joint
        # Without this a motor with a force of its own keeps the joint where it is.
        client.setJointMotorControl2(robot, joint, client.POSITION_CONTROL, force=0)
    return robot, [index[name] for name in JOINTS]


gymnasium.register("Hopper11BulletEnv-v0", f"{__name__}:Hopper11BulletEnv", max_episode_steps=1000)
