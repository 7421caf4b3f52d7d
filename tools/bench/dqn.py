"""DQN on CartPole-v1: env steps per second, ours against Stable-Baselines3 doing the same work.

    tools/setup.sh bench && .venv/bin/python tools/bench/dqn.py [--pairs 5] [--json FILE]

Same network, batch, buffer, update rhythm, exploration and optimiser; one env, one torch thread.
The clock starts after a warm-up that passes learning starts and a round of updates and more, so
imports, compilation and the random phase are left out on both sides. Neither side evaluates, saves
or writes logs.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from paired import Measurement, drive, main

LEARNING_STARTS = 1000
SCHEDULE_ENV_STEPS = 50_000  # the run's nominal length, which exploration is scheduled by
GAMMA, BUFFER = 0.99, 100_000


@dataclass(frozen=True)
class Task:
    hidden: tuple[int, int]
    lr: float
    batch_size: int
    train_every: int  # env steps
    gradient_steps: int
    target_every: int  # env steps
    exploration_fraction: float
    exploration_final: float
    warm_up: int  # env steps, as `work` a multiple of train_every
    work: int


TASKS = {
    "preset": Task((256, 256), 2.3e-3, 64, 256, 128, 10, 0.16, 0.04, 2048, 40 * 256),
    "light": Task((64, 64), 1e-4, 32, 4, 1, 10_000, 0.1, 0.05, 2000, 20_000),
    "dense": Task((120, 84), 2.5e-4, 128, 1, 1, 500, 0.1, 0.05, 2000, 8000),
}


def words(name: str, *, compiled: bool) -> list[str]:
    """The settings of a task."""
    task = TASKS[name]
    return [
        "algo=dqn",
        "env=cartpole",
        "experiment=none",
        f"total_env_steps={SCHEDULE_ENV_STEPS}",
        f"compile={str(compiled).lower()}",
        "threads=1",
        f"network.hidden=[{task.hidden[0]},{task.hidden[1]}]",
        f"replay.capacity={BUFFER}",
        f"algo.gamma={GAMMA}",
        f"algo.lr={task.lr}",
        f"algo.batch_size={task.batch_size}",
        f"algo.learning_starts_env_steps={LEARNING_STARTS}",
        f"algo.train_every_env_steps={task.train_every}",
        f"algo.gradient_steps={task.gradient_steps}",
        f"algo.target_every_env_steps={task.target_every}",
        f"algo.epsilon_fraction={task.exploration_fraction}",
        f"algo.epsilon_final={task.exploration_final}",
    ]


def ours(name: str, *, compiled: bool) -> Measurement:
    from rlzoo.run.build import build
    from rlzoo.run.config import compose

    task, algorithm = TASKS[name], build(compose(words(name, compiled=compiled)))
    return drive(algorithm, task.warm_up, task.work)


def stable_baselines3(name: str) -> Measurement:
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Stopwatch(BaseCallback):
        """Looks at the clock at the start of a rollout, when the updates before it are done."""

        def __init__(self) -> None:
            super().__init__()
            self.marks: list[tuple[int, int, float]] = []

        def _on_rollout_start(self) -> None:
            due = (task.warm_up, task.warm_up + task.work)
            if len(self.marks) < 2 and self.num_timesteps >= due[len(self.marks)]:
                self.marks.append((self.num_timesteps, model._n_updates, time.perf_counter()))

        def _on_step(self) -> bool:
            return len(self.marks) < 2

    torch.set_num_threads(1)
    task = TASKS[name]
    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=task.lr,
        buffer_size=BUFFER,
        learning_starts=LEARNING_STARTS,
        batch_size=task.batch_size,
        gamma=GAMMA,
        train_freq=task.train_every,
        gradient_steps=task.gradient_steps,
        target_update_interval=task.target_every,
        exploration_fraction=task.exploration_fraction,
        exploration_final_eps=task.exploration_final,
        policy_kwargs={"net_arch": list(task.hidden)},
        seed=0,
        device="cpu",
    )
    stopwatch = Stopwatch()
    model.learn(SCHEDULE_ENV_STEPS, callback=stopwatch, log_interval=None)
    begin, end = stopwatch.marks
    return Measurement(end[0] - begin[0], end[1] - begin[1], end[2] - begin[2])


SIDES = {
    "SB3": stable_baselines3,
    "rlzoo": lambda task: ours(task, compiled=False),
    "rlzoo compile=true": lambda task: ours(task, compiled=True),
}

if __name__ == "__main__":
    title = "DQN on CartPole-v1, one env, one torch thread, against Stable-Baselines3"
    sys.exit(main(__file__, title, SIDES, list(TASKS), peer="SB3"))
