"""PPO: env steps per second, ours against Stable-Baselines3 doing the same work.

    tools/setup.sh bench && .venv/bin/python tools/bench/ppo.py [--pairs 5] [--json FILE]

Same network, rollouts, minibatches, passes and optimiser; one torch thread, envs in one process on
both sides. The clock starts after two rollouts and their updates, so imports and compilation are
left out on both sides. Neither side evaluates, saves or writes logs.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from paired import Measurement, drive, main

SCHEDULE_ENV_STEPS = 1_000_000  # the run's nominal length; nothing here depends on it
GAMMA, LAMBDA, LR = 0.99, 0.95, 3e-4


@dataclass(frozen=True)
class Task:
    num_envs: int
    rollout: int  # env steps of each env
    batch_size: int
    epochs: int
    work: int  # rollouts
    env: str = "cartpole"
    id: str = "CartPole-v1"  # for SB3, which makes the env as it comes

    @property
    def env_steps(self) -> int:
        return self.num_envs * self.rollout


TASKS = {
    "wide": Task(8, 256, 256, 10, 12),
    "preset": Task(8, 32, 256, 20, 80),
    "single": Task(1, 2048, 64, 10, 8),
    "hopper": Task(1, 2048, 64, 10, 6, "hopper_bullet", "HopperBulletEnv-v0"),
}
WARM_UP = 2  # rollouts


def words(name: str, *, compiled: bool) -> list[str]:
    """The settings of a task."""
    task = TASKS[name]
    return [
        "algo=ppo",
        f"env={task.env}",
        "experiment=none",
        f"env.num_envs={task.num_envs}",
        f"total_env_steps={SCHEDULE_ENV_STEPS}",
        f"compile={str(compiled).lower()}",
        "threads=1",
        "network.hidden=[64,64]",
        "network.activation=tanh",
        f"algo.rollout_env_steps={task.env_steps}",
        f"algo.batch_size={task.batch_size}",
        f"algo.epochs={task.epochs}",
        f"algo.gamma={GAMMA}",
        f"algo.gae_lambda={LAMBDA}",
        f"algo.lr={LR}",
    ]


def ours(name: str, *, compiled: bool) -> Measurement:
    from rlzoo.run.build import build
    from rlzoo.run.config import compose

    task, algorithm = TASKS[name], build(compose(words(name, compiled=compiled)))
    return drive(algorithm, WARM_UP * task.env_steps, task.work * task.env_steps)


def stable_baselines3(name: str) -> Measurement:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Stopwatch(BaseCallback):
        """Looks at the clock at the start of a rollout, when the updates before it are done."""

        def __init__(self) -> None:
            super().__init__()
            self.marks: list[tuple[int, int, float]] = []

        def _on_rollout_start(self) -> None:
            due = (WARM_UP * task.env_steps, (WARM_UP + task.work) * task.env_steps)
            if len(self.marks) < 2 and self.num_timesteps >= due[len(self.marks)]:
                self.marks.append((self.num_timesteps, model._n_updates, time.perf_counter()))

        def _on_step(self) -> bool:
            return len(self.marks) < 2

    if name == "hopper":
        import pybullet_envs_gymnasium  # noqa: F401  registers its envs

    torch.set_num_threads(1)
    task = TASKS[name]
    model = PPO(
        "MlpPolicy",
        make_vec_env(task.id, n_envs=task.num_envs, seed=0),
        learning_rate=LR,
        n_steps=task.rollout,
        batch_size=task.batch_size,
        n_epochs=task.epochs,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        seed=0,
        device="cpu",
    )
    stopwatch = Stopwatch()
    model.learn(SCHEDULE_ENV_STEPS, callback=stopwatch, log_interval=None)
    begin, end = stopwatch.marks
    passes = end[1] - begin[1]  # what SB3 counts as updates
    minibatches = -(-task.env_steps // task.batch_size)
    return Measurement(end[0] - begin[0], passes * minibatches, end[2] - begin[2])


SIDES = {
    "SB3": stable_baselines3,
    "rlzoo": lambda task: ours(task, compiled=False),
    "rlzoo compile=true": lambda task: ours(task, compiled=True),
}

if __name__ == "__main__":
    title = "PPO on CartPole-v1 and HopperBulletEnv-v0, one torch thread, against Stable-Baselines3"
    sys.exit(main(__file__, title, SIDES, list(TASKS), peer="SB3"))
