"""200 steps of each algorithm against a recorded trace: a change of results is never silent.

Recorded with `RLZOO_RECORD_TRACES=1 pytest tests/golden/test_traces.py`; whoever records them
anew says so in the CHANGELOG. Discrete things are compared exactly; numbers out of matrix products
to 1e-3, because they differ in the last bits between processors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experts import with_demonstrations

from rlzoo.core import registry
from rlzoo.core.algorithm import Histogram
from rlzoo.run import config as configuration
from rlzoo.run.build import build

ENVS = {  # the others: cliffwalking
    "gail_as_printed": "lunarlander_continuous",
    "world_models": "car_racing_fast",
}
RECORDED = Path(__file__).parent / "data" / "traces.json"
ADVERSARIAL = [
    "algo.ppo.rollout_env_steps=40",
    "algo.ppo.batch_size=16",
    "algo.ppo.epochs=2",
    "algo.ppo.normalize_obs=false",
    "algo.discriminator.hidden=[16]",
    "algo.discriminator.batch_size=16",
    "algo.discriminator.gradient_penalty=0.5",
    "network.hidden=[16,16]",
]
EXTRA = {
    "airl": ADVERSARIAL,
    "gail": ["algo.warm_start_updates=50", *ADVERSARIAL],
    "gail_as_printed": ["algo.rollout_env_steps=40", "algo.batch_size=10"],
    "bc": ["algo.updates=200", "algo.heldout_every_updates=40", "network.hidden=[16,16]"],
    "dqn": [
        "algo.learning_starts_env_steps=32",
        "algo.target_every_env_steps=40",
        "algo.lr=1e-3",
        "network.hidden=[16,16]",
        "replay.capacity=150",
    ],
    "ppo": [
        "algo.rollout_env_steps=40",
        "algo.batch_size=16",
        "algo.epochs=2",
        "algo.lr=5e-3",
        "algo.lr_schedule=linear",
        "algo.normalize_reward=true",
        "network.hidden=[16,16]",
    ],
    "trpo": [
        "algo.rollout_env_steps=40",
        "algo.batch_size=16",
        "algo.critic_updates=2",
        "algo.critic_lr=5e-3",
        "algo.normalize_reward=true",
        "network.hidden=[16,16]",
    ],
}


def shown(obs_B: np.ndarray) -> list[float] | float:
    """Observations as they are, and pictures by their mean, so that the file stays small."""
    return obs_B.tolist() if obs_B.size < 1000 else float(obs_B.mean())


def trace(algo: str) -> list[dict[str, Any]]:
    env = ENVS.get(algo, "cliffwalking")
    words = [f"algo={algo}", f"env={env}", "experiment=none", "total_env_steps=200"]
    config = configuration.compose([*words, "env.num_envs=2", *EXTRA.get(algo, [])])
    algorithm = build(with_demonstrations(config))
    rows = []
    while not algorithm.done():
        metrics = algorithm.step()
        rows.append(
            {
                "env_steps": algorithm.counters.env_steps,
                "episodes": algorithm.counters.episodes,
                "updates": algorithm.counters.updates,
                "obs": shown(algorithm.env.obs_B),
                **{name: float(value) for name, value in metrics.items()},
            }
        )
    found = [report for report in algorithm.report() if isinstance(report, Histogram)]
    if found:
        rows.append({report.name: float(np.mean(report.values)) for report in found})
    algorithm.env.close()
    return rows


def recorded() -> dict[str, list[dict[str, Any]]]:
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}


@pytest.mark.parametrize("algo", registry.names("algo"))
def test_trace(algo):
    rows = trace(algo)
    if os.environ.get("RLZOO_RECORD_TRACES"):
        RECORDED.write_text(json.dumps({**recorded(), algo: rows}, indent=1, sort_keys=True))
    wanted = recorded()[algo]
    assert len(rows) == len(wanted)
    for got, want in zip(rows, wanted, strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            if isinstance(value, float):
                assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-6), (got, want)
            else:
                assert got[name] == value, (got, want)
