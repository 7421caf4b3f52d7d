"""World Models on all cores: frames acted on, dreamed steps and frames learnt from, per second.

    tools/setup.sh envpool && .venv/bin/python tools/bench/world_models.py [--pairs 5] [--json FILE]

Three kinds of work, each in two ways:

    act      CarRacing: see (V), remember (M), choose (C), step. rlzoo: 64 members side by side in
             EnvPool. Plain: gymnasium's env and batches of one, a process for each core.
    dream_*  M with 256 or 512 units as an env. rlzoo: 1024 dreams side by side, in a process for
             each core. Plain: the same, one dream at a time.
    vision   Minibatches of 100 frames for V. rlzoo: as configured (bfloat16 where the processor
             has it). Plain: float32.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from paired import Measurement, main

CORES = len(os.sched_getaffinity(0))
MEMBERS = 64
SIZES = {"dream_256": (32, 256, 3), "dream_512": (64, 512, 1)}  # latents, units, actions
BATCH = 100  # frames of a minibatch


def timed(step: Callable[[], int], warm_up: int, work: int) -> tuple[int, float]:
    """What `step` counts in `work` calls, and seconds."""
    for _ in range(warm_up):
        step()
    start = time.perf_counter()
    count = sum(step() for _ in range(work))
    return count, time.perf_counter() - start


def on_every_core(measure: Callable[[], tuple[int, float]]) -> Measurement:
    """The sum over a process for each core that does the same at the same time."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        outcomes = pool.starmap(measure, [()] * CORES)
    speed = sum(count / seconds for count, seconds in outcomes)
    count = sum(count for count, _ in outcomes)
    return Measurement(count, 0, count / speed)


# act ---------------------------------------------------------------------------------------------


def act_side_by_side() -> Measurement:
    import torch

    from rlzoo.algos.world_models.population import SeenEpisodes
    from rlzoo.envs.make import EnvConfig, make_episode_batch

    torch.set_num_threads(CORES)
    envs = make_episode_batch(
        EnvConfig(
            id="rlzoo.envs.zoo.car_racing:CarRacingFast-v3",
            backend="envpool",
            envpool_id="CarRacing-v3",
            restore="replay",
        )
    )
    senses, controller, to_frames = parts()
    seen = SeenEpisodes(envs, senses, preprocess=to_frames)
    params_PN = np.random.default_rng(0).standard_normal((MEMBERS, controller.num_params)) * 0.1
    layers = controller.layers(torch.from_numpy(params_PN.astype(np.float32)))
    with torch.inference_mode():
        features = [seen.reset([7] * MEMBERS)]

        def step() -> int:
            inputs_BF = torch.from_numpy(features[0][:, : 32 + 256])
            alive = int(seen.alive_B.sum())
            features[0] = seen.step(controller(layers, inputs_BF).numpy()).next_obs_B
            return alive

        count, seconds = timed(step, warm_up=20, work=80)
    return Measurement(count, 0, seconds)


def act_alone() -> tuple[int, float]:
    import gymnasium
    import torch

    torch.set_num_threads(1)
    senses, controller, to_frames = parts()
    params_1N = np.random.default_rng(0).standard_normal((1, controller.num_params)) * 0.1
    layers = controller.layers(torch.from_numpy(params_1N.astype(np.float32)))
    env = gymnasium.make("CarRacing-v3")
    with torch.inference_mode():
        now = [env.reset(seed=7)[0], torch.zeros(1, 2 * 256)]

        def step() -> int:
            latent_1Z = senses.look(to_frames(now[0][None]), np.zeros((1, 32), np.float32))
            feature_1F = torch.cat([latent_1Z, now[1]], dim=1)
            action_1A = controller(layers, feature_1F[:, : 32 + 256])
            now[1] = senses.remember(feature_1F, action_1A)
            now[0], _, terminated, truncated, _ = env.step(action_1A[0].numpy())
            if terminated or truncated:
                now[:] = env.reset(seed=7)[0], torch.zeros(1, 2 * 256)
            return 1

        return timed(step, warm_up=60, work=300)  # the first second of a track is zoomed out


def parts():
    """V, M and C of the paper's sizes, untrained."""
    from gymnasium import spaces

    from rlzoo.algos.world_models.memory import MemoryConfig, make_rnn
    from rlzoo.algos.world_models.models import Controller
    from rlzoo.algos.world_models.policy import Senses, to_frames
    from rlzoo.algos.world_models.vision import VisionConfig, make_vae

    space = spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1]))
    senses = Senses(
        make_vae(VisionConfig(), 0), make_rnn(MemoryConfig(), 32, 3, 0), latent="sample"
    )
    return senses, Controller(32 + 256, space, clipped=(2,)), to_frames


# dream -------------------------------------------------------------------------------------------


def dream(task: str, num_envs: int) -> tuple[int, float]:
    import torch
    from gymnasium import spaces

    from rlzoo.algos.world_models.dream import Beginnings, Dream
    from rlzoo.algos.world_models.memory import MemoryConfig, make_rnn

    torch.set_num_threads(1)
    latent_size, hidden_size, action_size = SIZES[task]
    rnn = make_rnn(MemoryConfig(hidden_size=hidden_size), latent_size, action_size, 0)
    space = spaces.Box(-1, 1, (action_size,), np.float32)
    zeros_NZ = np.zeros((1, latent_size), np.float32)
    env = Dream(rnn, Beginnings(zeros_NZ, zeros_NZ), space, temperature=1.15, max_steps=10**9)
    env.reset(list(range(num_envs)))
    action_BA = np.zeros((num_envs, action_size), np.float32)

    def step() -> int:
        env.step(action_BA)
        return num_envs

    return timed(step, warm_up=10, work=50 if num_envs > 1 else 500)


# vision ------------------------------------------------------------------------------------------


def vision(precision: str) -> Measurement:
    import torch

    from rlzoo.algos.world_models.models import as_images, vae_loss
    from rlzoo.algos.world_models.vision import VisionConfig, make_vae
    from rlzoo.nets.adam import Adam
    from rlzoo.nets.update import GradientStep, Named

    torch.set_num_threads(CORES)
    vae = make_vae(VisionConfig(precision=precision), 0)

    def loss(frame_BHWC: torch.Tensor, noise_BZ: torch.Tensor) -> tuple[torch.Tensor, Named]:
        reconstruction_BHWC, mu_BZ, logvar_BZ = vae(frame_BHWC, noise_BZ)
        return vae_loss(reconstruction_BHWC, as_images(frame_BHWC), mu_BZ, logvar_BZ, free_nats=0.5)

    optimizer = Adam(vae.parameters(), lr=1e-4)
    update = GradientStep(optimizer, loss, max_grad_norm=None, compile=False)
    rng = np.random.default_rng(0)
    frame_BHWC = torch.from_numpy(rng.integers(0, 256, (BATCH, 64, 64, 3), dtype=np.uint8))
    noise_BZ = torch.from_numpy(rng.standard_normal((BATCH, 32), np.float32))

    def step() -> int:
        update(frame_BHWC, noise_BZ)
        return BATCH

    count, seconds = timed(step, warm_up=3, work=15)
    return Measurement(count, count // BATCH, seconds)


def plain(task: str) -> Measurement:
    if task == "act":
        return on_every_core(act_alone)
    if task == "vision":
        return vision("float32")
    return on_every_core(partial(dream, task, 1))


def rlzoo(task: str) -> Measurement:
    if task == "act":
        return act_side_by_side()
    if task == "vision":
        return vision("auto")
    return on_every_core(partial(dream, task, 1024))


if __name__ == "__main__":
    title = (
        f"World Models on {CORES} cores: frames or steps per second, and ratio to doing it plainly"
    )
    sides = {"plain": plain, "rlzoo": rlzoo}
    sys.exit(main(__file__, title, sides, ["act", *SIZES, "vision"], peer="plain"))
