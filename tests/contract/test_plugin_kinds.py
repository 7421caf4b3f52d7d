"""A plug-in can add a network and a replay memory, and DQN takes them by name."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from rlzoo.core import registry
from rlzoo.core.types import UsageError
from rlzoo.data.replay import Batch, Replay, ReplayConfig
from rlzoo.nets.mlp import NetworkConfig
from rlzoo.run import config as configuration
from rlzoo.study.contract import begin as start
from rlzoo.study.contract import outcome

drawn: list[int] = []


class Squares(torch.nn.Module):
    """Observations and their squares."""

    def __init__(self, obs_space: Any) -> None:
        super().__init__()
        self.num_features = 2 * int(np.prod(obs_space.shape))

    def forward(self, obs_B: torch.Tensor) -> torch.Tensor:
        return torch.cat([obs_B, obs_B.square()], dim=1)


class CountingReplay(Replay):
    def sample(self, batch_size: int, *arguments: Any, **options: Any) -> Batch:
        drawn.append(batch_size)
        return super().sample(batch_size, *arguments, **options)


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", copy.deepcopy(registry._ENTRIES))
    here, settings = __name__, NetworkConfig.__module__
    registry.register("network", "squares", f"{here}:Squares", f"{settings}:NetworkConfig")
    settings = ReplayConfig.__module__
    registry.register("replay", "counting", f"{here}:CountingReplay", f"{settings}:ReplayConfig")
    drawn.clear()


def test_dqn_uses_a_network_and_a_replay_of_a_plugin(tmp_path):
    words = ["algo=dqn", "env=cartpole", "experiment=none", "debug=tiny", "logger=jsonl"]
    config = configuration.compose([*words, "network=squares", "replay=counting"])
    run, status = start(config, tmp_path / "one")
    again, _ = start(config, tmp_path / "two")
    assert status == "finished" and outcome(run) == outcome(again)
    assert run.algorithm.q.head[0].in_features == 8  # type: ignore[attr-defined]
    assert drawn


def test_names_that_are_taken_or_unknown_are_refused():
    with pytest.raises(UsageError, match=r"network 'mlp' is already registered"):
        registry.register("network", "mlp", "a:b", "c:d")
    with pytest.raises(UsageError, match=r"unknown network 'squarez'. Did you mean 'squares'"):
        configuration.compose(["algo=dqn", "network=squarez"])
