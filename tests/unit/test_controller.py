"""C and its phase: parameters, actions, playing as a population, search that resumes exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlzoo.algos.world_models.dream import EpisodeNoise, normal
from rlzoo.algos.world_models.executor import LocalExecutor, ProcessExecutor, finished
from rlzoo.algos.world_models.models import MDNRNN, Controller, check_actions
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.policy import Senses, columns
from rlzoo.algos.world_models.population import SLICE_STEPS, Player, SeenEpisodes, Share
from rlzoo.algos.world_models.search import ControllerConfig, ControllerPhase
from rlzoo.core.seeding import SELECT, episode_seed, torch_seed
from rlzoo.core.types import NonFiniteError, Step, UsageError
from rlzoo.io import checkpoint

CAR = spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1]))
DOOM = spaces.Box(-1, 1, (1,), np.float32)

# C -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "space", "settings", "expected"),
    [
        (32 + 256, CAR, {}, 867),  # the paper, CarRacing
        (64 + 512 + 512, DOOM, {"bias": False}, 1088),  # the original code, TakeCover
        (32, CAR, {}, 99),  # V alone
        (32, CAR, {"hidden": 40}, 32 * 40 + 40 + 40 * 3 + 3),  # V and a hidden layer
    ],
)
def test_numbers_of_parameters(features, space, settings, expected):
    assert Controller(features, space, **settings).num_params == expected


def act(controller: Controller, params_RN: Sequence, features_RF: Sequence) -> np.ndarray:
    layers = controller.layers(torch.tensor(params_RN, dtype=torch.float32))
    return controller(layers, torch.tensor(features_RF, dtype=torch.float32)).numpy()


def test_actions_by_hand():
    controller = Controller(2, CAR, clipped=(2,))
    # weights from feature 0 to each action, from feature 1, then the biases
    params_N = [1, 2, 3, -1, 0, -4, 0.5, 0, 0]
    [action_A] = act(controller, [params_N], [[0.3, 0.2]])
    steer, gas, brake = 0.3 - 0.2 + 0.5, 2 * 0.3, 3 * 0.3 - 4 * 0.2
    wanted = [math.tanh(steer), (math.tanh(gas) + 1) / 2, math.tanh(brake)]
    np.testing.assert_allclose(action_A, wanted, rtol=1e-6)
    [action_A] = act(controller, [params_N], [[0, 1]])
    np.testing.assert_allclose(action_A, [math.tanh(-0.5), 0.5, 0], rtol=1e-6)
    [scaled_A] = act(Controller(2, CAR), [params_N], [[0, 1]])
    assert scaled_A[2] == pytest.approx((math.tanh(-4) + 1) / 2, rel=1e-4)


def test_a_hidden_layer_by_hand():
    controller = Controller(1, DOOM, hidden=2)
    params_N = [1, -1, 0.5, 0, 2, 3, -1]  # two weights, two biases; two weights, one bias
    [[action]] = act(controller, [params_N], [[0.4]])
    wanted = math.tanh(2 * math.tanh(0.9) + 3 * math.tanh(-0.4) - 1)
    assert action == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"hidden": 4}, {"bias": False}])
def test_each_row_has_a_controller_of_its_own(settings):
    controller = Controller(5, CAR, **settings)
    rng = np.random.default_rng(0)
    params_RN = rng.standard_normal((7, controller.num_params))
    features_RF = rng.standard_normal((7, 5))
    together = act(controller, params_RN, features_RF)
    for r in range(7):
        alone = act(controller, params_RN[r : r + 1], features_RF[r : r + 1])
        np.testing.assert_allclose(together[r : r + 1], alone, rtol=1e-5, atol=1e-6)
    shared = act(controller, params_RN[:1], features_RF)  # one for all
    np.testing.assert_allclose(shared[:1], together[:1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(shared[1:], together[1:])
    assert all(CAR.contains(action_A) for action_A in act(controller, 99 * params_RN, features_RF))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Box(-1, 1, (2, 2), np.float32),
    ],
)
def test_other_actions_are_refused(space):
    with pytest.raises(UsageError, match="expected a bounded Box of float32"):
        check_actions(space)


# Playing -----------------------------------------------------------------------------------------

Z, H = 2, 3


class FakeVision:
    """Latents are the first pixels of a frame, with a standard deviation of 0.1."""

    latent_size = Z

    def encode(self, frame_RHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu_RZ = frame_RHWC.flatten(1)[:, :Z].float() / 255
        return mu_RZ, torch.full_like(mu_RZ, 2 * math.log(0.1))


class FakeEnvs:
    """Episodes of `3 + seed % 40` steps (at most `limit`), whose pictures tell seed and time.

    The reward is the action, less what the seed asks for. It objects to being stepped in vain.
    """

    action_space = DOOM

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.steps = 0  # of rows that were alive

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self.num_envs, self.seed_B, self.t = len(seeds), np.array(seeds), 0
        self.alive_B = np.ones(self.num_envs, bool)
        return self._seen()

    def _seen(self) -> np.ndarray:
        obs_B = np.zeros((self.num_envs, 1, 2, 1), np.uint8)
        obs_B[:, 0, 0, 0], obs_B[:, 0, 1, 0] = self.seed_B % 251, self.t
        return obs_B

    def step(self, action_BA: np.ndarray) -> Step:
        assert self.alive_B.any()
        self.steps += int(self.alive_B.sum())
        self.t += 1
        reward_B = (action_BA[:, 0] - (self.seed_B % 3 - 1) * 0.1) * self.alive_B
        terminated_B = self.alive_B & (self.t >= 3 + self.seed_B % 40)
        truncated_B = self.alive_B & ~terminated_B & (self.t >= self.limit)
        self.alive_B &= ~(terminated_B | truncated_B)
        return Step(self._seen(), reward_B, terminated_B, truncated_B)

    def close(self) -> None: ...


def senses(latent: str = "sample", memory: bool = True) -> Senses:
    with torch_seed(0, "test"):
        rnn = MDNRNN(Z, 1, hidden_size=H)
    return Senses(FakeVision(), rnn if memory else None, latent=latent)


def player(num_envs: int = 6, inputs: str = "zhc", **settings) -> Player:
    seen = SeenEpisodes(FakeEnvs(), senses(**settings), preprocess=np.asarray)
    part = columns(inputs, Z, H if settings.get("memory", True) else 0)
    return Player(seen, Controller(part.stop - part.start, DOOM), part, num_envs)


def members(count: int, num_features: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, num_features + 1))


def test_which_features_c_sees():
    assert [columns(inputs, 32, 256) for inputs in ("z", "zh", "h", "zhc")] == [
        slice(0, 32),
        slice(0, 288),
        slice(32, 288),
        slice(0, 544),
    ]


def reference(
    params_N: np.ndarray, seed: int, inputs: str, latent: str, patience: int | None
) -> tuple[float, int]:
    """One member in one episode, by the plainest loop."""
    envs, sense = FakeEnvs(), senses(latent)
    noise = EpisodeNoise([seed], Z, "latents", normal)
    part = columns(inputs, Z, H)
    controller = Controller(part.stop - part.start, DOOM)
    layers = controller.layers(torch.from_numpy(params_N.astype(np.float32))[None])
    memory = sense._rnn.initial(1)
    obs_B, return_, length, gained = envs.reset([seed]), 0.0, 0, 0
    while envs.alive_B[0] and (patience is None or length - gained < patience):
        mu = obs_B.reshape(1, -1)[:, :Z].astype(np.float32) / 255
        noise_RZ = noise.at(np.array([0]), np.array([length]))
        z = torch.from_numpy(mu + 0.1 * noise_RZ if latent == "sample" else mu).float()
        action = controller(layers, torch.cat([z, *memory], dim=1)[:, part])
        memory = sense._rnn.remember(z, action, memory)
        obs_B, reward_B, _, _ = envs.step(action.numpy())
        return_, length = return_ + float(reward_B[0]), length + 1
        gained = length if reward_B[0] > 0 else gained
    return return_, length


def same_for_all(params_PN: np.ndarray, seeds: Sequence[int], patience: int | None = None) -> Share:
    return Share(params_PN, np.tile(seeds, (len(params_PN), 1)), patience)


@torch.no_grad()
@pytest.mark.parametrize("num_envs", [1, 5, 6, 64])
@pytest.mark.parametrize(
    ("inputs", "latent", "patience"),
    [("zh", "sample", None), ("z", "mean", None), ("h", "sample", 4), ("zhc", "sample", 2)],
)
def test_a_population_plays_as_its_members_would_alone(num_envs, inputs, latent, patience):
    part = columns(inputs, Z, H)
    params_PN, seeds = members(4, part.stop - part.start), (100, 7, 33)
    share = same_for_all(params_PN, seeds, patience)
    outcome = finished(player(num_envs, inputs, latent=latent)(share))
    assert outcome.return_PE.shape == outcome.length_PE.shape == (4, 3)
    stopped_early = 0
    for p in range(4):
        for e, seed in enumerate(seeds):
            return_, length = reference(params_PN[p], seed, inputs, latent, patience)
            assert outcome.length_PE[p, e] == length
            assert outcome.return_PE[p, e] == pytest.approx(return_, abs=1e-4)
            stopped_early += length < 3 + seed % 40
    assert (stopped_early > 0) == (patience is not None)


def test_rows_that_are_over_are_not_stepped():
    worker = player(6)
    outcome = finished(worker(same_for_all(members(2, 8), (0, 5, 39))))
    assert worker._envs._envs.steps == outcome.length_PE.sum() == 2 * (3 + 8 + 42)


def test_members_may_play_other_episodes_than_their_neighbours():
    params_PN = members(2, 8)
    share = Share(params_PN, np.array([[0, 5], [39, 5]]), None)
    outcome = finished(player(3)(share))
    assert outcome.length_PE.tolist() == [[3, 8], [42, 8]]
    alone = finished(player(3)(Share(params_PN[1:], share.seed_PE[1:], None)))
    np.testing.assert_allclose(outcome.return_PE[1:], alone.return_PE, atol=1e-5)


def test_v_alone_needs_no_m():
    params_PN = members(3, Z)
    with_m = finished(player(3, "z")(same_for_all(params_PN, (4,))))
    without = finished(player(3, "z", memory=False)(same_for_all(params_PN, (4,))))
    np.testing.assert_array_equal(with_m.return_PE, without.return_PE)


def test_work_comes_in_slices():
    work = player(2, "z", memory=False)(same_for_all(members(2, Z), (39,)))
    assert sum(1 for _ in work) == (3 + 39) // SLICE_STEPS


# The phase ---------------------------------------------------------------------------------------

SMALL = {"population": 6, "evaluate_every_generations": 3, "evaluate_episodes": 4, "episodes": 2}


def phase(seed: int = 0, executor: object = None, **settings) -> ControllerPhase:
    config = ControllerConfig(**{**SMALL, **settings})
    executor = executor or LocalExecutor(player)
    return ControllerPhase(config, seed=seed, num_params=2 + 2 * 3 + 1, executor=executor)


def until(phase: ControllerPhase, generations: int) -> list[dict]:
    """Steps until so many generations are over, and the evaluation after them; all metrics."""
    rows = []
    while phase.es.generation < generations or phase._evaluation_is_due:
        metrics = phase.step()
        rows += [metrics] if metrics else []
    return rows


def outcome(phase: ControllerPhase) -> tuple:
    state = phase.state()
    return (
        state["es"]["strategy"]["mean"].tobytes(),
        state["es"]["strategy"]["sigma"],
        state["best"].tobytes(),
        state["best_return"],
        state["env_steps"],
        state["played"],
        state["es"]["rng"]["state"]["state"],
    )


def test_it_is_a_phase_that_learns():
    it = phase(generations=30)
    assert isinstance(it, Phase)
    assert it.progress() == (0, 30)
    rows = until(it, 30)
    assert it.done() and it.progress() == (30, 30)
    evaluated = [row["eval/heldout_return_mean"] for row in rows if len(row) == 2]
    assert len(evaluated) == 10
    assert it.best_return == max(evaluated) > evaluated[0] + 5
    assert it.played == 30 * 6 * 2
    assert it.gauges()["train/generations"] == 30


def test_same_seed_same_everything_other_seed_other():
    one, two, other = phase(), phase(), phase(seed=1)
    assert until(one, 7) == until(two, 7)
    until(other, 7)
    assert outcome(one) == outcome(two) != outcome(other)


@pytest.mark.parametrize(
    "settings", [{}, {"groups": 3, "averaged_generations": 4, "replayed_groups": 1}]
)
@pytest.mark.parametrize("steps", [0, 1, 3, 11, 20, 40])
def test_stopped_anywhere_and_resumed_equals_straight(steps, settings, tmp_path):
    """Also in the middle of a generation or an evaluation, which are then done again."""
    straight = phase(**settings)
    rows = until(straight, 12)
    stopped, before = phase(**settings), []
    for _ in range(steps):
        metrics = stopped.step()
        before += [metrics] if metrics else []
    path = checkpoint.save(tmp_path, 1, stopped.state(), keep_last=1)
    resumed = phase(**settings)
    resumed.load(checkpoint.load(path))
    assert before + until(resumed, 12) == rows
    assert outcome(resumed) == outcome(straight)


def test_counters_stand_still_within_a_generation():
    it = phase()
    seen = {(it.env_steps, it.played, it.es.generation)}
    while it.es.generation < 2:
        it.step()
        seen.add((it.env_steps, it.played, it.es.generation))
    assert [generation for _, _, generation in sorted(seen)] == [0, 1, 2]


class Listening(LocalExecutor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(player)
        self.shares: list[Share] = []

    def start(self, shares: Sequence[Share]) -> None:
        self.shares.extend(shares)
        super().start(shares)


def test_members_of_a_generation_share_episodes_and_others_come_next():
    executor = Listening()
    it = phase(executor=executor, workers=2, patience_env_steps=50)
    until(it, 3)
    generations, evaluation = executor.shares[:6], executor.shares[6:]
    assert [len(share.params_PN) for share in generations] == [3] * 6
    seeds = [share.seed_PE for share in generations]
    assert all((rows == rows[0]).all() for rows in seeds)
    np.testing.assert_array_equal(seeds[0], seeds[1])
    trained_on = {*seeds[0][0], *seeds[2][0], *seeds[4][0]}
    assert len(trained_on) == 6
    params_PN = np.concatenate([share.params_PN for share in evaluation])
    seed_PE = np.concatenate([share.seed_PE for share in evaluation])
    np.testing.assert_array_equal(params_PN, np.tile(it.mean_N, (4, 1)))
    assert seed_PE.tolist() == [[episode_seed(0, SELECT, 0, k)] for k in range(4)]
    assert len(evaluation) == 2, "workers share it, too"
    assert all(share.patience_env_steps is None for share in evaluation), "nobody is given up"
    assert not trained_on & set(seed_PE.flat)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_groups_play_episodes_of_their_own(workers):
    executor = Listening()
    it = phase(executor=executor, workers=workers, groups=3)
    until(it, 1)
    until(it, 2)
    first, second = executor.shares[:workers], executor.shares[workers:]
    seed_PE = np.concatenate([share.seed_PE for share in first])
    np.testing.assert_array_equal(seed_PE[0::2], seed_PE[1::2])  # pairs
    assert len(set(seed_PE.flat)) == 3 * 2
    assert not set(seed_PE.flat) & set(np.concatenate([s.seed_PE for s in second]).flat)


def test_episodes_of_the_lowest_groups_are_played_again():
    """Here a track is worth what its seed says, so that the lowest of three is known."""
    plays = player()

    def worker(share: Share):
        outcome = yield from plays(share)
        return outcome._replace(return_PE=1e9 * (share.seed_PE % 1000) + outcome.return_PE)

    class Heard(Listening):
        def __init__(self) -> None:
            LocalExecutor.__init__(self, lambda: worker)
            self.shares = []

    executor = Heard()
    it = phase(executor=executor, groups=3, replayed_groups=1, evaluate_every_generations=99)
    until(it, 4)
    played = [[tuple(row) for row in share.seed_PE[::2]] for share in executor.shares]
    assert len(played) == 4
    for before, after in itertools.pairwise(played):
        worst = min(before, key=lambda row: sum(seed % 1000 for seed in row))
        assert after[0] == worst
        assert not set(after[1:]) & set(before), "the others are new"


def test_replayed_episodes_of_another_number_are_let_go():
    it = phase(groups=3, replayed_groups=1)
    until(it, 2)
    assert it.state()["replayed_seeds"].shape == (1, 2)
    other = phase(groups=3, replayed_groups=1, episodes=1)
    other.load(it.state())
    until(other, 3)
    assert other.state()["replayed_seeds"].shape == (1, 1)


def test_easy_episodes_do_not_make_a_good_member():
    """A search with groups comes to the same whatever a group's episodes are worth to all."""

    def search(worth: float, **settings) -> np.ndarray:
        plays = player()

        def worker(share: Share):
            outcome = yield from plays(share)
            worth_PE = worth * (share.seed_PE % 1000)
            return outcome._replace(return_PE=outcome.return_PE + worth_PE)

        it = phase(executor=LocalExecutor(lambda: worker), **settings)
        until(it, 4)
        return it.mean_N

    np.testing.assert_allclose(search(0.0, groups=3), search(9.0, groups=3), atol=1e-9)
    assert np.abs(search(0.0, groups=3) - search(0.0, groups=1)).max() > 1e-3
    # Control: within one group the worth of episodes differs for nobody; between members, it would.
    np.testing.assert_allclose(search(0.0), search(9.0), atol=1e-9)


def test_the_mean_is_averaged_over_generations():
    it, means = phase(averaged_generations=3), []
    average_N = 0
    for generation in range(1, 7):
        until(it, generation)
        means.append(it.es.mean_N)
        share = 1 / min(generation, 3)
        average_N = (1 - share) * average_N + share * means[-1]
        np.testing.assert_allclose(it.mean_N, average_N)
        if generation == 3:
            np.testing.assert_allclose(it.mean_N, np.mean(means, axis=0))
    np.testing.assert_array_equal(it.params_N, it.mean_N)
    newest = phase()
    until(newest, 4)
    np.testing.assert_array_equal(newest.mean_N, newest.es.mean_N)


def test_workers_in_processes_come_to_the_same_result():
    straight = phase(workers=2)
    rows = until(straight, 3)
    executor = ProcessExecutor(partial(player), workers=2, timeout_seconds=60)
    try:
        it = phase(executor=executor, workers=2)
        assert until(it, 3) == rows
        assert outcome(it) == outcome(straight)
    finally:
        executor.close()


def test_the_policy_is_the_mean_or_the_best_mean():
    it = phase(play="best")
    until(it, 6)
    while np.array_equal(it.best_N, it.mean_N):
        it.step()
    np.testing.assert_array_equal(it.params_N, it.best_N)
    acting = phase(play="mean")
    acting.load_policy(it.state())
    np.testing.assert_array_equal(acting.params_N, it.mean_N)


def test_a_nan_return_is_not_learnt_from():
    class Broken(FakeEnvs):
        def step(self, action_BA: np.ndarray) -> Step:
            return super().step(action_BA)._replace(reward_B=np.full(self.num_envs, np.nan))

    def broken() -> Player:
        part = columns("zhc", Z, H)
        seen = SeenEpisodes(Broken(), senses(), preprocess=np.asarray)
        return Player(seen, Controller(part.stop, DOOM), part, 6)

    it = phase(executor=LocalExecutor(broken))
    mean_N = it.mean_N.copy()
    with pytest.raises(NonFiniteError, match="generation 0: the fitness of a member is nan"):
        until(it, 1)
    np.testing.assert_array_equal(it.params_N, mean_N)
