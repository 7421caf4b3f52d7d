"""A run directory as everyone but its own training reads it: settings, checkpoints, agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm, Memory, Policy, Source, Sources
from rlzoo.core.messages import note, warn
from rlzoo.core.types import State, UsageError
from rlzoo.envs.make import make_env, with_time_limit
from rlzoo.io import checkpoint, migrations
from rlzoo.io.regular import foreign
from rlzoo.io.run_dir import RunDir, latest
from rlzoo.run import config as configuration
from rlzoo.run.build import build, close
from rlzoo.run.config import RunConfig

OUTPUTS = Path("outputs")


class SavedRun:
    """A run by its directory, or 'latest': the one below `outputs` that started last.

    `which` checkpoint speaks for it: 'best' (where there is none, the last), or 'last'. UsageError
    for what is no run directory, DataError for one that cannot be read.
    """

    def __init__(
        self, path: str | Path, *, checkpoint: str = "best", outputs: Path = OUTPUTS
    ) -> None:
        if checkpoint not in ("best", "last"):
            raise UsageError(f"checkpoint: got '{checkpoint}', expected best or last")
        if str(path) == "latest":
            path = latest(outputs)
            note(f"latest is {path}")
        self.directory = RunDir.open(Path(path))
        self.which = checkpoint

    @property
    def path(self) -> Path:
        return self.directory.path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What config.yaml says, in the names of this version; not checked yet."""
        return migrations.settings(configuration.read_yaml(self._config_file))

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

    def config(self, words: Sequence[str] = ()) -> RunConfig:
        """The checked settings, with overrides on top such as `env.kwargs.gravity=-12`.

        UsageError where they name a module that the user has neither named nor installed.
        """
        return configuration.branched(self.settings, words, str(self._config_file))

    def resumed(self, words: Sequence[str]) -> tuple[RunConfig, dict[str, tuple[Any, Any]]]:
        """The settings to go on with, and what the overrides change: {key: (old, new)}."""
        return configuration.with_overrides(self.settings, words, str(self._config_file))

    def newest(self) -> tuple[Path, State]:
        found = checkpoint.newest(self.directory.checkpoints, note)
        if found is None:
            raise UsageError(f"{self.path}: has no checkpoint yet")
        return found

    def checkpoint(self) -> tuple[Path, State]:
        """The checkpoint that speaks for the run, and its state."""
        best = checkpoint.load_best(self.directory.checkpoints) if self.which == "best" else None
        if best is not None:
            note(f"{best[0].name} (best on the selection seeds)")
            return best
        found = self.newest()
        note(f"{found[0].name} (last)")
        return found

    def algorithm(self, words: Sequence[str] = ()) -> Algorithm:
        """The algorithm with the policy of that checkpoint; the caller closes it."""
        return with_policy(self.config(words), *self.checkpoint())

    def policy(self) -> PlayingPolicy:
        """What acts, for a program of one's own."""
        return PlayingPolicy(self.algorithm(), self.path)

    def make_env(self, render_mode: str | None = None) -> Any:
        """The run's env, as a plain gymnasium env, whose episodes end."""
        return make_env(with_time_limit(self.config().env), render_mode=render_mode)

    def __repr__(self) -> str:
        return f"SavedRun('{self.path}')"


def with_policy(config: RunConfig, path: Path, state: State) -> Algorithm:
    """The algorithm of some settings with the policy of a checkpoint, which was read at `path`."""
    # Episodes are shown in the env itself, on the CPU: what trained may not be here.
    env = replace(config.env, backend="sync", num_envs=1)
    algorithm = build(replace(config, env=env, device="cpu"))
    with foreign(path):
        algorithm.load_policy(state["algorithm"])
    return algorithm


def acting_policy(algorithm: Algorithm, where: Path) -> Policy:
    """The policy of a loaded algorithm; UsageError where its phases have made none."""
    if algorithm.policy is None:
        raise UsageError(f"{where}: has no policy yet: its phases have made none")
    return algorithm.policy


def sources_of(config: RunConfig) -> Sources:
    algorithm_class: type[Algorithm] = registry.get("algo", config.algo.name)[0]
    return algorithm_class.sources(config.algo)


def source_of(config: RunConfig) -> Source | None:
    """The run that a new one builds on, if its settings name one."""
    path = sources_of(config).run
    if not path:
        return None
    run = SavedRun(path)
    ours = config.env.kwargs or {}
    with foreign(run.path):
        theirs = (run.settings.get("env") or {}).get("kwargs") or {}
        for key in sorted({*theirs, *ours}):
            here, there = (kwargs.get(key, "not set") for kwargs in (ours, theirs))
            if here != there:
                warn(f"env.kwargs.{key}: {here} here, {there} in {run.path}")
        return Source(run.path, run.newest()[1]["algorithm"])


def agent_of(config: RunConfig, path: str | Path) -> Algorithm:
    """The newest policy of the run that is imitated; the caller closes it."""
    run = SavedRun(path)
    return with_policy(replace(run.config(), threads=config.threads), *run.newest())


def check_agent(config: RunConfig) -> None:
    """Refuse another run's agent that cannot be imitated, before hours have gone by."""
    if path := sources_of(config).agent:
        algorithm_class: type[Algorithm] = registry.get("algo", config.algo.name)[0]
        agent = agent_of(config, path)
        algorithm_class.check_agent(config.algo, config.env.id, agent)
        close(agent)


class PlayingPolicy:
    """A trained policy: `action = policy(obs)`, with `policy.reset()` at an episode's start.

    It takes one observation, or a batch of them, as the env gives them, and carries a memory from
    call to call. Actions are greedy, and exactly those of `evaluate`.
    """

    def __init__(self, algorithm: Algorithm, where: Path) -> None:
        self._policy = acting_policy(algorithm, where)
        self._space = algorithm.env.observation_space
        self._memories: list[Memory] = []
        close(algorithm)

    def reset(self) -> None:
        """Forget: an episode begins."""
        self._memories = []

    def __call__(self, obs: Any) -> Any:
        """The action for an observation, or an array of actions for a batch [B, ...]."""
        obs = np.asarray(obs, dtype=self._space.dtype)
        shape = self._space.shape or ()
        is_single = obs.shape == shape
        if not is_single and obs.shape[1:] != shape:
            raise UsageError(
                f"policy: got observations {obs.shape}, expected {shape}, or a batch of them"
            )
        obs_B = obs[None] if is_single else obs
        if len(self._memories) != len(obs_B):
            self._memories = [self._policy.initial(1) for _ in obs_B]
        actions = []
        for b, memory in enumerate(self._memories):  # one by one, as in `envs.play`
            [action], self._memories[b] = self._policy.act(obs_B[b : b + 1], memory, explore=False)
            actions.append(action)
        return actions[0] if is_single else np.array(actions)
