"""Do demonstrations belong to an env? What an expert never says, but one feature can give away.

Demonstrations from another simulator have the right shapes, and yet a discriminator tells them
apart by one number (a root height that starts at 1.25 instead of 0), whatever the policy does.
So, before training: are their first observations those of the env's resets, feature by feature,
and how far do their actions carry in it? Shape suffixes: N observations, F features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlzoo.core.seeding import TRAIN, derive_seed
from rlzoo.demonstrations.recording import replay
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.episodes import Env, RestoreClass
from rlzoo.envs.play import RandomActions, episode_envs, play

RESETS, RANDOM_STEPS, RANDOM_EPISODES, REPLAYS = 100, 2000, 20, 10
MAX_FEATURES = 256  # images are not compared
FAMILY_ERROR = 0.001  # chance that any feature is taken for foreign by accident
TELLING_AUC = 0.95
NEGLIGIBLE = 1e-3  # of a feature's spread: rounding, not another simulator
REPRODUCED_STEPS = 10  # on another processor, rounding takes a replay elsewhere in the end


@dataclass(frozen=True)
class FeatureFit:
    """One feature of the demonstrations (first) against the env (second).

    An AUC is the chance that a value of the first sample is above one of the second: 0.5 where
    they are alike, 0 or 1 where the feature tells them apart (Mann & Whitney 1947).
    """

    name: str
    starts: tuple[float, float]  # medians of first observations and resets
    starts_auc: float
    states_auc: float  # all observations against those of a random policy
    is_foreign: bool

    def warning(self) -> str:
        first, second = self.starts
        return (
            f"{self.name} alone tells the demonstrations from the env: trajectories start at "
            f"{first:.4g}, the env at {second:.4g} (medians; AUC {self.starts_auc:.3f})"
        )


@dataclass(frozen=True)
class FitReport:
    """What the comparison found; `warnings` is empty where demonstrations and env agree."""

    features: tuple[FeatureFit, ...]  # empty for observations of too many features
    recorded_lengths: tuple[int, ...]  # of the trajectories that were replayed
    replay_lengths: tuple[int, ...]  # env steps until the episode or the actions ended
    random_lengths: tuple[int, ...]  # of a random policy's episodes, or as far as they were played
    same_steps: tuple[int, ...] | None  # so long the recorded observations came up again, from
    # the recorded seeds (None: the file has none, or the env cannot repeat an episode)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        found = [feature.warning() for feature in self.features if feature.is_foreign]
        played, random = np.median(self.replay_lengths), np.median(self.random_lengths)
        recorded = np.median(self.recorded_lengths)
        pairs = zip(self.same_steps or (), self.recorded_lengths, strict=False)
        if any(same < min(REPRODUCED_STEPS, recorded) for same, recorded in pairs):
            found.append(
                "from the recorded seeds, the recorded actions give other observations after "
                f"{min(self.same_steps or ())} steps: another env, or another version of it"
            )
        elif played < recorded and played <= 1.5 * random < recorded:
            found.append(
                f"the recorded actions end an episode after {played:.0f} steps (median), random "
                f"ones after {random:.0f}; they were recorded over {recorded:.0f}"
            )
        return tuple(found)


def fit_report(
    demonstrations: Demonstrations,
    make_env: Callable[[], Env],
    *,
    restore: RestoreClass = "settle",
    seed: int = 0,
) -> FitReport:
    """Compare demonstrations with an env: starts, states, replays. DataError for other spaces."""
    env = make_env()
    try:
        check_fits(demonstrations, env.observation_space, env.action_space)
    finally:
        env.close()
    resets, states, random_lengths = _random_policy(make_env, restore, seed)
    count = min(REPLAYS, demonstrations.num_trajectories)
    can_repeat = demonstrations.seed is not None and restore != "restart"
    replays = [_replayed(demonstrations, e, make_env, restore, seed) for e in range(count)]
    return FitReport(
        features=_features(demonstrations, resets, states),
        recorded_lengths=tuple(demonstrations.lengths[:count].tolist()),
        replay_lengths=tuple(length for length, _ in replays),
        random_lengths=random_lengths,
        same_steps=tuple(same for _, same in replays) if can_repeat else None,
    )


def _random_policy(
    make_env: Callable[[], Env], restore: RestoreClass, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """First observations of resets, observations of random episodes, and how long these are."""
    resets: list[np.ndarray] = []
    states: list[np.ndarray] = []
    lengths: list[int] = []
    # Nothing here must be repeatable.
    restore = "settle" if restore == "settle" else "replay"
    run_seed = derive_seed(seed, "fit")
    with episode_envs(make_env, 1, run_seed=run_seed, purpose=TRAIN, restore=restore) as envs:
        [env] = envs
        for index in range(RESETS):
            env.begin(index)
            resets.append(np.array(env.obs))
        policy = RandomActions(env.action_space, derive_seed(seed, "fit", "actions") % 2**31)
        for episode in play(policy, envs, range(RANDOM_EPISODES)):
            is_enough = len(states) >= RANDOM_STEPS
            if episode.over or is_enough:
                lengths.append(episode.length)
            else:
                states.append(np.array(episode.obs))
            if is_enough:
                break
    return np.stack(resets), np.stack(states), tuple(lengths)


def _replayed(
    demonstrations: Demonstrations,
    trajectory: int,
    make_env: Callable[[], Env],
    restore: RestoreClass,
    seed: int,
) -> tuple[int, int]:
    """Steps that a trajectory's actions carry, and after how many observations first differ."""
    begin, end = demonstrations.start[trajectory : trajectory + 2]
    spread = np.ptp(demonstrations.obs[begin:end], axis=0)
    steps = same = 0
    for episode in replay(demonstrations, trajectory, make_env, restore=restore, seed=seed):
        steps = episode.length
        if same == steps < end - begin:
            recorded = demonstrations.obs[begin + steps].astype(np.float64)
            error = np.abs(episode.obs - recorded)
            same += bool((error <= NEGLIGIBLE * (spread + 1e-3)).all())
    return steps, same


def _features(
    demonstrations: Demonstrations, resets: np.ndarray, states: np.ndarray
) -> tuple[FeatureFit, ...]:
    shape = demonstrations.obs.shape[1:]
    if math.prod(shape) > MAX_FEATURES:
        return ()
    every = max(1, demonstrations.num_steps // RANDOM_STEPS)
    starts_NF, resets_NF, expert_NF, random_NF = (
        np.asarray(x).reshape(len(x), -1).astype(np.float64)
        for x in (
            demonstrations.obs[demonstrations.start[:-1]],
            resets,
            demonstrations.obs[::every],
            states,
        )
    )
    alpha = FAMILY_ERROR / starts_NF.shape[1]
    spread_F = np.ptp(np.concatenate([expert_NF, random_NF]), axis=0)
    indices = itertools.product(*map(range, shape))
    return tuple(
        FeatureFit(
            name="obs" + "".join(f"[{i}]" for i in index),
            starts=(float(np.median(starts_NF[:, f])), float(np.median(resets_NF[:, f]))),
            starts_auc=auc(starts_NF[:, f], resets_NF[:, f]),
            states_auc=auc(expert_NF[:, f], random_NF[:, f]),
            is_foreign=_is_foreign(
                starts_NF[:, f], resets_NF[:, f], NEGLIGIBLE * spread_F[f], alpha
            ),
        )
        for f, index in enumerate(indices)
    )


def auc(first: np.ndarray, second: np.ndarray) -> float:
    """The chance that a value of `first` is above one of `second`, ties counted half."""
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return float(below.mean() / (2 * len(second)))


def _is_foreign(first: np.ndarray, second: np.ndarray, negligible: float, alpha: float) -> bool:
    """Whether a feature separates two samples, by more than accident and rounding.

    Either it ranks them apart significantly (normal approximation), or, which needs no more than
    one trajectory, the gap between them is wider than all that the env's resets spread.
    """
    gap = max(second.min() - first.max(), first.min() - second.max())
    if gap > max(np.ptp(second), negligible):
        return True
    n, m = len(first), len(second)
    distance = abs(auc(first, second) - 0.5)
    z = distance / math.sqrt((n + m + 1) / (12 * n * m))
    is_significant = math.erfc(z / math.sqrt(2)) < alpha
    is_real = abs(float(np.median(first) - np.median(second))) > negligible
    return is_significant and is_real and distance >= TELLING_AUC - 0.5
