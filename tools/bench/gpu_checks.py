"""What `tools/bench/gpu.py` checks: tiny runs of every algorithm that has networks, on a device.

Each trains, is the same run twice, equals itself when it is stopped and resumed, and leaves a
checkpoint that acts on the CPU. Some are in envs of the tests, which need the extra `dev`. Shape
suffixes: B batch, N frames, K of a stack, H height, W width.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from grouped import Place, Work
from gymnasium import spaces

from rlzoo.io.encoding import encode
from rlzoo.run.build import build, close
from rlzoo.run.config import compose
from rlzoo.run.saved import SavedRun
from rlzoo.study.contract import (
    NEVER,
    StopAt,
    begin,
    fingerprint,
    greedy,
    outcome,
    stopped_and_resumed,
)

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))  # its small experts and envs

CHECKS = "Checks: tiny runs"
PIXELS = "env=gym env.id=RandomFrames-v0 env.restore=replay network=nature_cnn"
PENDULUM = "env=gym env.id=Pendulum-v1 env.restore=replay"
WORLD_MODELS = (
    "algo=world_models env=gym env.id=lamp:Lamp-v0 env.restore=replay env.num_envs=2 "
    "algo.memory.done_head=true algo.vision.precision="
)
RUNS = {
    "dqn": "algo=dqn env=cartpole",
    "dqn: double, dueling, 3 steps, 2 envs": "algo=dqn env=cartpole algo.double=true "
    "algo.dueling=true algo.n_step=3 env.num_envs=2",
    "dqn: prioritized replay": "algo=dqn env=cartpole replay=prioritized",
    "dqn: one-hot states": "algo=dqn env=frozenlake",
    "dqn: pixels": f"algo=dqn {PIXELS} replay.frame_stack=4",
    "ppo": "algo=ppo env=cartpole algo.normalize_obs=true algo.normalize_reward=true",
    "ppo: continuous": f"algo=ppo {PENDULUM}",
    "ppo: one-hot states": "algo=ppo env=frozenlake",
    "ppo: gSDE": f"algo=ppo {PENDULUM} algo.gsde=true",
    "ppo: pixels": f"algo=ppo {PIXELS}",
    "trpo": "algo=trpo env=cartpole",
    "trpo: continuous": f"algo=trpo {PENDULUM} algo.normalize_obs=true",
    "bc": "algo=bc env=cartpole",
    "gail: with ppo": "algo=gail env=cartpole",
    "gail: with trpo, warm start": f"algo=gail {PENDULUM} algo.generator=trpo "
    "algo.warm_start_updates=80",
    "airl": "algo=airl env=cartpole",
    "world_models: float32": f"{WORLD_MODELS}float32",
    "world_models: bfloat16": f"{WORLD_MODELS}bfloat16",
    "dqn: compile=true": "algo=dqn env=cartpole compile=true",
    "ppo: compile=true": "algo=ppo env=cartpole compile=true",
}
QUICK_RUNS = ("dqn: pixels", "ppo", "gail: with trpo, warm start", "world_models: float32")


class RandomFrames(gymnasium.Env[np.ndarray, int]):
    """Stacks of 4 random frames that cost nothing: views of one array, oldest frame first."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)
    STEPS = 250  # of an episode

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        film_NHW = rng.integers(0, 256, (self.STEPS + 4, 84, 84), np.uint8)
        film_NHW[:3] = film_NHW[3]  # a stack begins with the first frame four times
        self.film_NHW = film_NHW

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.film_NHW[:4], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        obs_KHW = self.film_NHW[self.t : self.t + 4]
        return obs_KHW, float(action == self.t % 6), self.t == self.STEPS, False, {}


gymnasium.register("RandomFrames-v0", entry_point=RandomFrames)


class Trial:
    """Tiny runs of one algorithm: straight, the same again, and stopped twice and resumed."""

    def __init__(self, words: str, device: str, folder: Path) -> None:
        from experts import with_demonstrations

        tiny = "experiment=none debug=tiny total_env_steps=400 seed=3 logger=jsonl"
        settings = [*words.split(), *tiny.split(), "logger.videos=false", f"device={device}"]
        self.config, self.folder = with_demonstrations(compose(settings)), folder

    @functools.cached_property
    def straight(self) -> SavedRun:
        self.polled = StopAt(NEVER)
        run, status = begin(self.config, self.folder / "straight", self.polled)
        assert status == "finished", status
        self.outcome = outcome(run)
        return SavedRun(run.directory.path, checkpoint="last")

    def trains(self) -> str:
        trained, fresh = self.straight.newest()[1], build(self.config)
        before = fingerprint(encode(fresh.policy_state())[1])
        fresh.load_policy(trained["algorithm"])
        assert fingerprint(encode(fresh.policy_state())[1]) != before, "its policy is as it was"
        close(fresh)
        return "yes"

    def repeats(self) -> str:
        return self.compared(outcome(begin(self.config, self.folder / "again")[0]))

    def resumes(self) -> str:
        resumed = stopped_and_resumed(self.config, self.folder / "stopped", self.polled.asked)
        return self.compared(resumed)

    def compared(self, got: tuple[Any, ...]) -> str:
        names = ("state", "state of the loop", "log", "test result")
        for name, ours, expected in zip(names, got, self.outcome, strict=True):
            assert ours == expected, f"another {name}"
        return "yes, bit for bit"

    def acts_on_cpu(self) -> str:
        """A checkpoint's greedy actions there against the same policy's where it trained."""
        there, here = self.straight.algorithm(), build(self.config)
        here.load_policy(self.straight.newest()[1]["algorithm"])
        env, seen = there.env, []
        env.action_space.seed(0)
        for _ in range(64):
            seen.append(env.obs_B[0].copy())
            env.step(np.stack([env.action_space.sample()]))
        action_B, other_B = (greedy(algorithm, np.stack(seen)) for algorithm in (there, here))
        for algorithm in (there, here):
            close(algorithm)
        if action_B.dtype.kind == "i":
            return f"yes, {int((action_B == other_B).sum())} of {len(seen)} actions the same"
        return f"yes, actions differ by {np.abs(action_B - other_B).max():.1e} at most"


def checks(place: Place) -> Iterator[Work]:
    from lamp import small_vision

    for name in QUICK_RUNS if place.quick else RUNS:
        # On a GPU, V is as large as it is: its convolutions are what may not repeat.
        size = contextlib.nullcontext() if place.is_cuda else small_vision()
        with tempfile.TemporaryDirectory() as folder, size:
            trial = Trial(RUNS[name], place.device, Path(folder))
            yield Work(CHECKS, name, trial.trains, ": trains")
            if "straight" not in vars(trial):
                continue  # there is nothing to compare with
            yield Work(CHECKS, name, trial.repeats, ": twice the same")
            yield Work(CHECKS, name, trial.resumes, ": resumed = straight")
            yield Work(CHECKS, name, trial.acts_on_cpu, ": acts on the CPU")
