"""Peak memory of World Models by the number of collected episodes, in MiB.

    tools/setup.sh envpool && .venv/bin/python tools/bench/memory.py [EPISODES ...]

Each run (default: 200 and 2000 episodes of 50 steps in EnvPool's CarRacing) goes through collect,
vision, encode and memory in a process of its own. Mapped pages of the frames count, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

SETTINGS = (
    "experiment=world_models_car_racing",
    "algo.phases=[collect,vision,encode,memory]",
    "algo.collect.max_episode_steps=50",
    "algo.collect.forced_start_steps=20",
    "algo.vision.epochs=1",
    "algo.memory.epochs=1",
)


def peak(episodes: int) -> float:
    with tempfile.TemporaryDirectory(prefix="rlzoo-") as directory:
        settings = (*SETTINGS, f"algo.collect.episodes={episodes}", f"run_dir={directory}/run")
        process = subprocess.Popen([sys.executable, "-m", "rlzoo", *settings])
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"memory.py: the run with {episodes} episodes failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    for episodes in [int(word) for word in sys.argv[1:]] or [200, 2000]:
        print(f"{episodes} episodes: {peak(episodes):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
