"""CarRacing: env steps per second of gymnasium's env, of ours with the same pixels, of EnvPool's.

    tools/setup.sh envpool && .venv/bin/python tools/bench/car_racing.py [--pairs 5] [--json FILE]

The same driving everywhere (a forced start, then one control at a time), through the vector envs
that training uses. `core`: one process and one thread. `machine`: a process, or in EnvPool a
thread, for each core. The clock starts after a warm-up that passes the start's zoom, where a frame
takes longer; nobody looks at the frames.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

from paired import Measurement, main


@dataclass(frozen=True)
class Task:
    num_envs: int
    workers: int
    warm_up: int  # steps of each env
    work: int


CORES = os.cpu_count() or 1
TASKS = {"core": Task(2, 1, 60, 250), "machine": Task(2 * CORES, CORES, 60, 250)}


def drive(env: str, name: str) -> Measurement:
    import numpy as np

    from rlzoo.algos.world_models.random_policies import ForcedStart, OneControl
    from rlzoo.core.seeding import numpy_generator
    from rlzoo.envs.make import make_vector
    from rlzoo.run.config import compose

    task = TASKS[name]
    words = [f"env={env}", f"env.num_envs={task.num_envs}", f"env.workers={task.workers}"]
    if "envpool" not in env and task.workers > 1:
        words.append("env.backend=process")
    config = compose(["algo=ppo", "experiment=none", *words]).env
    vector = make_vector(config, run_seed=0)
    policy = ForcedStart(OneControl(vector.action_space, numpy_generator(0, "bench")))
    policy.reset(task.num_envs)
    checksum = 0
    for t in range(task.warm_up + task.work):
        if t == task.warm_up:
            start = time.perf_counter()
        step = vector.step(policy.act(vector.obs_B))
        checksum += int(np.count_nonzero(step.reward_B > 0))
    seconds = time.perf_counter() - start
    vector.close()
    assert checksum > task.num_envs, "the cars did not move"
    return Measurement(task.work * task.num_envs, 0, seconds)


SIDES = {
    "gymnasium": lambda task: drive("car_racing", task),
    "rlzoo, same pixels": lambda task: drive("car_racing_fast", task),
    "EnvPool": lambda task: drive("car_racing_envpool", task),
}

if __name__ == "__main__":
    title = "CarRacing-v3: env steps per second"
    sys.exit(main(__file__, title, SIDES, list(TASKS), peer="gymnasium"))
