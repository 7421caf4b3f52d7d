"""Names to classes, by kind, loaded only when asked for.

An entry is the text 'module:attribute', so listing and spelling checks never import torch. A
plug-in (a module named in `plugins=[...]` or by an entry point of the group `rlzoo.plugins`) calls
`register` when it is imported; see docs/extending.md.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from rlzoo.core.settings import nearest
from rlzoo.core.types import UsageError


@dataclass(frozen=True)
class Entry:
    """Where what is registered and its settings dataclass live ('module:attribute' each).

    An algo is a `core.algorithm.Algorithm`; a network makes an encoder from an observation space
    (rlzoo/nets/mlp.py); a replay has `build(config, obs_space, action_space, num_envs)`.
    """

    target: str
    config: str


_ENTRIES: dict[str, dict[str, Entry]] = {
    "algo": {
        "q_learning": Entry("rlzoo.algos.tabular:QLearning", "rlzoo.algos.tabular:QLearningConfig"),
        "sarsa": Entry("rlzoo.algos.tabular:Sarsa", "rlzoo.algos.tabular:SarsaConfig"),
        "dqn": Entry("rlzoo.algos.dqn:DQN", "rlzoo.algos.dqn:DQNConfig"),
        "world_models": Entry(
            "rlzoo.algos.world_models.agent:WorldModels",
            "rlzoo.algos.world_models.config:WorldModelsConfig",
        ),
        "ppo": Entry("rlzoo.algos.ppo:PPO", "rlzoo.algos.ppo:PPOConfig"),
        "trpo": Entry("rlzoo.algos.trpo:TRPO", "rlzoo.algos.trpo:TRPOConfig"),
        "bc": Entry("rlzoo.algos.bc:BC", "rlzoo.algos.bc:BCConfig"),
        "gail": Entry("rlzoo.algos.gail.gail:GAIL", "rlzoo.algos.gail.gail:GAILConfig"),
        "gail_as_printed": Entry(
            "rlzoo.algos.gail.as_printed:GAILAsPrinted",
            "rlzoo.algos.gail.as_printed:GAILAsPrintedConfig",
        ),
        "airl": Entry("rlzoo.algos.gail.airl:AIRL", "rlzoo.algos.gail.airl:AIRLConfig"),
    },
    "network": {
        "mlp": Entry("rlzoo.nets.mlp:vector_encoder", "rlzoo.nets.mlp:NetworkConfig"),
        "nature_cnn": Entry("rlzoo.nets.cnn:image_encoder", "rlzoo.nets.mlp:NetworkConfig"),
    },
    "replay": {
        "uniform": Entry("rlzoo.data.replay:Replay", "rlzoo.data.replay:ReplayConfig"),
        "prioritized": Entry(
            "rlzoo.data.prioritized:PrioritizedReplay", "rlzoo.data.prioritized:PrioritizedConfig"
        ),
    },
}


def register(kind: str, name: str, target: str, config: str) -> None:
    """Add a class to a kind; both arguments are 'module:attribute'. Called by plug-ins on import.

    `kind` is algo, network or replay. Registering the same entry twice is harmless; taking
    another's name is a UsageError.
    """
    if kind not in _ENTRIES:
        raise UsageError(
            f"unknown kind '{kind}'.{nearest(kind, _ENTRIES)} Known: {', '.join(_ENTRIES)}"
        )
    entry = Entry(target, config)
    known = _ENTRIES[kind].setdefault(name, entry)
    if known != entry:
        raise UsageError(f"{kind} '{name}' is already registered as {known.target}, got {target}")


def names(kind: str) -> list[str]:
    return sorted(_ENTRIES[kind])


def get(kind: str, name: str) -> tuple[Any, type]:
    """The class and the settings dataclass of a registered name."""
    if name not in _ENTRIES[kind]:
        raise UsageError(
            f"unknown {kind} '{name}'.{nearest(name, names(kind))} Known: {', '.join(names(kind))}"
        )
    entry = _ENTRIES[kind][name]
    return _load(entry.target), _load(entry.config)


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
