"""What every registered algorithm must do, written once. A new one is tested without a new line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experts import with_demonstrations
from lamp import small_vision

from rlzoo.algos.world_models.agent import WorldModels
from rlzoo.algos.world_models.population import Player
from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm
from rlzoo.core.seeding import TEST
from rlzoo.core.types import NonFiniteError, UsageError
from rlzoo.run import config as configuration
from rlzoo.run.build import Builder, build, close
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import Evaluation, Stopped, evaluate, never
from rlzoo.run.run import Run
from rlzoo.study.contract import (
    NEVER,
    StopAt,
    fingerprint,
    greedy,
    outcome,
    stopped_and_resumed,
)
from rlzoo.study.contract import begin as start

ALGORITHMS = registry.names("algo")
VARIANTS = [
    *((name, ()) for name in ALGORITHMS),
    ("q_learning", ("algo.double=true", "env.num_envs=3")),
    ("q_learning", ("algo.expected=true", "algo.alpha_exponent=0.6")),
    ("sarsa", ("env.num_envs=2",)),
    ("dqn", ("algo.double=true", "algo.dueling=true", "algo.n_step=3", "env.num_envs=2")),
    ("dqn", ("replay=prioritized", "algo.n_step=2", "replay.capacity=150")),
    ("ppo", ("algo.normalize_obs=true", "algo.normalize_reward=true", "env.num_envs=2")),
    ("ppo", ("env=lunarlander_continuous", "algo.normalize_obs=true", "algo.lr_schedule=linear")),
    ("ppo", ("env=lunarlander_continuous", "algo.gsde=true")),
    ("gail", ("env=lunarlander_continuous", "algo.warm_start_updates=80", "env.num_envs=2")),
    ("gail", ("algo.generator=trpo", "algo.discriminator.replay_rollouts=3")),
    (
        "gail",
        (
            "env=lunarlander_continuous",
            "algo.reward=airl",
            "algo.discriminator.gradient_penalty=1",
            "algo.discriminator.spectral_norm=true",
        ),
    ),
    ("airl", ("env=lunarlander_continuous", "algo.absorbing=true")),
    (
        "world_models",
        (
            "algo.memory.done_head=true",
            "algo.memory.reward_head=true",
            "algo.controller.train_in=dream",
            "algo.controller.max_dream_steps=20",
            "algo.controller.generations=20",
            "algo.controller.num_envs=1",
        ),
    ),
    ("world_models", ("algo.phases=[controller]", "algo.controller.inputs=z")),
    ("trpo", ("algo.normalize_obs=true", "algo.fisher_fraction=0.5", "env.num_envs=2")),
    ("trpo", ("env=lunarlander_continuous", "algo.normalize_reward=true", "algo.gsde=true")),
    ("bc", ("env=lunarlander_continuous", "algo.patience=3", "algo.demonstrations.keep_every=2")),
    ("bc", ("env=lunarlander_continuous", "algo.loss=mse", "algo.weight_decay=1e-3")),
]
ENVS = (
    "env=frozenlake",
    "env=cartpole",
    "env=lunarlander_continuous",
    "env=gym env.id=lamp:Lamp-v0 env.restore=replay env.num_envs=2",
)
IDS = ["-".join((name, *extra)) for name, extra in VARIANTS]


@pytest.fixture(autouse=True, scope="module")
def fast() -> Iterator[None]:
    with small_vision(), pytest.MonkeyPatch.context() as patch:
        # Pictures of curves have tests of their own; drawing takes longer than all the rest.
        patch.setattr("rlzoo.run.plots.metric_panels", lambda curves: np.zeros((1, 1, 3), np.uint8))
        yield


def tiny(algo: str, extra: tuple[str, ...] = (), output: Path | None = None) -> RunConfig:
    """A run of a second in the env that is named, or the first whose spaces the algorithm takes."""
    named = [word for word in extra if word.startswith("env=")]
    extra = tuple(word for word in extra if word not in named)
    for env in named or ENVS:
        words = [f"algo={algo}", *env.split(), "experiment=none", "debug=tiny", "seed=3", *extra]
        words += ["logger.tensorboard=false"]
        if output is not None:
            words.append(f"output_dir={output}")
        config = configuration.compose(words)
        try:
            Builder(config).check_spaces()
        except UsageError:
            continue
        return with_demonstrations(config)
    raise AssertionError(f"no env fits {algo}")


@pytest.mark.parametrize(("algo", "extra"), VARIANTS, ids=IDS)
def test_same_seed_same_everything_other_seed_other(algo, extra, tmp_path):
    one, _ = start(tiny(algo, extra), tmp_path / "one")
    often = (*extra, "save_every_seconds=0.05")  # checkpoints change nothing
    two, _ = start(tiny(algo, often), tmp_path / "two")
    other, _ = start(tiny(algo, (*extra, "seed=4")), tmp_path / "other")
    assert outcome(one) == outcome(two)
    assert outcome(one)[0] != outcome(other)[0]


@pytest.mark.parametrize(("algo", "extra"), VARIANTS, ids=IDS)
def test_stopped_and_resumed_equals_straight(algo, extra, tmp_path):
    config, polled = tiny(algo, extra), StopAt(NEVER)
    straight, _ = start(config, tmp_path / "straight", polled)
    assert stopped_and_resumed(config, tmp_path / "stopped", polled.asked) == outcome(straight)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_interrupted_evaluation_is_done_again(algo, tmp_path, monkeypatch):
    config = tiny(algo)
    straight, _ = start(config, tmp_path / "straight")
    asked = []

    def interrupted(*args: Any, **kwargs: Any) -> None:
        asked.append(1)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("rlzoo.run.run.evaluate", interrupted)
        run, status = start(config, tmp_path / "stopped", lambda: bool(asked))
    assert status == "stopped"
    assert "eval/return_mean" not in run.directory.metrics.read_text()
    run = Run(config, run.directory, never)
    assert run.train() == "finished"
    assert outcome(run) == outcome(straight)


@pytest.mark.parametrize(("every", "tests"), [(300, 1), (200, 2)])
def test_the_final_test_plays_one_policy_once(every, tests, tmp_path, monkeypatch, capsys):
    purposes = []

    def heard(*args: Any, **kwargs: Any) -> Evaluation:
        purposes.append(kwargs["purpose"])
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("rlzoo.run.run.evaluate", heard)
    monkeypatch.setattr("rlzoo.run.progress.FILE_SECONDS", 0.0)  # a line for each of its episodes
    words = ("total_env_steps=300", f"eval.every={every}")
    run, _ = start(tiny("q_learning", words), tmp_path / "run")
    assert purposes.count(TEST) == tests, "the best policy is the last one, or it is not"
    assert outcome(run)[3].keys() == {"last", "best"}
    assert capsys.readouterr().err.count("rlzoo: 1 of ") == tests, "and says how far it is"


@pytest.mark.parametrize(("algo", "extra"), VARIANTS, ids=IDS)
def test_greedy_actions_draw_no_random_numbers(algo, extra):
    algorithm = warmed_up(tiny(algo, extra))
    obs_B = algorithm.env.obs_B.copy()
    before = fingerprint(algorithm.state())
    first = greedy(algorithm, obs_B)
    assert np.array_equal(first, greedy(algorithm, obs_B))
    assert len(first) == len(obs_B)
    assert all(algorithm.env.action_space.contains(action) for action in first)
    exploring = greedy(algorithm, obs_B, explore=True)
    assert all(action in algorithm.env.action_space for action in exploring)
    assert fingerprint(algorithm.state()) != before  # exploring does draw
    close(algorithm)


@pytest.mark.parametrize(("algo", "extra"), VARIANTS, ids=IDS)
def test_policy_of_a_state_acts_the_same(algo, extra):
    config = tiny(algo, extra)
    trained, fresh, other = warmed_up(config), build(config), build(config)
    fresh.load_policy(trained.state())
    other.load_policy(trained.policy_state())
    obs_B = np.stack([trained.env.obs_B[0]] * 3)
    wanted = greedy(trained, obs_B)
    assert np.array_equal(greedy(fresh, obs_B), wanted)
    assert np.array_equal(greedy(other, obs_B), wanted)
    for algorithm in (trained, fresh, other):
        close(algorithm)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_protocol_and_settings(algo):
    config = tiny(algo)
    algorithm = build(config)
    assert isinstance(algorithm, Algorithm)
    assert type(config.algo)().name == algo, "the settings' default name is the registry's"
    again = configuration.from_mapping(configuration.plain(config))
    assert again == config
    algorithm.env.close()


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_nan_stops_before_parameters_change(algo, tmp_path, monkeypatch):
    config = tiny(algo)
    run, _ = start(config, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in run.directory.checkpoints.rglob("*") if p.is_file()}
    more = ["total_env_steps=900"]
    lengths = {"world_models": "algo.controller.generations=9", "bc": "algo.updates=900"}
    more += [lengths[algo]] if algo in lengths else []
    longer = configuration.with_overrides(configuration.plain(config), more)[0]
    run = Run(longer, run.directory, never)
    policy = fingerprint(policy_of(run.algorithm))
    plant_nan(run.algorithm, monkeypatch)
    with pytest.raises(NonFiniteError):
        run.train()
    assert fingerprint(policy_of(run.algorithm)) == policy
    after = {p.name: p.read_bytes() for p in run.directory.checkpoints.rglob("*") if p.is_file()}
    assert after == before, "the last good checkpoint is untouched"
    diagnostics = json.loads((run.directory.path / "diagnostics.json").read_text())
    assert diagnostics["error"]


def policy_of(algorithm: Algorithm) -> Any:
    state = algorithm.state()
    state = state.get("generator", state)  # the discriminator has learnt before it
    keys = ("tables", "q", "target_q", "network", "learner", "optimizer", "artefacts")
    params_N = algorithm.actor.params_N if isinstance(algorithm, WorldModels) else None
    return [state[key] for key in keys if key in state], params_N


def plant_nan(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN that no check of the env can see: in the discount (so in every target), or the loss."""
    if isinstance(algorithm, WorldModels):
        monkeypatch.setattr(Player, "_play", play_badly)
        return
    config = getattr(algorithm, "generator", algorithm).config
    name = "gamma" if hasattr(config, "gamma") else "weight_decay"
    object.__setattr__(config, name, float("nan"))


def play_badly(self: Player, params_BN: Any, seeds: list[int], share: Any) -> Any:
    yield
    return np.full(len(seeds), np.nan), np.zeros(len(seeds))


def warmed_up(config: RunConfig) -> Algorithm:
    algorithm = build(config)
    while algorithm.counters.clock < 200 and not algorithm.done():
        algorithm.step()
    return algorithm
