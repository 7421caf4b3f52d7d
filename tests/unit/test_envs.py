"""Making envs, their seeds, and how their episodes are restored."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
import warnings
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from rlzoo.core.seeding import SELECT, TEST, TRAIN
from rlzoo.core.types import EnvError, UsageError
from rlzoo.envs.checks import SpaceCheck
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import EnvConfig, make_env, make_vector, restore_class
from rlzoo.envs.packages import EXTRAS, env_hint
from rlzoo.envs.restore import probe_restore
from rlzoo.nets.mlp import vector_encoder
from rlzoo.run.strict import read


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("CartPole", "Did you mean 'CartPole-v"),
        ("CartPole-v7", "Did you mean 'CartPole-v"),
        ("LunarLander-v2", "Did you mean 'LunarLander-v3'"),
        ("no_such_module:X-v0", "no_such_module"),
        (
            "ALE/Pong-v5",
            "It is known as env.id=ale_py:ALE/Pong-v5 with the package of 'pip install",
        ),
        ("PongNoFrameskip-v4", "what prepares its frames is not in rlzoo yet"),
        ("VizdoomTakeCover-v1", "env.id=rlzoo.envs.zoo.takecover:TakeCover-v0"),
        ("MiniGrid-Empty-5x5-v0", "pip install minigrid"),
        ("dm_control/hopper-hop-v0", "env.id=shimmy:dm_control/hopper-hop-v0"),
        ("FetchReach-v4", "pip install gymnasium-robotics"),
        ("what is this", "got 'what is this'"),
        ("", "env.id=CartPole-v1"),
    ],
)
def test_unknown_ids_are_refused_with_the_config(id: str, expected: str) -> None:
    with pytest.raises(UsageError, match=r"^env\.id: got ") as caught:
        read(EnvConfig, {"id": id}, "env")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_ids_of_pybullet_are_known_before_it_is_imported() -> None:
    assert env_hint("InvertedPendulumBulletEnv-v0") == (
        " It is known as env.id=rlzoo.envs.zoo.bullet:InvertedPendulumBulletEnv-v0 with the "
        "package of 'tools/setup.sh bullet'."
    )
    assert env_hint("CartPole-v1") == ""


@pytest.mark.parametrize("id", ["HopperJump-v0", "Runner-v1", "FlappyBird-v0", "Duckietown-v0"])
def test_no_id_is_guessed_that_is_another_env(id: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(EnvConfig, {"id": id}, "env")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("key", ["max_episode_steps", "render_mode"])
def test_what_is_no_argument_of_an_env_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=rf"^env\.kwargs\.{key}: that is no argument of an env, "):
        read(EnvConfig, {"id": "CartPole-v1", "kwargs": {key: 5}}, "env")


@pytest.mark.parametrize(
    ("id", "module", "extra", "instead"),
    [
        ("Hopper-v5", "mujoco", "mujoco", "env=hopper_bullet"),
        ("rlzoo.envs.zoo.takecover:TakeCover-v0", "vizdoom", "vizdoom", "all other envs"),
        ("rlzoo.envs.zoo.hopper:Hopper11BulletEnv-v0", "pybullet", "bullet", "hopper_mujoco"),
    ],
)
def test_a_missing_extra_is_named_with_what_works_without(
    monkeypatch: pytest.MonkeyPatch, id: str, module: str, extra: str, instead: str
) -> None:
    loaded = [m for m in sys.modules if m.startswith(("rlzoo.envs.zoo", "gymnasium.envs.mujoco"))]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as caught:
        make_env(EnvConfig(id=id))
    [line] = str(caught.value).splitlines()
    assert f"needs the extra {extra}: tools/setup.sh {extra} installs it" in line
    assert instead in line


def test_every_extra_that_a_user_can_need_is_known() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    packages = project["optional-dependencies"]
    assert packages.keys() - EXTRAS.keys() == {"bench", "dev"}
    for extra, (modules, install, _) in EXTRAS.items():
        wanted = [re.split("[><=]", package)[0] for package in packages[extra]]
        assert shlex.split(install) == wanted, extra
        assert modules


def test_wrong_arguments_and_missing_packages_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"env.kwargs: .*no_such_argument"):
        make_env(EnvConfig(id="CartPole-v1", kwargs={"no_such_argument": 1}))
    gymnasium.register("NeedsMore-v0", entry_point="no_such_package.envs:Env")
    try:
        with pytest.raises(UsageError, match="no_such_package"):
            make_env(EnvConfig(id="NeedsMore-v0"))
    finally:
        del gymnasium.registry["NeedsMore-v0"]


def no_display() -> gymnasium.Env:
    raise RuntimeError("no\ndisplay")


def test_a_constructor_that_raises_is_one_line() -> None:
    gymnasium.register("NoDisplay-v0", entry_point=no_display)
    config = EnvConfig(id="NoDisplay-v0", restore="replay")
    text = "env.id=NoDisplay-v0: its constructor raised RuntimeError: no display$"
    try:
        with pytest.raises(EnvError, match="^" + text):
            make_env(config)
        with pytest.raises(EnvError, match="^env 0 cannot be made: " + text):
            make_vector(config, run_seed=0, num_envs=2)
    finally:
        del gymnasium.registry["NoDisplay-v0"]


def test_an_older_version_is_made_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_env(read(EnvConfig, {"id": "CartPole-v0"})).close()


def test_an_id_can_name_the_module_that_registers_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "a_plugin.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(UsageError, match=r"name its module first: plugins=\[a_plugin\]"):
            read(EnvConfig, {"id": "a_plugin:Mine-v0"})
        importlib.import_module("a_plugin")
        env = make_env(read(EnvConfig, {"id": "a_plugin:Mine-v0"}))
        assert env.spec.id == "Mine-v0"
    finally:
        gymnasium.registry.pop("Mine-v0", None)
        sys.modules.pop("a_plugin", None)


def test_arguments_and_the_time_limit_arrive() -> None:
    config = EnvConfig(id="FrozenLake-v1", kwargs={"map_name": "8x8"}, max_episode_steps=3)
    env = make_env(config)
    assert env.observation_space.n == 64
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_tuples_and_dicts_of_observations_become_arrays() -> None:
    blackjack = make_env(EnvConfig(id="Blackjack-v1"))
    assert blackjack.observation_space == gymnasium.spaces.MultiDiscrete([32, 11, 2])
    assert blackjack.reset(seed=0)[0].dtype == np.int64

    class DictEnv(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = gymnasium.spaces.Dict(
            a=gymnasium.spaces.Box(-1, 1, (2,)), b=gymnasium.spaces.Discrete(3)
        )

        def reset(self, *, seed=None, options=None):
            return {"a": np.array([0.5, -0.5], np.float32), "b": 1}, {}

    gymnasium.register("Dict-v0", entry_point=DictEnv)
    try:
        env = make_env(EnvConfig(id="Dict-v0"))
        assert env.reset()[0].tolist() == [0.5, -0.5, 0, 1, 0]
        assert SpaceCheck(env.observation_space, action=False).fits(env.reset()[0])
    finally:
        del gymnasium.registry["Dict-v0"]


class Camera(gymnasium.Env):
    """A picture of bytes beside a speed, in a Dict or a Tuple, one inside the other or not."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, layout: str, high: int = 255) -> None:
        picture = gymnasium.spaces.Box(0, high, (2, 2), np.uint8)
        speed = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
        values = np.array([[0, high], [high, 0]], np.uint8), np.array([7], np.float32)
        both = gymnasium.spaces.Tuple([picture, speed])
        self.observation_space, self.value = {
            "dict": (
                gymnasium.spaces.Dict(picture=picture, speed=speed),
                {"picture": values[0], "speed": values[1]},
            ),
            "tuple": (both, values),
            "nested": (gymnasium.spaces.Dict(both=both), {"both": values}),
            "bytes": (
                gymnasium.spaces.Dict(a=picture, b=picture),
                {"a": values[0], "b": values[0]},
            ),
        }[layout]

    def reset(self, *, seed=None, options=None):
        return self.value, {}


@pytest.mark.parametrize("high", [255, 51])
@pytest.mark.parametrize("layout", ["dict", "tuple", "nested", "bytes"])
def test_an_image_among_other_observations_is_scaled_by_its_bounds(layout: str, high: int) -> None:
    gymnasium.register("Camera-v0", entry_point=Camera)
    try:
        env = make_env(EnvConfig(id="Camera-v0", kwargs={"layout": layout, "high": high}))
    finally:
        del gymnasium.registry["Camera-v0"]
    picture = [0, 1, 1, 0]
    obs = env.reset()[0]
    assert obs.tolist() == picture + (picture if layout == "bytes" else [7])
    assert env.observation_space.high[:4].tolist() == [1] * 4
    assert SpaceCheck(env.observation_space, action=False).fits(obs)
    # What a policy and a discriminator get is this array, without another scale.
    assert vector_encoder(env.observation_space)(torch.from_numpy(obs)[None]).tolist() == [
        obs.tolist()
    ]


def trajectory(run_seed: int = 0, purpose: str = TRAIN, env_index: int = 0) -> list[float]:
    env = EpisodeEnv(
        partial(make_env, EnvConfig(id="CartPole-v1")),
        run_seed=run_seed,
        purpose=purpose,
        env_index=env_index,
    )
    return [float(env.step(t % 2)[0][0]) for t in range(100)]


def test_a_trajectory_is_a_function_of_seed_purpose_and_env() -> None:
    assert trajectory() == trajectory()
    others = [
        trajectory(),
        trajectory(run_seed=1),
        trajectory(purpose=SELECT),
        trajectory(purpose=TEST),
        trajectory(env_index=1),
    ]
    assert all(a != b for i, a in enumerate(others) for b in others[:i])


def test_train_select_and_test_share_no_episode() -> None:
    seen = {
        purpose: {
            env.seed
            for index in range(2)
            for env in [episodes(purpose, index)]
            for k in range(200)
            if env.begin(k) is None
        }
        for purpose in (TRAIN, SELECT, TEST)
    }
    assert all(len(seeds) > 390 for seeds in seen.values())
    assert not (seen[TRAIN] & seen[SELECT] or seen[TRAIN] & seen[TEST] or seen[SELECT] & seen[TEST])


def episodes(purpose: str, env_index: int) -> EpisodeEnv:
    make = partial(make_env, EnvConfig(id="FrozenLake-v1"))
    return EpisodeEnv(make, run_seed=0, purpose=purpose, env_index=env_index)


# Restore classes ---------------------------------------------------------------------------------


class CarryingEnv(gymnasium.Env):
    """Shows how often it was reset; with `leak`, also what other instances did.

    One that `settles` shows only whether it was reset more than once.
    """

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(0, 1e9, (2,))
    made = 0

    def __init__(self, leak: bool = False, settles: bool = False) -> None:
        type(self).made += 1
        self.resets, self.leak, self.settles = 0, leak, settles

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets, self.t = self.resets + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        return self._observation(), float(action), self.t == 6, False, {}

    def _observation(self):
        resets = min(self.resets, 2) if self.settles else self.resets
        return np.array([resets + 100 * self.leak * self.made, self.t], np.float32)


def test_the_probe_tells_the_restore_classes_apart() -> None:
    cartpole = partial(make_env, EnvConfig(id="CartPole-v1"))
    assert probe_restore(cartpole, 0) == "replay"
    assert probe_restore(partial(CarryingEnv, settles=True), 0) == "settle"
    assert probe_restore(CarryingEnv, 0) == "rebuild"
    assert probe_restore(partial(CarryingEnv, True), 0) == "restart"


@pytest.mark.parametrize("seed", range(2))
def test_bipedal_walker_carries_state_over_a_reset(seed: int) -> None:
    assert restore_class(EnvConfig(id="BipedalWalker-v3"), seed) == "rebuild"


def test_a_configured_class_is_not_probed() -> None:
    assert restore_class(EnvConfig(id="CartPole-v1", restore="restart"), 0) == "restart"


def walk(vector, steps: int) -> list[bytes]:
    """Steps whose actions depend on the observations, as bytes."""
    low, high = vector.action_space.low, vector.action_space.high
    seen = []
    for _ in range(steps):
        action_B = np.clip(np.sin(100 * vector.obs_B[:, : len(low)]), low, high)
        seen.append(b"".join(a.tobytes() for a in vector.step(action_B)))
    return seen


def test_rebuilding_makes_the_resume_of_bipedal_walker_exact() -> None:
    def envs(restore: str):
        config = EnvConfig(id="BipedalWalker-v3", max_episode_steps=60, restore=restore)
        return make_vector(config, run_seed=0, num_envs=2)

    def resumes_exactly(restore: str) -> bool:
        straight, resumed = envs(restore), envs(restore)
        walk(straight, 150)
        resumed.load(straight.state())
        same = walk(straight, 100) == walk(resumed, 100)
        assert same == resumed.resume_exact  # it never claims more than is true
        return same

    assert resumes_exactly("rebuild")
    assert not resumes_exactly("replay")  # the control: what the class is for


@pytest.mark.parametrize("steps", [3, 9])  # in the first episode, and in the second
def test_settling_makes_the_resume_exact(steps: int) -> None:
    def resumes_exactly(restore: str) -> bool:
        make = partial(CarryingEnv, settles=True)
        played, resumed = (
            EpisodeEnv(make, run_seed=0, purpose=TRAIN, env_index=0, restore=restore)
            for _ in range(2)
        )
        for _ in range(steps):
            played.step(1)
        resumed.load(played.state())
        return resumed.resume_exact

    assert resumes_exactly("settle")
    assert resumes_exactly("replay") == (steps == 9)  # the control


@pytest.mark.parametrize("restore", ["replay", "restart"])
def test_what_cannot_be_resumed_is_restarted_and_said(restore: str) -> None:
    def member() -> EpisodeEnv:
        return EpisodeEnv(
            partial(CarryingEnv, True), run_seed=0, purpose=TRAIN, env_index=0, restore=restore
        )

    played = member()
    for _ in range(9):  # one episode of 6 steps, and 3 steps of the next
        played.step(1)
    resumed = member()
    resumed.load(played.state())
    assert not resumed.resume_exact
    assert (resumed.episode_index, resumed.length) == (1, 0)


def test_that_a_resume_was_not_exact_is_not_forgotten() -> None:
    env = episodes(TRAIN, 0)
    env.load(env.state())
    assert env.resume_exact
    env.load(env.state() | {"resume_exact": False})
    assert not env.resume_exact


def test_a_replay_that_ends_too_early_is_not_exact() -> None:
    env = EpisodeEnv(BlindEnv, run_seed=0, purpose=TRAIN, env_index=0)
    env.step(1)
    state = env.state()
    env.load(state)
    assert env.resume_exact and env.length == 1
    env.load(state | {"actions": np.ones(3, np.int64)})  # played when episodes were longer
    assert not env.resume_exact and env.length == 0


class BlindEnv(gymnasium.Env):
    """Shows nothing; an episode has two steps."""

    action_space = observation_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return 0, {}

    def step(self, action):
        self.t += 1
        return 0, 0.0, False, self.t == 2, {}


def test_logged_actions_do_not_follow_the_callers_array() -> None:
    vector = make_vector(EnvConfig(id="MountainCarContinuous-v0", restore="replay"), run_seed=0)
    [member] = vector.env.members
    action_B = np.array([[0.25]], np.float32)
    vector.step(action_B)
    member.step(action_B[0])
    action_B[:] = -1.0
    assert member.state()["actions"].tolist() == [[0.25], [0.25]]


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (gymnasium.spaces.Discrete(3, start=2), [2, 4, np.int64(3)], [1, 5, 2.0, True, None]),
        (
            gymnasium.spaces.MultiDiscrete([2, 3]),
            [np.array([1, 2]), np.array([0, 1], np.int8)],
            [np.array([2, 0]), np.array([0, -1]), np.array([0.0, 1.0]), np.array([0])],
        ),
        (
            gymnasium.spaces.Box(-1, 1, (2,)),
            [np.zeros(2, np.float32), np.ones(2, np.float16)],
            [np.zeros(3, np.float32), np.array([0, np.nan], np.float32), [0.0, 0.0], 0.0],
        ),
        (
            gymnasium.spaces.MultiBinary(2),
            [np.array([0, 1], np.int8)],
            [np.array([0, 2], np.int8), np.array([0, -1], np.int8)],
        ),
    ],
)
@pytest.mark.parametrize("action", [True, False])
def test_space_checks(space, good: list, bad: list, action: bool) -> None:
    check = SpaceCheck(space, action=action)
    for value in good:
        assert check.fits(check.coerced(value))
    for value in bad:
        with pytest.raises(EnvError):
            if not check.values(check.coerced(value)):
                raise EnvError(check.fault(value))


def test_large_finite_numbers_are_finite() -> None:
    check = SpaceCheck(gymnasium.spaces.Box(-np.inf, np.inf, (2,)), action=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check.values(np.array([[3e38, -3e38], [0, 1]], np.float32))
        assert not check.values(np.array([[3e38, np.inf], [0, 1]], np.float32))
