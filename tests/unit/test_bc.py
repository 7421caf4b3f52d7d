"""Behavioural cloning: the split, the losses, early stop, its data; and that it clones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.algos.bc import BC, split
from rlzoo.cli import main as cli
from rlzoo.core.algorithm import Reactive
from rlzoo.core.parts import module_state
from rlzoo.core.types import DataError
from rlzoo.demonstrations.files import encode
from rlzoo.demonstrations.recording import record
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.envs.make import EnvConfig
from rlzoo.nets.actor_critic import ActorCritic
from rlzoo.nets.distributions import DiagonalGaussian
from rlzoo.nets.mlp import NetworkConfig
from rlzoo.nets.policy import Policy
from rlzoo.run import config as configuration
from rlzoo.run.build import build
from rlzoo.run.evaluate import evaluate

CARTPOLE = EnvConfig(name="cartpole", id="CartPole-v1", restore="replay")
SMALL = ["debug=tiny", "network.hidden=[8]", "algo.batch_size=16", "algo.heldout_every_updates=5"]


def balance(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
    """A linear controller that keeps CartPole's pole up for ever."""
    return (obs_B @ np.array([0.1, 0.3, 1.0, 0.5]) > 0).astype(np.int64)


@pytest.fixture(scope="module")
def expert() -> Demonstrations:
    return record(Reactive(balance), CARTPOLE, episodes=5, seed=0, source="balance")


def made(lengths: list[int], *, continuous: bool = False, seed: int = 0) -> Demonstrations:
    """Random numbers in the form of CartPole's demonstrations, or of continuous LunarLander's."""
    rng, steps = generator(seed), sum(lengths)
    num_features = 8 if continuous else 4
    trajectory = np.repeat(np.arange(len(lengths)), lengths)  # each has a mean of its own
    obs = rng.normal(size=(steps, num_features)) + trajectory[:, None]
    torques = rng.uniform(0, 1, (steps, 2)).astype(np.float32)
    return Demonstrations(
        obs=obs.astype(np.float32),
        action=torques if continuous else rng.integers(2, size=steps),
        reward=np.ones(steps),
        start=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.zeros(len(lengths), bool),
        final_obs=np.zeros((len(lengths), num_features), np.float32),
        source="made",
        env_id=None,
    )


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def saved(demonstrations: Demonstrations, folder: Path) -> Path:
    file = folder / "demonstrations.npz"
    file.write_bytes(encode(demonstrations, "imitation"))
    return file


def cloning(demonstrations: Demonstrations, folder: Path, *words: str) -> BC:
    """BC of these demonstrations, small and ready to `step`."""
    env = "lunarlander_continuous" if demonstrations.action.ndim == 2 else "cartpole"
    path = f"algo.demonstrations.path={saved(demonstrations, folder)}"
    words = ("algo=bc", f"env={env}", "experiment=none", *SMALL, path, *words)
    algorithm: Any = build(configuration.compose(words))
    return algorithm


# --- the split ----------------------------------------------------------------------------------


def shared(demonstrations: Demonstrations, *parts: np.ndarray) -> set[int]:
    """Trajectories with steps in both parts."""
    first, second = (np.searchsorted(demonstrations.start, p, side="right") - 1 for p in parts)
    return set(first.tolist()) & set(second.tolist())


@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=12),
    every=st.integers(1, 8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_trajectory_is_in_both_parts(lengths, every, fraction, seed):
    demonstrations = made(lengths)
    kept = demonstrations.kept_steps(every, generator(seed))
    train, heldout = split(demonstrations, kept, fraction, generator(seed))
    assert shared(demonstrations, train, heldout) == set()
    assert sorted([*train, *heldout]) == kept.tolist()
    assert len(train) > 0 and len(heldout) > 0


def test_a_split_by_steps_would_be_found():
    demonstrations = made([10, 10, 10])
    shuffled = generator(0).permutation(30)
    assert shared(demonstrations, shuffled[:21], shuffled[21:]) == {0, 1, 2}


def test_the_fraction_is_that_of_the_trajectories():
    demonstrations = made([3] * 10)
    train, heldout = split(demonstrations, np.arange(30), 0.3, generator(1))
    assert (len(train), len(heldout)) == (21, 9)
    others = split(demonstrations, np.arange(30), 0.3, generator(2))[1]
    assert others.tolist() != heldout.tolist(), "which ones is drawn"


def test_one_trajectory_is_split_in_blocks():
    demonstrations = made([100])
    train, heldout = split(demonstrations, np.arange(100), 0.3, generator(0))
    assert sorted([*train, *heldout]) == list(range(100))
    assert len(heldout) == 30
    blocks = {step // 10 for step in heldout.tolist()}
    assert len(blocks) == 3, "three blocks of ten neighbouring steps"


def test_one_step_cannot_be_split():
    demonstrations = made([1])
    with pytest.raises(DataError, match="made: got 1 step, expected 2 or more"):
        split(demonstrations, np.arange(1), 0.3, generator(0))


# --- the losses ---------------------------------------------------------------------------------


def with_outputs(bc: BC, weight: float, bias: list[float]) -> BC:
    """A learner whose outputs are weight * first feature + bias."""
    bc.learner.policy = torch.nn.Linear(bc.learner.encoder.num_features, len(bias))
    with torch.no_grad():
        bc.learner.policy.weight.zero_()
        bc.learner.policy.weight[:, 0] = weight
        bc.learner.policy.bias.copy_(torch.tensor(bias))
    return bc


def test_loss_of_choices_by_hand(tmp_path):
    bc = with_outputs(cloning(made([5, 5]), tmp_path), 0.0, [0.0, math.log(3.0)])
    obs_B = torch.zeros(4, 4)
    with torch.no_grad():
        loss, heldout_loss, error = bc.fit(obs_B, torch.tensor([1, 1, 1, 0]))
    # p = 1/4 and 3/4: three times -log(3/4), once -log(1/4).
    assert float(loss) == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert float(heldout_loss) == float(loss)
    assert float(error) == 0.25


def test_losses_of_continuous_actions_by_hand(tmp_path):
    action_BA = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    obs_B = torch.zeros(2, 8)
    obs_B[0, 0] = 1.0  # means (1, 1) and (0, 0), so deviations (0, 1) and (0, 0)
    bc = with_outputs(cloning(made([5, 5], continuous=True), tmp_path), 1.0, [0.0, 0.0])
    bc.learner.distribution.log_std_A.data = torch.tensor([0.0, math.log(2.0)])
    with torch.no_grad():
        loss, mse, error = bc.fit(obs_B, action_BA)
    # log N(x; m, s) = -(x - m)^2 / 2 s^2 - log s - log(2 pi) / 2
    one = 2 * 0.5 * math.log(2 * math.pi) + math.log(2.0)
    assert float(loss) == pytest.approx(((one + 1 / 8) + one) / 2)
    assert (float(mse), float(error)) == (0.25, 0.25)
    squares = with_outputs(
        cloning(made([5, 5], continuous=True), tmp_path, "algo.loss=mse"), 1.0, [0.0, 0.0]
    )
    assert squares.fit(obs_B, action_BA)[0].item() == 0.25


def test_weight_decay_by_hand(tmp_path):
    bc = with_outputs(cloning(made([5, 5]), tmp_path, "algo.weight_decay=0.1"), 3.0, [0.0, 7.0])
    obs_B, action_B = torch.zeros(1, 4), torch.tensor([0])
    total, parts = bc.loss(obs_B, action_B)
    loss = parts["loss"]
    # Two weights of 3, and no biases: 0.1 / 2 * (9 + 9).
    assert (total - loss).item() == pytest.approx(0.9)


def unmoved(bc: BC) -> set[str]:
    """Parameters of the learner that a step left as they were."""
    before = module_state(bc.learner)
    bc.step()
    return {n for n, p in bc.learner.named_parameters() if torch.equal(p, before[n])}


@pytest.mark.parametrize(
    ("continuous", "loss", "fixed"),
    [(False, "nll", set()), (True, "nll", set()), (True, "mse", {"distribution.log_std_A"})],
)
def test_every_parameter_learns(continuous, loss, fixed, tmp_path):
    bc = cloning(made([20, 20], continuous=continuous), tmp_path, f"algo.loss={loss}")
    assert unmoved(bc) == fixed
    bc.optimizer.lr = 0.0
    assert len(unmoved(bc)) == len(list(bc.learner.parameters())), "and the check can fail"


def test_a_policy_without_a_gradient_is_refused(tmp_path, monkeypatch):
    bc = cloning(made([20, 20]), tmp_path)
    learner = bc.learner.forward
    monkeypatch.setattr(bc.learner, "forward", lambda obs_B: learner(obs_B).detach())
    with pytest.raises(RuntimeError, match="does not require grad"):
        bc.step()


# --- observations -------------------------------------------------------------------------------


def knows_only(bc: BC, obs: np.ndarray) -> bool:
    """Whether the normaliser's statistics are those of `obs`."""
    assert bc.obs_normalizer is not None
    statistics = bc.obs_normalizer.statistics
    return (
        statistics.count == len(obs)
        and np.allclose(statistics.mean, obs.mean(axis=0))
        and np.allclose(statistics.variance, obs.var(axis=0))
    )


def test_statistics_come_from_the_training_part(tmp_path, monkeypatch):
    parts: list[np.ndarray] = []

    def remembered(*args: Any) -> tuple[np.ndarray, np.ndarray]:
        parts[:] = split(*args)
        return parts[0], parts[1]

    monkeypatch.setattr("rlzoo.algos.bc.split", remembered)
    demonstrations = made([20, 30, 40])
    bc = cloning(demonstrations, tmp_path)
    bc.step()
    train, heldout = (demonstrations.obs[part].astype(np.float64) for part in parts)
    assert knows_only(bc, train)
    assert np.allclose(bc.data.train[0].numpy().mean(axis=0), 0, atol=1e-5)
    assert abs(bc.data.heldout[0].numpy().mean(axis=0)).min() > 0.1
    assert bc.obs_normalizer is not None
    bc.obs_normalizer.update(heldout)
    assert not knows_only(bc, train), "and the check can fail"


def test_without_normalisation_observations_stay_raw(tmp_path):
    demonstrations = made([20, 20])
    bc = cloning(demonstrations, tmp_path, "algo.normalize_obs=false")
    rows = np.concatenate([part[0].numpy() for part in (bc.data.train, bc.data.heldout)])
    assert np.array_equal(np.sort(rows, axis=0), np.sort(demonstrations.obs, axis=0))
    assert "obs_normalizer" not in bc.state()


# --- early stop ---------------------------------------------------------------------------------


def cloned_with_losses(bc: BC, losses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The learner's parameters after each step, while held-out losses are as given."""
    told = iter(losses)
    monkeypatch.setattr(bc, "_measured", lambda: (next(told), 0.0))
    snapshots = []
    while not bc.done():
        bc.step()
        snapshots.append(module_state(bc.learner))
    return snapshots


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("planted", [False, True])
def test_early_stop_keeps_the_best(planted, tmp_path, monkeypatch):
    bc = cloning(made([20, 20]), tmp_path, "algo.patience=3", "algo.updates=1000")
    if planted:
        monkeypatch.setattr("rlzoo.algos.bc.load_module", lambda module, state: None)
    snapshots = cloned_with_losses(bc, [3.0, 2.0, 1.0, 1.5, 1.0, 4.0, 0.0], monkeypatch)
    assert len(snapshots) == 6, "three in a row that are not below 1"
    assert bc.counters.clock == bc.counters.offline_units == 30
    assert bc.early_stop.best_heldout_loss == 1.0
    assert bc.how_to_continue() == "raise algo.patience to go on", "more steps would change nothing"
    assert same(module_state(bc.network), snapshots[2]) != planted
    assert not same(module_state(bc.network), snapshots[-1])
    obs_B = bc.env.obs_B
    with torch.no_grad():
        best = bc.network(torch.from_numpy(bc._normalized(obs_B)))
    assert np.allclose(bc.policy_outputs(bc._normalized(obs_B)), best), "and acts with it"


def test_without_patience_it_runs_to_the_end(tmp_path, monkeypatch):
    bc = cloning(made([20, 20]), tmp_path, "algo.patience=null", "algo.updates=100")
    snapshots = cloned_with_losses(bc, [float(k) for k in range(99)], monkeypatch)
    assert len(snapshots) == 20
    assert bc.how_to_continue() == "raise algo.updates to go on"
    assert same(module_state(bc.network), snapshots[0])


# --- data ---------------------------------------------------------------------------------------


def test_keep_every_and_trajectories_choose_the_steps(tmp_path):
    words = ["algo.demonstrations.trajectories=3", "algo.demonstrations.keep_every=10"]
    bc = cloning(made([50, 60, 70, 80]), tmp_path, *words)
    sizes = [len(part[0]) for part in (bc.data.train, bc.data.heldout)]
    assert sum(sizes) == 5 + 6 + 7
    assert sizes[1] in (5, 6, 7), "one trajectory of three"


def train(folder: Path, file: Path, *words: str) -> int:
    path = f"algo.demonstrations.path={file}"
    words = ("algo=bc", "env=cartpole", "experiment=none", *SMALL, path, *words)
    return cli.main([*words, f"run_dir={folder / 'run'}", "logger=jsonl"])


def test_bad_files_are_refused_before_there_is_a_run(tmp_path, capfd):
    demonstrations = made([20, 20])
    file = saved(demonstrations, tmp_path)
    with np.load(file) as arrays:
        members = dict(arrays)
    members["obs"][7, 2] = np.nan
    np.savez(file, **members)
    assert train(tmp_path, file) == 65
    assert "obs: got nan at index [7, 2], expected finite numbers" in capfd.readouterr().err
    assert train(tmp_path, saved(made([20, 20], continuous=True), tmp_path)) == 65
    assert "obs" in capfd.readouterr().err
    assert train(tmp_path, tmp_path / "nothing.npz") == 64
    assert "no file" in capfd.readouterr().err
    assert train(tmp_path, saved(replace(demonstrations, env_id="Acrobot-v1"), tmp_path)) == 65
    assert "env_id: got Acrobot-v1" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train(tmp_path, saved(demonstrations, tmp_path)) == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_a_policy_acts_without_its_demonstrations(tmp_path, capfd):
    file = saved(made([20, 20]), tmp_path)
    assert train(tmp_path, file) == 0
    file.unlink()
    assert cli.main(["evaluate", str(tmp_path / "run"), "episodes=1"]) == 0
    capfd.readouterr()
    assert cli.main([f"resume={tmp_path / 'run'}", "algo.updates=2000"]) == 64
    assert "no file" in capfd.readouterr().err


def test_demonstrations_that_changed_stop_a_resume(tmp_path):
    bc = cloning(made([20, 20]), tmp_path)
    bc.step()
    state = bc.state()
    cloning(made([20, 20]), tmp_path).load(state)
    with pytest.raises(DataError, match="has changed since the run began"):
        cloning(made([20, 20], seed=1), tmp_path).load(state)


def test_a_run_is_timed_by_its_updates(tmp_path):
    assert train(tmp_path, saved(made([20, 20]), tmp_path), "algo.patience=null") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["env_steps"], result["offline_units"]) == (0, 600)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    steps_of = {name: [row["step"] for row in rows if name in row] for row in rows for name in row}
    assert steps_of["train/loss"] == [100, 200, 300, 400, 500, 600]
    assert steps_of["eval/return_mean"] == [300, 600]
    assert steps_of["test/last_return_mean"] == [600]
    names = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")}
    assert "step_000000600" in names


# --- what others make of it -----------------------------------------------------------------------


def test_the_policy_is_the_first_part_of_an_actor_critic():
    obs_space = spaces.Box(-1, 1, (3,), np.float32)
    config = NetworkConfig(hidden=(5, 4))
    distribution = DiagonalGaussian(spaces.Box(-1, 1, (2,), np.float32))
    policy = Policy(obs_space, distribution, config)
    actor_critic = ActorCritic(obs_space, distribution, config)
    outcome = actor_critic.load_state_dict(policy.state_dict(), strict=False)
    assert outcome.unexpected_keys == []
    assert {name.split(".")[0] for name in outcome.missing_keys} == {"value"}
    obs_B = torch.randn(6, 3)
    assert torch.equal(actor_critic(obs_B)[0], policy(obs_B))


# --- it clones ----------------------------------------------------------------------------------


def return_of_clone(demonstrations: Demonstrations, folder: Path) -> float:
    words = ["network.hidden=[32]", "algo.batch_size=64", "algo.heldout_every_updates=100"]
    bc = cloning(demonstrations, folder, *words, "algo.lr=5e-3", "algo.updates=1500")
    while not bc.done():
        bc.step()
    assert bc.policy is not None
    result = evaluate(bc.policy, CARTPOLE, episodes=10, num_envs=10, run_seed=0, purpose="test")
    return result.mean


def test_five_trajectories_of_a_controller_make_a_clone(expert, tmp_path):
    assert expert.returns.tolist() == [500.0] * 5
    assert return_of_clone(expert, tmp_path) >= 490


def test_shuffled_actions_make_none(expert, tmp_path):
    shuffled = replace(expert, action=generator(0).permutation(expert.action))
    assert return_of_clone(shuffled, tmp_path) < 250
