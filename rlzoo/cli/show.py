"""Looking at a run: evaluate it, play it, compare several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.core import registry
from rlzoo.core.messages import note
from rlzoo.core.seeding import TEST, episode_seed
from rlzoo.core.types import Algorithm, UsageError
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import make_env, restore_class
from rlzoo.io.video import enlarged, write_video
from rlzoo.run.build import find_checkpoint, load_policy, open_run
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import Greedy, evaluate, frames_per_second, has_display, record_episode
from rlzoo.run.progress import EpisodesPlayed


def _file_name(of_the_run: str, env_words: Sequence[str]) -> str:
    """What is of a changed env has a name that says so, beside what is of the run's own."""
    return ",".join([of_the_run, *env_words]).replace("/", "_")


def _whole_number(name: str, text: str, low: int) -> int:
    if not text.isdigit() or int(text) < low:
        raise UsageError(f"{name}: got '{text}', expected a whole number >= {low}")
    return int(text)


def _above_zero(name: str, text: str) -> float:
    with suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise UsageError(f"{name}: got '{text}', expected a number > 0")


def flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f"{name}: got '{text}', expected true or false")
    return text == "true"


def evaluate_run(
    path: str, env_words: Sequence[str] = (), *, episodes: str, checkpoint: str
) -> int:
    """Greedy episodes on the test seeds: a table, and a file in the run directory.

    That is evaluation_CHECKPOINT.json, or where the env is changed, a name that says how.
    """
    count = _whole_number("episodes", episodes, 1)
    directory, config = open_run(path, env_words)
    algorithm = load_policy(config, find_checkpoint(directory, checkpoint)[1])
    with closing(EpisodesPlayed(count)) as played:
        result = evaluate(
            algorithm,
            config.env,
            episodes=count,
            num_envs=config.eval.num_envs,
            run_seed=config.seed,
            purpose=TEST,
            episode_over=played.one_more,
        )
    algorithm.env.close()
    print(result.table())
    name = _file_name(f"evaluation_{checkpoint}", env_words)
    directory.write_json(f"{name}.json", result.to_json())
    return 0


def play_run(
    path: str,
    env_words: Sequence[str] = (),
    *,
    episode: str,
    checkpoint: str,
    file: str,
    beside: str,
    dream: str,
    temperature: str,
) -> int:
    """Show a greedy episode in a window; without a display, or with `file`, write a film.

    With `beside` it is what the policy itself draws of the episode, with `dream` an episode that it
    plays in its own model: both only for algorithms that have such pictures.
    """
    index = _whole_number("episode", episode, 0)
    wanted = [name for name, text in (("beside", beside), ("dream", dream)) if flag(name, text)]
    if len(wanted) > 1:
        raise UsageError("play: got beside=true and dream=true, expected one of them")
    if temperature and "dream" not in wanted:
        raise UsageError(f"temperature: got '{temperature}' without dream=true, the only use of it")
    warmth = _above_zero("temperature", temperature) if temperature else None
    directory, config = open_run(path, env_words)
    for name in wanted:
        if not hasattr(registry.get("algo", config.algo.name)[0], name):
            raise UsageError(f"{name}=true: algo={config.algo.name} has no such pictures")
    algorithm = load_policy(config, find_checkpoint(directory, checkpoint)[1])
    return_: float | None
    if not wanted and has_display() and not file:
        return_ = _play_in_window(algorithm, config, index)
    else:
        if wanted == ["dream"]:
            frames, fps, return_ = _dream(algorithm, config, index, warmth)
        else:
            frames, fps, return_ = record_episode(
                algorithm,
                config.env,
                run_seed=config.seed,
                purpose=TEST,
                episode_index=index,
                beside=bool(wanted),
            )
        if wanted:
            frames = enlarged(frames)
        name = _file_name("_".join([f"test_episode_{index}_{checkpoint}", *wanted]), env_words)
        if file or not _show_film(frames, fps):
            print(write_video(Path(file) if file else directory.videos / name, frames, fps))
    algorithm.env.close()
    where = " in the dream" if "dream" in wanted else ""
    print(f"no return{where}" if return_ is None else f"return {return_:g}{where}")
    return 0


def _dream(
    algorithm: Any, config: RunConfig, index: int, temperature: float | None
) -> tuple[np.ndarray, float, float | None]:
    """Frames, frames per second and return, if M knows it, of a dreamed episode."""
    with closing(make_env(config.env)) as env:
        fps = frames_per_second(env)
    frames, return_ = algorithm.dream(episode_seed(config.seed, TEST, 0, index), temperature)
    return frames, fps, return_


def _show_film(frames_THWC: np.ndarray, fps: float) -> bool:
    """Show frames in a window; False where there is no display, or no pygame to make one with."""
    if not has_display() or find_spec("pygame") is None:
        return False
    import pygame

    pygame.display.init()
    window, clock = pygame.display.set_mode(frames_THWC.shape[2:0:-1]), pygame.time.Clock()
    for frame_HWC in frames_THWC:
        pygame.surfarray.blit_array(window, frame_HWC.swapaxes(0, 1))
        pygame.display.flip()
        clock.tick(fps)
        if pygame.event.peek(pygame.QUIT):  # the window was closed
            break
    pygame.display.quit()
    return True


def _play_in_window(algorithm: Algorithm, config: RunConfig, index: int) -> float:
    env = EpisodeEnv(
        partial(make_env, config.env, render_mode="human"),
        run_seed=config.seed,
        purpose=TEST,
        env_index=0,
        restore=restore_class(config.env, config.seed),
        auto_reset=False,
    )
    greedy = Greedy(algorithm)
    env.begin(index)
    return_ = 0.0
    while not env.over:
        [action] = greedy([index], np.stack([env.obs]))
        return_ += env.step(action)[1]
    env.close()
    return return_


def compare_runs(paths: list[str], *, file: str) -> int:
    """A table and learning curves of runs, grouped by everything but the seed."""
    from rlzoo.study.compare import compare

    comparison = compare([Path(path) for path in paths])
    print(comparison.table())
    target = Path(file or "compare.png")
    comparison.save_picture(target)
    note(f"learning curves: {target}")
    return 0
