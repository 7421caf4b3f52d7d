"""The 11-dimensional PyBullet hopper: against a literal version, its ends, seeds and pictures."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from rlzoo.core.types import UsageError
from rlzoo.envs.make import EnvConfig, make_env
from rlzoo.envs.restore import probe_restore

pybullet = pytest.importorskip("pybullet")
pytest.importorskip("pybullet_envs_gymnasium")

import pybullet_data  # noqa: E402 (not without the package)

from rlzoo.envs.zoo.hopper import Hopper11BulletEnv  # noqa: E402

CONFIG = EnvConfig(id="rlzoo.envs.zoo.hopper:Hopper11BulletEnv-v0")


def literal_episode(seed: int, actions: np.ndarray) -> Iterator[tuple]:
    """(obs, x of the torso, height, pitch) of each moment, as benelot/pybullet-gym does it.

    Joint by joint, in a simulation of its own that is used once.
    """
    p, client = pybullet, pybullet.connect(pybullet.DIRECT)
    here = {"physicsClientId": client}
    try:
        p.setGravity(0, 0, -9.8, **here)
        p.setDefaultContactERP(0.9, **here)
        p.setPhysicsEngineParameter(
            fixedTimeStep=0.0165, numSolverIterations=5, numSubSteps=4, **here
        )
        p.setPhysicsEngineParameter(deterministicOverlappingPairs=1, **here)
        folder = pybullet_data.getDataPath()
        [floor] = p.loadSDF(f"{folder}/plane_stadium.sdf", **here)
        p.changeDynamics(floor, -1, lateralFriction=0.8, restitution=0.5, **here)
        flags = p.URDF_USE_SELF_COLLISION | p.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
        [robot] = p.loadMJCF(f"{folder}/mjcf/hopper.xml", flags=flags, **here)
        infos = [p.getJointInfo(robot, j, **here) for j in range(p.getNumJoints(robot, **here))]
        joints = [info[0] for info in infos if not info[1].startswith(b"jointfix")]
        [torso] = [info[0] for info in infos if info[12] == b"torso"]
        for info in infos:
            p.setJointMotorControl2(robot, info[0], p.POSITION_CONTROL, force=0, **here)
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        for joint in joints:
            p.resetJointState(robot, joint, random.uniform(-0.1, 0.1), 0, **here)
        for action in [None, *actions]:
            if action is not None:
                for joint, a in zip(joints[3:], action, strict=True):
                    torque = 75.0 * float(a)
                    p.setJointMotorControl2(robot, joint, p.TORQUE_CONTROL, force=torque, **here)
                p.stepSimulation(**here)
            states = [p.getJointState(robot, joint, **here)[:2] for joint in joints]
            _, height, pitch, *angles = [position for position, _ in states]
            speeds = np.clip([speed for _, speed in states], -10, 10)
            obs = np.array([height + 1.25, pitch, *angles, *speeds], dtype=np.float32)
            x = p.getLinkState(robot, torso, computeForwardKinematics=1, **here)[0][0]
            yield obs, x, height + 1.25, pitch
    finally:
        p.disconnect(client)


def random_actions(seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 3)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_literal_version(seed: int) -> None:
    actions = random_actions(seed, 60) * (seed > 0)  # one without a torque
    (expected, x, *_), *moments = literal_episode(seed, actions)
    env = Hopper11BulletEnv()
    obs, _ = env.reset(seed=seed)
    assert obs.dtype == np.float32 and obs.tobytes() == expected.tobytes()
    ended = False
    for action, (expected, next_x, height, pitch) in zip(actions, moments, strict=True):
        obs, reward, terminated, truncated, _ = env.step(action)
        assert obs.tobytes() == expected.tobytes()
        cost = 1e-3 * float(np.square(action.astype(float)).sum())
        assert reward == pytest.approx((next_x - x) / 0.0165 + 1 - cost, abs=1e-4)
        # Also past the end, which the literal version does not know.
        assert terminated == (height <= 0.7 or abs(pitch) >= 0.2) and not truncated
        ended, x = ended or terminated, next_x
    env.close()
    assert ended


def test_fast_joints_are_clipped() -> None:
    moments = [obs for obs, *_ in literal_episode(1, random_actions(1, 60))]
    assert np.abs(moments)[:, 5:].max() == 10.0


def episode(env: Hopper11BulletEnv, seed: int, actions: np.ndarray, draw_every: int = 0) -> str:
    """A digest of what an episode shows; it goes on beyond its end, to see long ones."""
    digest = hashlib.sha256(env.reset(seed=seed)[0].tobytes())
    for t, action in enumerate(actions, start=1):
        obs, reward, terminated, *_ = env.step(action)
        digest.update(obs.tobytes() + np.float64(reward).tobytes() + bytes([terminated]))
        if draw_every and t % draw_every == 0:
            env.render()
    return digest.hexdigest()


def check_repeatable(episodes: int, steps: int) -> None:
    actions = [random_actions(k, steps) * (k % 3) / 2 for k in range(episodes)]
    used, other = Hopper11BulletEnv(render_mode="rgb_array"), Hopper11BulletEnv()
    expected = [episode(used, k, a, 37) for k, a in enumerate(actions)]
    for k in reversed(range(episodes)):
        fresh = Hopper11BulletEnv()
        assert episode(fresh, k, actions[k]) == expected[k]
        fresh.close()
        episode(other, 99, actions[k][: 7 * k % 40])  # broken off
        assert episode(other, k, actions[k]) == expected[k]
    used.close()
    other.close()


def test_an_episode_is_a_function_of_its_seed() -> None:
    check_repeatable(5, 100)


@pytest.mark.slow
def test_long_episodes_are_functions_of_their_seeds() -> None:
    check_repeatable(12, 1000)


def test_something_that_outlives_a_reset_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Hopper11BulletEnv._look

    def wear_out(env: Hopper11BulletEnv) -> tuple:
        obs, *rest = look(env)
        env.looks = getattr(env, "looks", 0) + 1
        obs[0] += 1e-6 * (env.looks > 150)
        return obs, *rest

    monkeypatch.setattr(Hopper11BulletEnv, "_look", wear_out)
    with pytest.raises(AssertionError):
        check_repeatable(3, 100)


def test_the_restore_class_is_replay() -> None:
    assert probe_restore(partial(make_env, CONFIG), 0) == "replay"


def test_heights_of_the_original() -> None:
    kwargs = {"height_offset": 0.0, "min_height": 0.95}
    theirs = make_env(EnvConfig(id=CONFIG.id, kwargs=kwargs))
    ours = make_env(CONFIG)
    (a, _), (b, _) = theirs.reset(seed=4), ours.reset(seed=4)
    ends = []
    for action in random_actions(4, 100):
        assert a[0] == pytest.approx(b[0] - 1.25, abs=1e-6) and (a[1:] == b[1:]).all()
        a, reward, terminated, *_ = theirs.step(action)
        b, same_reward, *_ = ours.step(action)
        assert reward == same_reward
        ends.append(terminated)
        assert terminated == (a[0] <= -0.3 or abs(a[1]) >= 0.2)
    assert any(ends)
    theirs.close()
    ours.close()


@pytest.mark.parametrize("limit, ends", [(1.0, True), (1.2, True), (0.9, False), (0.7, False)])
def test_too_low_is_the_end(limit: float, ends: bool) -> None:
    env = Hopper11BulletEnv(min_height=limit)
    env.reset(seed=0)
    stand(env)
    env._client.resetJointState(env._robot, env._joints[1], -0.27, 0.0)
    # The whole model a metre up, where the floor does not push the foot out.
    env._client.resetBasePositionAndOrientation(env._robot, (0, 0, 1), (0, 0, 0, 1))
    obs, _, terminated, *_ = env.step(np.zeros(3, np.float32))
    assert obs[0] == pytest.approx(0.98, abs=0.01) and terminated == ends
    env.close()


def stand(env: Hopper11BulletEnv) -> None:
    for joint in env._joints:
        env._client.resetJointState(env._robot, joint, 0.0, 0.0)


def test_a_feature_of_a_hundred_is_the_end() -> None:
    env = Hopper11BulletEnv()
    env.reset(seed=0)
    stand(env)
    env._client.resetJointState(env._robot, env._joints[3], -150.0, 0.0)
    obs, _, terminated, *_ = env.step(np.zeros(3, np.float32))
    assert abs(obs[2]) > 100 and abs(obs[1]) < 0.2 and obs[0] > 0.7
    assert terminated
    env.close()


def test_torques_are_limited() -> None:
    env = Hopper11BulletEnv()
    seen = []
    for scale in (1, 5):
        env.reset(seed=0)
        seen.append(env.step(np.array([-1, 1, 1], np.float32) * scale)[:2])
    assert (seen[0][0] == seen[1][0]).all() and seen[0][1] == seen[1][1]
    env.close()


def test_an_episode_has_a_thousand_steps() -> None:
    env = make_env(EnvConfig(id=CONFIG.id, kwargs={"min_height": -1e9}))
    assert env.spec is not None and env.spec.max_episode_steps == 1000


def test_an_unknown_argument_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"env\.kwargs: .*height"):
        make_env(EnvConfig(id=CONFIG.id, kwargs={"height": 1.0}))


def hopper_pixels(frame: np.ndarray) -> np.ndarray:
    """Where an image shows colours: the floor is bluish grey, the sky white."""
    spread = frame.max(axis=2).astype(int) - frame.min(axis=2)
    return np.argwhere(spread > 90)


def test_the_camera_follows() -> None:
    env = Hopper11BulletEnv(render_mode="rgb_array")
    env.reset(seed=0)
    columns = []
    for x in (0.0, 50.0):
        stand(env)
        env._client.resetJointState(env._robot, env._joints[0], x, 0.0)
        env.step(np.zeros(3, np.float32))
        frame = env.render()
        assert frame.shape == (240, 320, 3) and frame.dtype == np.uint8
        pixels = hopper_pixels(frame)
        assert len(pixels) > 300
        columns.append(pixels[:, 1].mean())
    assert columns == pytest.approx([160, 160], abs=8)
    assert env.metadata["render_fps"] == 61
    env.close()


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="opens a window")
@pytest.mark.parametrize("id", [CONFIG.id, "rlzoo.envs.zoo.bullet:HopperBulletEnv-v0"])
def test_a_window_plays_at_the_speed_of_life(id: str) -> None:
    env = make_env(EnvConfig(id=id), render_mode="human")
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(10):
        env.step(np.zeros(3, np.float32))
    assert time.perf_counter() - start >= 10 * 0.0165
    env.close()
