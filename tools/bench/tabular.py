"""Tabular Q-learning: env steps per second, against the same env stepped with nobody learning.

    tools/setup.sh && .venv/bin/python tools/bench/tabular.py [--pairs 5] [--json FILE]

The bare loop is the env as gymnasium makes it (with its default wrappers), random actions drawn
beforehand, and a reset where an episode ends: what is left is what the env itself costs.
"""

from __future__ import annotations

import sys
import time

from paired import Measurement, drive, main

TASKS = ["cliffwalking", "frozenlake", "taxi"]
WARM_UP, WORK = 20_000, 200_000  # env steps


def q_learning(env: str) -> Measurement:
    from rlzoo.run.build import build
    from rlzoo.run.config import compose

    words = ["algo=q_learning", f"env={env}", "experiment=none", f"total_env_steps={2 * WORK}"]
    return drive(build(compose(words)), WARM_UP, WORK)


def bare_loop(name: str) -> Measurement:
    import gymnasium
    import numpy as np

    from rlzoo.run.config import compose

    config = compose(["algo=q_learning", f"env={name}", "experiment=none"]).env
    env = gymnasium.make(
        config.id, max_episode_steps=config.max_episode_steps, **(config.kwargs or {})
    )
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    actions = np.random.default_rng(0).integers(env.action_space.n, size=WARM_UP + WORK).tolist()
    env.reset(seed=0)
    for i, action in enumerate(actions):
        if i == WARM_UP:
            start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return Measurement(WORK, 0, time.perf_counter() - start)


SIDES = {"bare env loop": bare_loop, "rlzoo q_learning": q_learning}

if __name__ == "__main__":
    title = "Tabular Q-learning against the bare env loop"
    sys.exit(main(__file__, title, SIDES, TASKS, peer="bare env loop"))
