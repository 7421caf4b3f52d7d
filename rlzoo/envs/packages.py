"""Packages that rlzoo can use and does not need: what installs one, and what works without it."""

from __future__ import annotations

import re
from typing import NamedTuple


class Extra(NamedTuple):
    """An extra of pyproject.toml: modules that it brings, what pip installs, what else there is."""

    modules: str
    install: str
    without: str


EXTRAS = {
    "bullet": Extra(
        "pybullet pybullet_data pybullet_envs pybullet_utils pybullet_envs_gymnasium",
        "pybullet pybullet-envs-gymnasium",
        "MuJoCo's envs work (extra mujoco), such as env=hopper_mujoco",
    ),
    "envpool": Extra("envpool", "envpool", "env.backend=process works, and env=car_racing_fast"),
    "minari": Extra("minari h5py", "'minari[hdf5]'", "files in other formats work"),
    "mujoco": Extra("mujoco", "'gymnasium[mujoco]'", "PyBullet's work, such as env=hopper_bullet"),
    "ray": Extra("ray", "ray", "algo.controller.executor=process works, on one machine"),
    "video": Extra("imageio_ffmpeg", "imageio-ffmpeg", "films in GIF work, such as file=film.gif"),
    "vizdoom": Extra("vizdoom", "vizdoom", "all other envs work"),
}

# Envs that gymnasium does not know before a package is imported: ids, the module, what installs it.
_ATARI = "Asterix|Boxing|Breakout|Freeway|MsPacman|Pong|Qbert|Seaquest|SpaceInvaders"
FAMILIES = (
    (r".*BulletEnv-v\d", "rlzoo.envs.zoo.bullet", "bullet"),
    (r"(Vizdoom)?TakeCover.*", "rlzoo.envs.zoo.takecover", "vizdoom"),
    (rf"ALE/.*|.*(NoFrameskip|Deterministic)-v\d|({_ATARI})-v\d", "ale_py", "ale-py"),
    (r"(MiniGrid|BabyAI)-.*", "minigrid", "minigrid"),
    (r"(Fetch|HandReach|HandManipulate|AntMaze|PointMaze|Adroit).*", "gymnasium_robotics", ""),
    (r"dm_control/.*", "shimmy", "'shimmy[dm-control]'"),
    (r"Panda(Reach|Push|Slide|Stack|Flip|PickAndPlace).*", "panda_gym", "panda-gym"),
    (r"(highway|merge|roundabout|parking|intersection)-.*", "highway_env", "highway-env"),
    (r"seals/.*", "seals", "seals"),
)


def needs(extra: str) -> str:
    """The end of an error: the missing extra, the line that installs it, what works without."""
    _, install, without = EXTRAS[extra]
    return (
        f"needs the extra {extra}: tools/setup.sh {extra} installs it (outside a clone: pip "
        f"install {install}); without it, {without}"
    )


def missing(error: ImportError | Exception) -> str:
    """The end of an error that an import caused, directly or not: what is missing."""
    cause: BaseException | None = error
    while cause is not None:
        module = (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""
        for extra, (modules, *_) in EXTRAS.items():
            if module in modules.split():
                return f"{needs(extra)} ({error})"
        cause = cause.__cause__
    return f"needs a package that is not installed: {error}"


def env_hint(id: str) -> str:
    """' ...' for an id of another package: how to name it, and what installs it; else ''."""
    for ids, module, install in FAMILIES:
        if re.fullmatch(ids, id):
            command = "tools/setup.sh" if install in EXTRAS else "pip install"
            name = "TakeCover-v0" if "TakeCover" in id else id
            atari = " (what prepares its frames is not in rlzoo yet)" if module == "ale_py" else ""
            return (
                f" It is known as env.id={module}:{name} with the package of "
                f"'{command} {install or module.replace('_', '-')}'{atari}."
            )
    return ""
