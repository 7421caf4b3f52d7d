"""This checkout against another one at the same work: has a change of structure cost speed?

    git worktree add ../before 714f392
    .venv/bin/python tools/bench/versions.py ../before [--pairs 5] [--rows dqn:light ppo:wide ...]

Each side runs its own benchmark scripts with its own code, in turn, in processes of their own. The
ratios are this checkout's env steps per second by the other's, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[2]
ROWS = {  # name -> script, side, task
    "dqn:preset": ("dqn.py", "rlzoo", "preset"),
    "dqn:light": ("dqn.py", "rlzoo", "light"),
    "dqn:dense": ("dqn.py", "rlzoo", "dense"),
    "dqn:preset compiled": ("dqn.py", "rlzoo compile=true", "preset"),
    "dqn:light compiled": ("dqn.py", "rlzoo compile=true", "light"),
    "dqn:dense compiled": ("dqn.py", "rlzoo compile=true", "dense"),
    "ppo:wide": ("ppo.py", "rlzoo", "wide"),
    "ppo:wide compiled": ("ppo.py", "rlzoo compile=true", "wide"),
    "ppo:hopper": ("ppo.py", "rlzoo", "hopper"),
    "tabular:cliffwalking": ("tabular.py", "rlzoo q_learning", "cliffwalking"),
    "tabular:frozenlake": ("tabular.py", "rlzoo q_learning", "frozenlake"),
    "tabular:taxi": ("tabular.py", "rlzoo q_learning", "taxi"),
}


def speed(checkout: Path, script: str, side: str, task: str) -> float:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", str(checkout / "tools" / "bench" / script), "--child", side, task],
        cwd=checkout,
        env={**os.environ, **threads, "PYTHONPATH": f"{checkout}:{checkout / 'tools' / 'bench'}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["env_steps"] / found["seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    print(f"{'':26}{'other':>10}{'this':>10}   ratio: median (min to max)")
    for row in arguments.rows:
        pairs = []
        for pair in range(arguments.pairs):
            sides = [other, HERE] if pair % 2 else [HERE, other]
            found = {side: speed(side, *ROWS[row]) for side in sides}
            pairs.append((found[other], found[HERE]))
        ratios = [this / that for that, this in pairs]
        that, this = (median(speeds) for speeds in zip(*pairs, strict=True))
        spread = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"{row:26}{that:10,.0f}{this:10,.0f}   {spread}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
