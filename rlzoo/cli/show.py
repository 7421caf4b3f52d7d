"""Looking at runs: evaluate one, play it, compare several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rlzoo.cli.options import (
    Option,
    above_zero,
    env_words,
    film,
    flag,
    one_of,
    parse,
    text,
    whole,
)
from rlzoo.core.algorithm import Algorithm
from rlzoo.core.messages import note
from rlzoo.core.seeding import TEST, episode_seed
from rlzoo.core.types import UsageError
from rlzoo.envs.make import make_env
from rlzoo.envs.play import Playing
from rlzoo.io.video import enlarged, write_video
from rlzoo.run.build import close
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import (
    MAX_EPISODES,
    evaluate,
    film_episode,
    frames_of,
    frames_per_second,
    has_display,
)
from rlzoo.run.progress import EpisodesPlayed, StepsPlayed
from rlzoo.run.saved import SavedRun, acting_policy

CHECKPOINT = Option("best", one_of("best", "last"))


def _file_name(of_the_run: str, changes: Sequence[str]) -> str:
    """What is of a changed env has a name that says so, beside what is of the run's own."""
    return ",".join([of_the_run, *changes]).replace("/", "_")


def evaluate_run(words: list[str]) -> int:
    """Greedy episodes on the test seeds: a table, and a file in the run directory.

    That is evaluation_CHECKPOINT.json, or where the env is changed, a name that says how.
    """
    words, changes = env_words(words)
    options = {"episodes": Option(100, whole(1, MAX_EPISODES)), "checkpoint": CHECKPOINT}
    [path], given = parse("evaluate", words, options)
    run = SavedRun(path, checkpoint=given["checkpoint"])
    config, algorithm = run.config(changes), run.algorithm(changes)
    with closing(EpisodesPlayed(given["episodes"])) as played:
        result = evaluate(
            acting_policy(algorithm, run.path),
            config.env,
            episodes=given["episodes"],
            num_envs=config.eval.num_envs,
            run_seed=config.seed,
            purpose=TEST,
            episode_over=played.one_more,
        )
    close(algorithm)
    print(result.table())
    name = _file_name(f"evaluation_{run.which}", changes)
    run.directory.write_json(f"{name}.json", result.to_json())
    return 0


PLAY_OPTIONS = {
    "episode": Option(0, whole(0)),
    "checkpoint": CHECKPOINT,
    "file": Option("", film),
    "beside": Option(False, flag),
    "dream": Option(False, flag),
    "temperature": Option(None, above_zero),
}


def play_run(words: list[str]) -> int:
    """Show a greedy episode in a window; without a display, or with `file=`, write a film.

    With `beside` it is what the policy itself draws of the episode, with `dream` an episode that it
    plays in its own model: both only for algorithms that have such pictures.
    """
    words, changes = env_words(words)
    [path], given = parse("play", words, PLAY_OPTIONS)
    beside, dream, file = given["beside"], given["dream"], given["file"]
    if beside and dream:
        raise UsageError("play: got beside=true and dream=true, expected one of them")
    if given["temperature"] and not dream:
        raise UsageError("temperature: only dream=true uses it, got no dream=true")
    run = SavedRun(path, checkpoint=given["checkpoint"])
    config, algorithm = run.config(changes), run.algorithm(changes)
    index = given["episode"]
    return_: float | None
    if not (beside or dream) and has_display() and not file:
        return_ = _play_in_window(algorithm, config, run.path, index)
    else:
        if dream:
            frames, return_ = algorithm.dream(
                episode_seed(config.seed, TEST, 0, index), given["temperature"]
            )
            with closing(make_env(config.env)) as env:
                fps = frames_per_second(env)
        else:
            frames, fps, return_ = _film(algorithm, config, run.path, index, beside=beside)
        if beside or dream:
            frames = enlarged(frames)
        kind = [name for name in ("beside", "dream") if given[name]]
        name = _file_name("_".join([f"test_episode_{index}_{run.which}", *kind]), changes)
        if file or not _show_film(frames, fps):
            note(f"writing a film of {len(frames):,} frames")
            print(write_video(Path(file) if file else run.directory.videos / name, frames, fps))
    close(algorithm)
    where = " in the dream" if dream else ""
    print(f"no return{where}" if return_ is None else f"return {return_:g}{where}")
    return 0


def _film(
    algorithm: Algorithm, config: RunConfig, where: Path, index: int, *, beside: bool
) -> tuple[np.ndarray, float, float]:
    def picture(episode: Playing) -> np.ndarray:
        [picture_HWC] = algorithm.beside(np.asarray(episode.obs)[None], episode.memory)
        return np.asarray(picture_HWC)

    with closing(StepsPlayed(f"episode {index}")) as played:
        return film_episode(
            acting_policy(algorithm, where),
            config.env,
            run_seed=config.seed,
            purpose=TEST,
            episode_index=index,
            picture=picture if beside else None,
            stop=played.one_more,
        )


def _play_in_window(algorithm: Algorithm, config: RunConfig, where: Path, index: int) -> float:
    policy = acting_policy(algorithm, where)
    return_ = 0.0
    for episode in frames_of(
        policy, config.env, index, run_seed=config.seed, purpose=TEST, render_mode="human"
    ):
        return_ = episode.return_
    return return_


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


def compare_runs(words: list[str]) -> int:
    """A table and learning curves of runs, grouped by everything but the seed."""
    from rlzoo.study.compare import compare

    paths, given = parse("compare", words, {"file": Option("", text)}, paths=range(1, 10**6))
    for path in paths:
        if not Path(path).exists():
            raise UsageError(f"compare: {path}: no such file or directory")
    comparison = compare([Path(path) for path in paths])
    if not comparison.groups:
        raise UsageError(f"compare: {comparison.failures[0].failure}; expected run directories")
    print(comparison.table())
    if not comparison.curves():
        note("no learning curves: none of these runs has been evaluated")
        return 0
    # Beside what is compared: in the folder that holds all of it.
    target = Path(given["file"] or Path(os.path.commonpath(paths), "compare.png"))
    comparison.save_picture(target)
    note(f"learning curves: {target}")
    return 0
