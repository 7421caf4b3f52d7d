"""From a configuration to the algorithm that it describes, and what is checked before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm, Network, Setup, Source, Sources
from rlzoo.core.messages import cause, warn
from rlzoo.core.types import RlzooError, UsageError, VectorEnv
from rlzoo.demonstrations.files import chosen
from rlzoo.demonstrations.fit import fit_report
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.episodes import faults_as
from rlzoo.envs.make import MoreEnvs, find_spec, make_env, make_vector, restore_class
from rlzoo.run.config import RunConfig


class Builder:
    """Makes the algorithm of a configuration; the demonstrations that it names are read once."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._class: type[Algorithm] = registry.get("algo", config.algo.name)[0]
        self.sources: Sources = self._class.sources(config.algo)
        self._demonstrations: Demonstrations | None = None

    def check_spaces(self) -> None:
        """UsageError for what cannot work in this env's spaces or on this machine."""
        config = self.config
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("device=cuda: torch finds no GPU here, expected device=cpu")
        with closing(make_env(config.env)) as env:
            self._class.check_spaces(config.algo, env.observation_space, env.action_space)

    def demonstrations(self) -> Demonstrations:
        """Those that the settings choose; DataError unless they are of the env's spaces."""
        if self._demonstrations is None:
            found = chosen(self.sources.demonstrations)
            with closing(make_env(self.config.env)) as env:
                check_fits(found, env.observation_space, env.action_space, self.config.env.id)
            self._demonstrations = found
        return self._demonstrations

    def check_demonstrations(self) -> None:
        """DataError for those of other spaces; a warning where they are of another simulator."""
        if self.sources.demonstrations is None:
            return
        make = partial(make_env, self.config.env)
        restore = restore_class(self.config.env, self.config.seed)
        report = fit_report(self.demonstrations(), make, restore=restore, seed=self.config.seed)
        for warning in report.warnings:
            warn(warning)

    def build(
        self,
        directory: Path | None = None,
        source: Source | None = None,
        agent: Callable[[], Algorithm] | None = None,
    ) -> Algorithm:
        """The algorithm with its envs, networks and buffers, ready to `step`."""
        config = self.config
        torch.set_num_threads(config.threads)
        if config.device == "cuda":  # else convolutions repeat no run, and no resume is exact
            torch.backends.cudnn.deterministic = True
        setup = Setup(
            env=make_vector(config.env, run_seed=config.seed),
            seed=config.seed,
            total_env_steps=config.total_env_steps,
            network=self._network(),
            make_replay=self._make_replay if config.replay else None,
            device=config.device,
            compile=config.compile,
            envs=MoreEnvs(config.env, find_spec(config.env.id)),
            directory=directory,
            source=source,
            agent=agent,
            demonstrations=self.demonstrations if self.sources.demonstrations else None,
        )
        make: Any = self._class
        try:
            algorithm: Algorithm = make(config.algo, setup)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            raise UsageError(f"settings that ask for too much memory: {cause(error)}") from error
        return algorithm

    def _network(self) -> Network | None:
        settings = self.config.network
        return settings and Network(settings, registry.get("network", settings.name)[0])

    def _make_replay(self, env: VectorEnv) -> Any:
        settings = self.config.replay
        replay_class = registry.get("replay", settings.name)[0]
        spaces = env.observation_space, env.action_space
        return replay_class.build(settings, *spaces, env.num_envs)


def build(config: RunConfig) -> Algorithm:
    """The algorithm of a configuration, its spaces checked."""
    builder = Builder(config)
    builder.check_spaces()
    return builder.build()


def close(algorithm: Algorithm) -> None:
    """Let go of its envs, files and processes; RlzooError for what cannot be closed."""
    try:
        algorithm.env.close()
    finally:
        with faults_as(RlzooError, "algorithm: close: "):
            algorithm.close()
