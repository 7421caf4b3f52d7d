"""What `device=cuda` does and how fast it is: checks and speeds on a machine with an NVIDIA GPU.

    .venv/bin/python tools/bench/gpu.py --page FILE --json FILE [--only GROUP ...] [--budget 470]
    .venv/bin/python tools/bench/gpu.py --device cpu --quick    # tries the script where no GPU is

First whether each algorithm trains on the GPU, repeats itself, resumes exactly and leaves
checkpoints that act on the CPU (`gpu_checks.py`; needs the extra `dev`). Then speeds, CPU against
GPU, also of the same updates in a CUDA graph, to know what could be reached. It needs 10 cores and
takes at most 8 minutes; with --only, what the JSON file has of other groups is kept.
Shape suffixes: B batch, K graphed updates, N beginnings, Z latents, A actions.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dqn
import numpy as np
import ppo
import torch
from gpu_checks import PIXELS, checks
from grouped import Group, Place, Work, main
from gymnasium import spaces
from torch import Tensor

from rlzoo.algos.world_models.dream import Beginnings, Dream
from rlzoo.algos.world_models.frame_store import Column, FrameStore
from rlzoo.algos.world_models.memory import MemoryConfig, MemoryPhase, make_rnn
from rlzoo.algos.world_models.models import LSTMState, has_bf16, sample_mixture, split_mixture
from rlzoo.algos.world_models.vision import EncodeConfig, EncodePhase, VisionConfig, VisionPhase
from rlzoo.nets.update import GradientStep
from rlzoo.run.build import build, close
from rlzoo.run.config import compose

K = 8  # updates in a CUDA graph
GRAPH = f"CUDA graph of {K}"
FAST = "bfloat16, channels_last"
DREAMS = 1024


# training as the project does it -----------------------------------------------------------------

# (label, settings without `compile`, env steps of the warm-up)
SMALL_RUNS = [
    (
        f"DQN {name}: {'-'.join(map(str, task.hidden))}, batch {task.batch_size}, "
        f"{task.gradient_steps} updates in {task.train_every} env steps",
        dqn.words(name, compiled=False),
        task.warm_up,
    )
    for name, task in dqn.TASKS.items()
] + [
    (
        "PPO wide: 64-64, minibatches of 256, 80 updates in 2048 env steps",
        ppo.words("wide", compiled=False),
        4096,
    )
]
DQN_PIXELS = (
    f"algo=dqn {PIXELS} experiment=none total_env_steps=100000 replay.frame_stack=4 "
    "replay.capacity=20000 algo.learning_starts_env_steps=500"
)
PIXEL_RUNS = [
    ("DQN: 1 env, 32 frames an update, 1 update in 4 env steps", DQN_PIXELS.split(), 700),
    (
        "DQN: 8 envs, 32 frames an update, 2 updates in 8 env steps",
        f"{DQN_PIXELS} env.num_envs=8 algo.train_every_env_steps=8 algo.gradient_steps=2".split(),
        700,
    ),
    (
        "PPO: 8 envs, 128 steps each, 4 passes in minibatches of 256",
        f"algo=ppo {PIXELS} experiment=none total_env_steps=100000 env.num_envs=8 "
        "algo.rollout_env_steps=1024 algo.batch_size=256 algo.epochs=4".split(),
        1024,
    ),
]


def training(place: Place, table: str, runs: list[tuple[str, list[str], int]]) -> Iterator[Work]:
    for compiled in (False, True):
        if compiled and (place.quick or (runs is PIXEL_RUNS and not place.is_cuda)):
            continue  # a processor spends its time in the convolutions, compiled or not
        for label, words, warm_up in runs:
            words = [word for word in words if not word.startswith(("compile=", "threads="))]
            words += [f"compile={str(compiled).lower()}"]
            words += [f"threads={place.threads}", f"device={place.device}"]
            measure = functools.partial(env_steps_per_second, place, words, warm_up)
            yield Work(table, label, measure, ", compiled" if compiled else "")


def env_steps_per_second(place: Place, words: list[str], warm_up: int) -> tuple[float, str]:
    """Of the steps that a run's loop makes; and where the time goes."""
    algorithm = build(compose(words))
    counters, seconds = algorithm.counters, 0.1 if place.quick else 3.0
    while counters.env_steps < warm_up:
        algorithm.step()
    algorithm.gauges()  # from here on its seconds are counted
    place.wait()
    env_steps, updates, start = counters.env_steps, counters.updates, time.perf_counter()
    while time.perf_counter() - start < seconds:
        algorithm.step()
    place.wait()
    seconds = time.perf_counter() - start
    shares = {k: v for k, v in algorithm.gauges().items() if k.startswith("time/")}
    close(algorithm)
    parts = [f"{name[5:-8]} {100 * share / seconds:.0f} %" for name, share in shares.items()]
    note = f"{(counters.updates - updates) / seconds:.0f} updates/s; {', '.join(parts)}"
    return (counters.env_steps - env_steps) / seconds, note


# updates -----------------------------------------------------------------------------------------


class Updates:
    """DQN's own update, on minibatches that lie on the device.

    `fast`: its networks compute in bfloat16, and its frames lie in the format channels_last.
    """

    def __init__(
        self, place: Place, words: list[str], batch: int, *, compiled: bool, fast: bool
    ) -> None:
        self.algorithm: Any = build(compose([*words, f"device={place.device}"]))
        torch.set_num_threads(place.threads)
        close(self.algorithm)
        self.optimizer, self.fast, self.device = self.algorithm.optimizer, fast, place.device
        self.update = GradientStep(
            self.optimizer,
            self.loss if fast else self.algorithm.loss,
            max_grad_norm=self.algorithm.config.max_grad_norm,
            compile=compiled,
        )
        rng, space = np.random.default_rng(0), self.algorithm.env.observation_space

        def obs() -> Tensor:
            shape = (K, batch, *space.shape)
            if space.dtype == np.uint8:
                return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))
            return torch.from_numpy(rng.standard_normal(shape, np.float32))

        action_KB = torch.from_numpy(rng.integers(2, size=(K, batch)))
        return_KB = torch.from_numpy(rng.standard_normal((K, batch), np.float32))
        ones_KB = torch.ones(K, batch)
        block = [obs(), action_KB, return_KB, 0.99 * ones_KB, obs(), ones_KB]
        self.minibatches = [
            [self._laid_out(tensor[k].to(place.device)) for tensor in block] for k in range(K)
        ]
        self.total, self.turn = torch.zeros((), device=place.device), 0

    def _laid_out(self, tensor: Tensor) -> Tensor:
        is_picture = self.fast and tensor.ndim == 4
        return tensor.contiguous(memory_format=torch.channels_last) if is_picture else tensor

    def loss(self, *minibatch: Tensor) -> Any:
        with torch.autocast(self.device, torch.bfloat16):
            return self.algorithm.loss(*minibatch)

    def next(self) -> None:
        self.turn = (self.turn + 1) % K
        self.update(*self.minibatches[self.turn])

    def several(self) -> None:
        """K updates in which nothing is read back; what is to be checked is summed."""
        for minibatch in self.minibatches:
            self.total += unread(self.update, minibatch)


def unread(update: GradientStep, minibatch: Any) -> Tensor:
    """An update that does not read its loss back from the GPU; its value to be checked."""
    total, _, gradient = update._gradients(*minibatch)
    update._optimizer.step(gradient)
    return total


def captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """`work` as a CUDA graph, after three calls that warm it up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def eager_updates(place: Place, words: list[str], batch: int, **options: bool) -> float:
    return place.rate(Updates(place, words, batch, **options).next, warm_up=20)


def graphed_updates(place: Place, words: list[str], batch: int, **options: bool) -> float:
    updates = Updates(place, words, batch, **options)
    return K * place.rate(captured(updates.several).replay)


def updates(
    place: Place, table: str, words: list[str], batch: int, layouts: tuple[bool, ...]
) -> Iterator[Work]:
    """As they are, in a CUDA graph and compiled; `layouts`: `fast` or not."""
    kinds = [("as rlzoo makes it", eager_updates)]
    if place.is_cuda:
        kinds.append((GRAPH, graphed_updates))
    for compiled in (False, True):
        if compiled and (place.quick or (len(layouts) > 1 and not place.is_cuda)):
            continue  # a processor spends its time in the convolutions, compiled or not
        for label, measure in kinds:
            for fast in layouts:
                options = {"compiled": compiled, "fast": fast}
                call = functools.partial(measure, place, words, batch, **options)
                column = ", compiled" if compiled else ""
                yield Work(table, f"{label}, {FAST}" if fast else label, call, column)
                torch.compiler.reset()


def small_updates(place: Place) -> Iterator[Work]:
    for name in ("light", "preset"):
        task, words = dqn.TASKS[name], dqn.words(name, compiled=False)
        hidden = "-".join(map(str, task.hidden))
        table = f"DQN's update, {hidden}, batch {task.batch_size}, updates/s"
        yield from updates(place, table, words, task.batch_size, (False,))


def pixel_updates(place: Place) -> Iterator[Work]:
    words = f"algo=dqn {PIXELS} experiment=none replay.capacity=1000".split()
    for batch in (32,) if place.quick else (32, 256):
        table = f"DQN's update from pixels, batch {batch}, updates/s"
        yield from updates(place, table, words, batch, (False, True))


# World Models ------------------------------------------------------------------------------------


def store(folder: str, columns: dict[str, Column], episodes: int, steps: int) -> FrameStore:
    """Episodes of random numbers."""
    made = FrameStore.create(Path(folder) / "store", columns, {"env": "none"})
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        episode = {
            name: rng.integers(0, 256, (steps, *column.shape), np.uint8)
            if column.dtype == "uint8"
            else rng.standard_normal((steps, *column.shape), np.float32).astype(column.dtype)
            for name, column in columns.items()
        }
        made.append_episode(episode, terminated=False)
    return made


ACTIONS = {"action": Column("float32", (3,)), "reward": Column("float32", ())}
FRAMES = {"frame": Column("uint8", (64, 64, 3)), **ACTIONS}
LATENTS = {"mu": Column("float16", (32,)), "logvar": Column("float16", (32,)), **ACTIONS}


def world_models(place: Place) -> Iterator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        frames = store(folder, FRAMES, 4, 100 if place.quick else 1000)
        for precision in ("float32", "bfloat16") if has_bf16(place.device) else ("float32",):
            yield from vision(place, frames, precision)
    with tempfile.TemporaryDirectory() as folder:
        latents = store(folder, LATENTS, 100, 21 if place.quick else 1001)
        yield from memory(place, latents)
    yield from dreams(place)


def vision(place: Place, frames: FrameStore, precision: Any) -> Iterator[Work]:
    table, batch = "World Models, V, frames/s", 100
    config = VisionConfig(batch_size=batch, precision=precision, block_updates=1, epochs=10**6)

    def learns(*, compiled: bool = False, graphed: bool = False) -> float:
        device = place.device
        phase = VisionPhase(config, seed=0, frames=frames, device=device, compile=compiled)
        if not graphed:
            return batch * place.rate(phase.step)
        minibatch = phase._minibatch()
        return batch * place.rate(captured(lambda: unread(phase.update, minibatch)).replay)

    def encodes() -> float:
        """From the frames on the disk to the latents on the disk."""
        vae = VisionPhase(config, seed=0, frames=frames, device=place.device).vae
        with tempfile.TemporaryDirectory() as folder:
            phase = EncodePhase(EncodeConfig(), frames=frames, vae=vae, directory=folder)
            phase.step()
            assert phase.latents is not None
            start, before = time.perf_counter(), phase.latents.num_steps
            while not phase.done():
                phase.step()
            return (phase.latents.num_steps - before) / (time.perf_counter() - start)

    yield Work(table, f"learns, {precision}", learns)
    yield Work(table, f"encodes, {precision}", encodes)
    if place.is_cuda:
        graphed = functools.partial(learns, graphed=True)
        yield Work(table, f"learns, {precision}, CUDA graph, minibatch ready", graphed)
        compiled = functools.partial(learns, compiled=True)
        yield Work(table, f"learns, {precision}", compiled, ", compiled")


def memory(place: Place, latents: FrameStore) -> Iterator[Work]:
    steps = int(latents.length_E[0]) - 1
    for batch in (16, 100):
        config = MemoryConfig(batch_size=batch, block_updates=1, epochs=10**6)

        def learns(*, there: bool, config: MemoryConfig = config) -> float:
            phase = MemoryPhase(config, seed=0, latents=latents, device=place.device)
            step = functools.partial(phase.update, *phase._minibatch()) if there else phase.step
            return config.batch_size * steps * place.rate(step)

        table = f"World Models, M with 256 units, sequences of {steps} steps, steps/s"
        for there in (False, True) if place.is_cuda else (False,):
            label = f"learns, minibatches of {batch}{', minibatch ready' if there else ''}"
            yield Work(table, label, functools.partial(learns, there=there))


def dreams(place: Place) -> Iterator[Work]:
    table = f"World Models, {DREAMS} dreams side by side, dreamed steps/s"
    for units in (256, 512):
        rnn = make_rnn(MemoryConfig(hidden_size=units), 32, 3, 0, place.device)
        label = f"{units} units"
        if not place.is_cuda:
            yield Work(table, label, functools.partial(dreams_of_rlzoo, place, rnn))
            continue
        for graphed in (False, True):
            measure = functools.partial(dreams_on_gpu, place, rnn, graphed=graphed)
            yield Work(table, f"{label}, {GRAPH}" if graphed else label, measure)


def dreams_of_rlzoo(place: Place, rnn: Any) -> float:
    """As the project dreams: on the CPU."""
    space, zeros_NZ = spaces.Box(-1, 1, (3,), np.float32), np.zeros((1, 32), np.float32)
    env = Dream(rnn, Beginnings(zeros_NZ, zeros_NZ), space, temperature=1.15, max_steps=10**9)
    env.reset(list(range(DREAMS)))
    action_BA = np.zeros((DREAMS, 3), np.float32)
    return DREAMS * place.rate(lambda: env.step(action_BA))


def dreams_on_gpu(place: Place, rnn: Any, *, graphed: bool) -> tuple[float, str]:
    """The same arithmetic in plain PyTorch: `Dream` itself computes on the CPU alone."""
    latent_BZ = torch.zeros(DREAMS, 32, device=place.device)
    action_BA = torch.zeros(DREAMS, 3, device=place.device)
    state = LSTMState(*torch.zeros(2, DREAMS, rnn.hidden_size, device=place.device))

    @torch.inference_mode()
    def several() -> None:
        for _ in range(K):
            found = rnn.remember(latent_BZ, action_BA, state)
            mixture = split_mixture(rnn.predict(found.h).mixture, rnn.num_components)
            random = torch.rand_like(latent_BZ), torch.randn_like(latent_BZ)
            latent_BZ.copy_(sample_mixture(mixture, *random, temperature=1.15))
            for part, new in zip(state, found, strict=True):
                part.copy_(new)

    step = captured(several).replay if graphed else several
    return DREAMS * K * place.rate(step), "plain PyTorch"


# groups -------------------------------------------------------------------------------------------

SMALL = "Training with small networks (tools/bench), env steps/s"
FROM_PIXELS = "Training from pixels (nature_cnn, 84x84x4), env steps/s"
GROUPS = {
    "checks": Group(checks, {"cuda": 200}),
    "small updates": Group(small_updates, {"cuda": 60, "cpu": 80}),
    "pixel updates": Group(pixel_updates, {"cuda": 90, "cpu": 40, "cpu8": 30}),
    "world models": Group(world_models, {"cuda": 60, "cpu": 60, "cpu8": 40}),
    "pixels": Group(
        functools.partial(training, table=FROM_PIXELS, runs=PIXEL_RUNS),
        {"cuda": 90, "cpu": 50, "cpu8": 40},
    ),
    "small": Group(
        functools.partial(training, table=SMALL, runs=SMALL_RUNS), {"cuda": 90, "cpu": 120}
    ),
}


if __name__ == "__main__":
    sys.exit(main(__file__, "device=cuda: checks and speeds", GROUPS))
