"""From a configuration, or the directory of a run, to the algorithm that it describes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlzoo.core import registry
from rlzoo.core.messages import note
from rlzoo.core.types import Algorithm, Setup, Source, State, UsageError
from rlzoo.envs.make import make_env, make_vector, restore_class
from rlzoo.io import checkpoint
from rlzoo.io.run_dir import RunDir
from rlzoo.run import config as configuration
from rlzoo.run.config import RunConfig


def check_spaces(config: RunConfig) -> None:
    """Refuse (UsageError) what cannot work in this env's spaces or on this machine."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda: torch finds no GPU here, expected device=cpu")
    env = make_env(config.env)
    try:
        algorithm_class: Any = registry.get("algo", config.algo.name)[0]
        algorithm_class.check_spaces(config.algo, env.observation_space, env.action_space)
    finally:
        env.close()


def check_demonstrations(config: RunConfig) -> None:
    """Refuse demonstrations that nothing can be learnt from in this env; warn of foreign ones."""
    settings = getattr(config.algo, "demonstrations", None)
    if settings is None:
        return
    from rlzoo.demonstrations.files import chosen
    from rlzoo.demonstrations.fit import fit_report
    from rlzoo.demonstrations.trajectories import check_fits

    demonstrations = chosen(settings)
    make = partial(make_env, config.env)
    with closing(make()) as env:
        spaces = env.observation_space, env.action_space
    check_fits(demonstrations, *spaces, config.env.id)
    restore = restore_class(config.env, config.seed)
    for warning in fit_report(demonstrations, make, restore=restore, seed=config.seed).warnings:
        note(f"warning: {warning}")


def _registered(kind: str, settings: Any) -> Any:
    return settings and registry.get(kind, settings.name)[0]


def source_of(config: RunConfig) -> Source | None:
    """The run that a new one builds on (`algo.source`), if it names one."""
    path = getattr(config.algo, "source", "")
    if not path:
        return None
    directory = RunDir.open(Path(path))
    name = directory.path / "config.yaml"
    saved = configuration.load_yaml(name.read_text(), str(name)).get("env") or {}
    theirs = saved.get("kwargs") or {}
    ours = config.env.kwargs or {}
    for key in sorted({*theirs, *ours}):
        here, there = (kwargs.get(key, "not set") for kwargs in (ours, theirs))
        if here != there:
            note(f"warning: env.kwargs.{key}: {here} here, {there} in {path}")
    return Source(directory.path, _newest(directory)[1]["algorithm"])


def build(
    config: RunConfig, directory: Path | None = None, source: Source | None = None
) -> Algorithm:
    """The algorithm of a configuration with its envs, networks and buffers, ready to `step`."""
    check_spaces(config)
    torch.set_num_threads(config.threads)
    setup = Setup(
        env=make_vector(config.env, run_seed=config.seed),
        seed=config.seed,
        total_env_steps=config.total_env_steps,
        network=config.network,
        make_encoder=_registered("network", config.network),
        replay=config.replay,
        replay_class=_registered("replay", config.replay),
        device=config.device,
        compile=config.compile,
        env_id=config.env.id,
        env_config=config.env,
        directory=directory,
        source=source,
        load_agent=load_agent,
    )
    algorithm: Algorithm = registry.get("algo", config.algo.name)[0](config.algo, setup)
    return algorithm


def open_run(path: str, env_words: Sequence[str] = ()) -> tuple[RunDir, RunConfig]:
    """A run directory and its configuration; `latest` is the newest one under outputs/.

    `env_words` are overrides of its env, such as `env.kwargs.gravity=-12`.
    """
    from rlzoo.io.run_dir import latest

    directory = RunDir.open(latest(Path("outputs")) if path == "latest" else Path(path))
    name = directory.path / "config.yaml"
    saved = configuration.load_yaml(name.read_text(), str(name))
    registry.load_plugins(saved.get("plugins") or ())
    return directory, configuration.branched(saved, env_words)


def find_checkpoint(directory: RunDir, which: str) -> tuple[Path, State]:
    """The best checkpoint (where there is none, the last) or the last one, with its state."""
    if which not in ("best", "last"):
        raise UsageError(f"checkpoint: got '{which}', expected best or last")
    best = checkpoint.best(directory.checkpoints) if which == "best" else None
    if best is not None:
        note(f"{best.name} (best on the selection seeds)")
        return best, checkpoint.load(best)
    found = _newest(directory)
    note(f"{found[0].name} (last)")
    return found


def _newest(directory: RunDir) -> tuple[Path, State]:
    found = checkpoint.newest(directory.checkpoints, note)
    if found is None:
        raise UsageError(f"{directory.path}: has no checkpoint yet")
    return found


def load_policy(config: RunConfig, state: State) -> Algorithm:
    """The algorithm with the policy of a checkpoint, ready to `act`."""
    # Episodes are shown in the env itself, on the CPU: what trained may not be here.
    env = replace(config.env, backend="sync")
    algorithm = build(replace(config, env=env, device="cpu"))
    algorithm.load_policy(state["algorithm"])
    return algorithm


def load_agent(path: str) -> Algorithm:
    """The newest policy of another run, with an env of its own that the caller closes."""
    directory, config = open_run(path)
    threads = torch.get_num_threads()  # a matter of this run's
    config = replace(config, threads=threads, env=replace(config.env, num_envs=1))
    return load_policy(config, _newest(directory)[1])


def check_agent(config: RunConfig) -> None:
    """Refuse another run's agent that cannot be imitated, before hours have gone by."""
    path = getattr(config.algo, "imitates", "")
    if path:
        algorithm_class: Any = registry.get("algo", config.algo.name)[0]
        agent: Any = load_agent(path)
        agent.env.close()
        algorithm_class.check_agent(config.algo, config.env.id, agent)
