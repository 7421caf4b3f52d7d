"""Whole episodes of a policy: the one loop that plays them, whatever for.

Evaluation, the final test, films, the window, demonstrations and their fit report all read from
it. The policy is always asked for one action at a time: a matrix product may round a row
differently in a batch of another size, and in another place of the same batch, and then the return
of an episode would depend on what is played beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from rlzoo.core.algorithm import Memory, Policy
from rlzoo.envs.episodes import Env, EpisodeEnv, RestoreClass


class Playing:
    """An episode that is being played; one object from its start to its end."""

    def __init__(self, env: EpisodeEnv, index: int, memory: Memory) -> None:
        self.env, self.index = env, index
        self.memory = memory  # [1, ...], what is acted with next
        self.action: Any = None  # the last one, its reward and how it ended; None at the start
        self.reward = 0.0
        self.terminated = self.truncated = False
        self.return_ = 0.0  # undiscounted sum of raw rewards so far

    def advance(self, policy: Policy, *, explore: bool) -> None:
        """Act, and take a step."""
        obs_B = np.asarray(self.env.obs)[None]
        [self.action], self.memory = policy.act(obs_B, self.memory, explore=explore)
        _, self.reward, self.terminated, self.truncated = self.env.step(self.action)
        self.return_ += self.reward

    @property
    def obs(self) -> Any:
        """What is acted on next; once the episode is over, its last observation."""
        return self.env.obs

    @property
    def length(self) -> int:
        """Env steps so far."""
        return self.env.length

    @property
    def over(self) -> bool:
        return self.env.over


def play(
    policy: Policy, envs: Sequence[EpisodeEnv], episodes: Sequence[int], *, explore: bool = False
) -> Iterator[Playing]:
    """Play episodes side by side in envs; yields each at its start and after each of its steps.

    Env i of N plays the episodes i, i + N, ... of those given, under their own seeds, so that what
    an env plays does not depend on how long episodes are. Raises EnvError.
    """
    ahead = [iter(episodes[i :: len(envs)]) for i in range(len(envs))]
    playing: dict[int, Playing] = {}  # by env

    def begin(i: int) -> Iterator[Playing]:
        for index in ahead[i]:
            envs[i].begin(index)
            playing[i] = Playing(envs[i], index, policy.initial(1))
            yield playing[i]
            return

    for i in range(len(envs)):
        yield from begin(i)
    while playing:
        for i, episode in list(playing.items()):
            episode.advance(policy, explore=explore)
            yield episode
            if episode.over:
                del playing[i]
                yield from begin(i)


@contextmanager
def episode_envs(
    make: Callable[[], Env], count: int, *, run_seed: int, purpose: str, restore: RestoreClass
) -> Iterator[list[EpisodeEnv]]:
    """Envs for `play`, closed afterwards; an episode's seed depends on its number alone."""
    with ExitStack() as stack:
        envs: list[EpisodeEnv] = []
        for _ in range(count):
            env = EpisodeEnv(
                make,
                run_seed=run_seed,
                purpose=purpose,
                env_index=0,
                restore=restore,
                auto_reset=False,
            )
            stack.callback(env.close)
            envs.append(env)
        yield envs


class RandomActions:
    """A policy that samples from an action space."""

    def __init__(self, space: Any, seed: int) -> None:
        self._space = space
        space.seed(seed)

    def initial(self, num_envs: int) -> Memory:
        return ()

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        return np.stack([self._space.sample() for _ in obs_B]), memory


class GivenActions:
    """A policy that takes the same actions [T, ...] in each episode, whatever it sees."""

    def __init__(self, action_T: Iterable[Any]) -> None:
        self._action_T = np.asarray(action_T)

    def initial(self, num_envs: int) -> Memory:
        return (np.zeros(num_envs, np.int64),)

    def act(self, obs_B: np.ndarray, memory: Memory, *, explore: bool) -> tuple[np.ndarray, Memory]:
        [t_B] = memory
        return self._action_T[np.minimum(t_B, len(self._action_T) - 1)], (t_B + 1,)
