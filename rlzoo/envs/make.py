"""From the settings of an env to the env itself: one, or B of them that share a clock."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import EnvSpec

from rlzoo.core.messages import cause
from rlzoo.core.seeding import TRAIN
from rlzoo.core.settings import nearest, setting
from rlzoo.core.types import EnvError, RlzooError, UsageError
from rlzoo.envs.batch import EpisodeBatch, GymEpisodes
from rlzoo.envs.envpool import EnvPoolEpisodes, EnvPoolVectorEnv, make_pool, probe_pool
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass
from rlzoo.envs.packages import env_hint, missing
from rlzoo.envs.process import ProcessVectorEnv
from rlzoo.envs.process_batch import ProcessEpisodes
from rlzoo.envs.recorded import RecordedVectorEnv
from rlzoo.envs.restore import probe_restore
from rlzoo.envs.sync import SyncVectorEnv
from rlzoo.envs.wrappers import with_array_observations, with_time_feature

INSTEAD = {
    "max_episode_steps": "expected env.max_episode_steps",
    "render_mode": "a run is shown by rlzoo play RUN",
}


@dataclass(frozen=True)
class EnvConfig:
    """Which env, how many of them, and where they run."""

    name: str = setting("gym", "the preset's name, used for run directories")
    id: str = setting("", "a gymnasium id, such as CartPole-v1 or my_module:MyEnv-v0")
    kwargs: dict[str, Any] | None = setting(None, "arguments of the env's constructor")
    max_episode_steps: int | None = setting(
        None, "truncate episodes after this many env steps (empty: the registered limit)", low=1
    )
    eval_episode_steps: int = setting(
        10_000,
        "in an env without a time limit, an episode outside of training (of an evaluation, a film, "
        "a recording) is cut off after so many env steps",
        low=1,
    )
    time_feature: bool = setting(
        False, "observations end with the elapsed part of the time limit (Pardo et al. 2018)"
    )
    num_envs: int = setting(1, "number of envs that are stepped together", low=1, high=100_000)
    backend: Literal["sync", "process", "envpool"] = setting(
        "sync",
        "step the envs in this process, in worker processes (for slow simulators), or train in "
        "EnvPool's C++ copy of the env (extra 'envpool'); evaluation is always in env.id itself",
    )
    envpool_id: str = setting("", "the env's name in EnvPool (empty: as env.id; backend envpool)")
    workers: int = setting(
        0,
        "worker processes, or EnvPool's threads (0: one per core, but no more than envs)",
        low=0,
        high=10_000,
    )
    timeout_seconds: float = setting(
        60.0, "an env that takes longer than this for one step is taken for hung (process)", above=0
    )
    restore: Literal["auto", "replay", "settle", "rebuild", "restart"] = setting(
        "auto", "how an episode is resumed (rlzoo/envs/episodes.py); auto finds out by experiment"
    )

    def check(self) -> None:
        find_spec(self.id)
        for key in ("max_episode_steps", "render_mode"):
            if key in (self.kwargs or {}):
                raise UsageError(f"env.kwargs.{key}: that is no argument of an env, {INSTEAD[key]}")
        if self.time_feature and self.backend == "envpool":
            raise UsageError("env.time_feature=true: not with env.backend=envpool")


@dataclass(frozen=True)
class MoreEnvs:
    """Envs like those of some settings, whose episodes end (a `core.algorithm.EnvSource`)."""

    config: EnvConfig
    spec: EnvSpec | None = None  # of `config.id`, which a worker process may not know

    @property
    def id(self) -> str:
        return self.config.id

    def make(self) -> Env:
        return make_env(with_time_limit(self.config, self.spec), spec=self.spec)

    def make_batch(self) -> EpisodeBatch:
        return make_episode_batch(with_time_limit(self.config, self.spec), self.spec)


def find_spec(id: str) -> EnvSpec:
    """The registered spec of a gymnasium id, or a UsageError that names the nearest id.

    Of 'module:Name-v0' the module registers the env. It is imported here if it is rlzoo's own; any
    other must have been imported by then, as ids come from saved files, too.
    """
    if not id:
        raise UsageError("env.id: got nothing, expected a gymnasium id such as env.id=CartPole-v1")
    module, _, name = id.rpartition(":")
    try:
        if module.startswith("rlzoo.envs.zoo."):
            importlib.import_module(module)
        elif module and module not in sys.modules:
            raise UsageError(f"env.id: got '{id}', name its module first: plugins=[{module}]")
        return gymnasium.spec(name)
    except ImportError as error:
        ours = (error.name or "").startswith("rlzoo.")
        why = f"whose module cannot be imported: {error}" if ours else f"which {missing(error)}"
        raise UsageError(f"env.id: got '{id}', {why}") from error
    except gymnasium.error.Error as error:
        reason = str(error).split(". ")[0].rstrip(".")
        hint = ("" if module else env_hint(name)) or _nearest_id(name)
        raise UsageError(f"env.id: got '{id}', expected a known id. {reason}.{hint}") from error


def with_time_limit(config: EnvConfig, spec: EnvSpec | None = None) -> EnvConfig:
    """The env of episodes that must end: itself where it has a time limit, else with one."""
    if config.max_episode_steps or (spec or find_spec(config.id)).max_episode_steps:
        return config
    return replace(config, max_episode_steps=config.eval_episode_steps)


def _nearest_id(name: str) -> str:
    """A known id that is spelled nearly so, whatever its version (which says much of two ids)."""
    versions = {id.rpartition("-v")[0]: id for id in gymnasium.registry}
    near = nearest(name.rpartition("-v")[0] or name, versions, cutoff=0.8)
    return re.sub(r"'(.*)'", lambda found: f"'{versions[found[1]]}'", near)


def make_env(
    config: EnvConfig, *, render_mode: str | None = None, spec: EnvSpec | None = None
) -> Env:
    """One env with array (or integer) observations and its time limit, free of checking wrappers.

    `spec` is the already looked-up `config.id`, for a process in which that id is not registered.
    Raises UsageError for an unknown id, wrong `kwargs`, or a package that is not installed, and
    EnvError for whatever else the constructor raises.
    """
    spec = copy.deepcopy(spec or find_spec(config.id))
    spec.order_enforce, spec.disable_env_checker = False, True  # EpisodeEnv does both, faster
    kwargs = dict(config.kwargs or {})
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    try:
        env = gymnasium.make(spec, max_episode_steps=config.max_episode_steps, **kwargs)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(f"env.id={spec.id} {missing(error)}") from error
    except TypeError as error:
        raise UsageError(f"env.kwargs: {error}") from error
    except (KeyboardInterrupt, RlzooError):
        raise
    except BaseException as error:
        text = f"env.id={spec.id}: its constructor raised {cause(error)}"
        raise EnvError(text) from error
    env = with_array_observations(env)
    return with_time_feature(env) if config.time_feature else env


def make_vector(
    config: EnvConfig, *, run_seed: int, purpose: str = TRAIN, num_envs: int | None = None
) -> RecordedVectorEnv:
    """`num_envs` envs (default: as configured) with the configured backend."""
    num_envs = num_envs or config.num_envs
    return RecordedVectorEnv(_make_backend(config, run_seed, purpose, num_envs))


def _make_backend(
    config: EnvConfig, run_seed: int, purpose: str, num_envs: int
) -> SyncVectorEnv | ProcessVectorEnv | EnvPoolVectorEnv:
    if config.backend == "envpool":
        return _make_envpool(config, run_seed, purpose, num_envs)
    make = partial(make_env, config, spec=find_spec(config.id))
    restore = restore_class(config, run_seed)
    if config.backend == "process":
        return ProcessVectorEnv(
            make,
            num_envs=num_envs,
            run_seed=run_seed,
            purpose=purpose,
            restore=restore,
            workers=config.workers,
            timeout_seconds=config.timeout_seconds,
        )
    return SyncVectorEnv(
        [
            EpisodeEnv(make, run_seed=run_seed, purpose=purpose, env_index=i, restore=restore)
            for i in range(num_envs)
        ]
    )


def _make_envpool(
    config: EnvConfig, run_seed: int, purpose: str, num_envs: int
) -> EnvPoolVectorEnv:
    make = pool_maker(config, find_spec(config.id))
    restore = probe_pool(make, run_seed) if config.restore == "auto" else config.restore
    vector = EnvPoolVectorEnv(
        make, num_envs=num_envs, run_seed=run_seed, purpose=purpose, restore=restore
    )
    itself = make_env(config)
    for mine, theirs in (
        (vector.observation_space, itself.observation_space),
        (vector.action_space, itself.action_space),
    ):
        if type(mine) is not type(theirs) or mine.shape != theirs.shape:
            raise UsageError(
                f"env.envpool_id: EnvPool's env has {mine}, expected {theirs} as in {config.id}"
            )
    itself.close()
    return vector


def pool_maker(config: EnvConfig, spec: EnvSpec) -> Callable[[Sequence[int]], Any]:
    """From seeds to EnvPool's envs, one for each, with the time limit of `env.id`."""
    return partial(
        make_pool,
        config.envpool_id or spec.id,
        threads=config.workers,
        max_episode_steps=config.max_episode_steps or spec.max_episode_steps,
        kwargs=config.kwargs,
    )


def make_episode_batch(config: EnvConfig, spec: EnvSpec | None = None) -> EpisodeBatch:
    """Envs that play one episode each (`rlzoo.envs.batch`), with the configured backend.

    `spec` as in `make_env`.
    """
    spec = spec or find_spec(config.id)
    if config.backend == "envpool":
        return EnvPoolEpisodes(pool_maker(config, spec))
    make = partial(make_env, config, spec=spec)
    if config.backend == "process":
        return ProcessEpisodes(make, workers=config.workers, timeout_seconds=config.timeout_seconds)
    return GymEpisodes(make)


def restore_class(config: EnvConfig, seed: int) -> RestoreClass:
    """The configured restore class; `auto` plays a few short episodes to find out."""
    if config.restore == "auto":
        return probe_restore(partial(make_env, config), seed)
    return config.restore
