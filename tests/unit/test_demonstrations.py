"""Demonstrations: formats there and back, recording and replaying, whether they fit an env."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.core.algorithm import Reactive
from rlzoo.core.seeding import SELECT, TEST, TRAIN, episode_seed
from rlzoo.core.types import DataError, UsageError
from rlzoo.demonstrations import experts
from rlzoo.demonstrations import fit as demonstration_fit
from rlzoo.demonstrations.files import DemonstrationsConfig, chosen, encode, load
from rlzoo.demonstrations.fit import auc, fit_report
from rlzoo.demonstrations.formats import arrays
from rlzoo.demonstrations.recording import record, replay
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import EnvConfig, make_env

CARTPOLE = EnvConfig(id="CartPole-v1", restore="replay", max_episode_steps=150)
FIELDS = ("obs", "action", "reward", "start", "terminated", "final_obs", "seed")
needs_pybullet = pytest.mark.skipif(
    importlib.util.find_spec("pybullet_envs") is None, reason="needs pybullet"
)


def balance(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
    """Push the cart under the pole: a policy by hand that keeps it up for hundreds of steps."""
    return (obs_B[:, 2] + 0.3 * obs_B[:, 3] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def cartpole() -> Demonstrations:
    return record(Reactive(balance), CARTPOLE, episodes=4, seed=0, source="here")


def made(lengths: list[int], obs_shape=(3,), action_shape=(2,), dtype="float32") -> Demonstrations:
    rng = np.random.default_rng(sum(lengths))
    steps, count = sum(lengths), len(lengths)

    def draw(*shape: int) -> np.ndarray:
        return (100 * rng.normal(size=shape)).astype(dtype)

    return Demonstrations(
        obs=draw(steps, *obs_shape),
        action=draw(steps, *action_shape) if action_shape else rng.integers(3, size=steps),
        reward=rng.normal(size=steps),
        start=np.cumsum([0, *lengths]),
        terminated=rng.random(count) < 0.5,
        final_obs=draw(count, *obs_shape),
        source="here",
        env_id="Made-v0",
        seed=rng.integers(2**31, size=count),
    )


# Formats -----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    obs_shape=st.sampled_from([(), (3,), (2, 4, 1)]),
    action_shape=st.sampled_from([(), (2,)]),
    dtype=st.sampled_from(["float32", "float64", "uint8"]),
    format=st.sampled_from(["imitation", "flat", "baselines"]),
)
def test_there_and_back(tmp_path_factory, lengths, obs_shape, action_shape, dtype, format):
    path = tmp_path_factory.mktemp("demos") / "d.npz"
    if dtype == "uint8":
        action_shape = ()
    before = made(lengths, obs_shape, action_shape, dtype)
    path.write_bytes(encode(before, format))
    after = load(path)
    assert after.env_id == "Made-v0" and after.source == str(path)
    for name in FIELDS:
        if name == "final_obs" and format == "baselines":
            assert after.final_obs is None
            continue
        left, right = getattr(before, name), getattr(after, name)
        assert np.array_equal(left, right) and left.dtype == right.dtype, name


@pytest.mark.parametrize("format", ["imitation", "flat"])
def test_a_file_without_rewards_is_read(tmp_path, format, capsys):
    """Nothing learns from them, and imitation's own `Trajectory` has none."""
    before = made([4, 1, 3])
    members = arrays(before, format)
    del members["rews"]
    np.savez(tmp_path / "d.npz", **members)
    after = load(tmp_path / "d.npz")
    assert np.array_equal(after.obs, before.obs) and np.array_equal(after.action, before.action)
    assert after.returns.tolist() == [0, 0, 0]
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("d.npz: has no rewards (rews), which are taken for 0")


def test_what_imitation_itself_reads(tmp_path):
    """Its loader, `imitation.data.serialize.load` (1.0.1), in our words, and without pickle."""
    before = made([4, 1, 3])
    (tmp_path / "d.npz").write_bytes(encode(before, "imitation"))
    data = np.load(tmp_path / "d.npz", allow_pickle=False)
    ends = data["indices"] + np.arange(len(data["indices"])) + 1
    obs = np.split(data["obs"], ends)
    for name, column in (("acts", before.action), ("rews", before.reward)):
        for e, part in enumerate(np.split(data[name], data["indices"])):
            assert np.array_equal(part, column[before.start[e] : before.start[e + 1]])
            assert len(obs[e]) == len(part) + 1
    assert [part.shape for part in np.split(data["infos"], data["indices"])] == [(4,), (1,), (3,)]
    assert np.array_equal([part[-1] for part in obs], before.final_obs)
    assert np.array_equal(data["terminal"], before.terminated)
    assert np.issubdtype(data["rews"].dtype, np.floating)


def test_padding_of_baselines_files_that_do_not_say_how_long_trajectories_are(tmp_path):
    obs = np.zeros((3, 5, 2))
    acs = np.zeros((3, 5, 1))
    rews = np.zeros((3, 5))
    obs[0] = acs[0] = 1  # never ended
    obs[1, :3] = 1  # three steps
    rews[2, 1] = 7  # two steps: zeros inside of a trajectory are steps
    np.savez(tmp_path / "d.npz", obs=obs, acs=acs, rews=rews, ep_rets=rews.sum(1))
    read = load(tmp_path / "d.npz")
    assert read.lengths.tolist() == [5, 3, 2]
    assert read.terminated.tolist() == [False, True, True]
    assert read.returns.tolist() == [0, 0, 7]
    assert read.final_obs is None and read.env_id is None and read.seed is None


def test_what_a_format_cannot_hold():
    without = replace(made([2, 3]), final_obs=None)
    with pytest.raises(UsageError, match="expected format=baselines"):
        encode(without, "imitation")
    with pytest.raises(UsageError, match="format: got 'csv', expected imitation, flat or basel"):
        encode(without, "csv")


def test_minari_there_and_back(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from minari.dataset.minari_dataset import MinariDataset

    from rlzoo.demonstrations import minari_format

    before = record(Reactive(balance), CARTPOLE, episodes=3, seed=0, source="here")
    folder = tmp_path / "cartpole-v0"
    minari_format.write(before, folder, CARTPOLE)
    after = load(folder)
    assert after.env_id == "CartPole-v1"
    for name in FIELDS:
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    theirs = list(MinariDataset(folder / "data").iterate_episodes())
    assert [len(episode.actions) for episode in theirs] == before.lengths.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["cartpole-v0"]
    with pytest.raises(UsageError, match="expected an env too"):
        minari_format.write(before, tmp_path / "other-v0", None)
    monkeypatch.chdir(tmp_path)
    minari_format.write(before, Path("demos-v0"), CARTPOLE)
    assert load("demos-v0").num_steps == before.num_steps


def test_hostile_minari_datasets(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = tmp_path / "d" / "data"
    data.mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected a Minari dataset in HDF5, with .*metadata"):
        load(tmp_path / "d")
    (data / "metadata.json").write_text('{"env_spec": "{\\"id\\": \\"a b\\"}"}')
    columns = {
        "observations": np.ones((4, 2)),
        "actions": np.ones((3, 1)),
        "rewards": np.ones(3),
        "terminations": np.zeros(3, bool),
        "truncations": np.zeros(3, bool),
    }

    def with_actions(add) -> Path:
        with h5py.File(data / "main_data.hdf5", "w") as file:
            group = file.create_group("episode_0")
            for key, column in columns.items():
                if key != "actions":
                    group[key] = column
            add(group)
        return tmp_path / "d"

    def huge(group) -> None:
        group.create_dataset("actions", shape=(10**12, 1), dtype="f8", chunks=(1000, 1))

    def elsewhere(group) -> None:
        group["actions"] = h5py.ExternalLink("/etc/passwd", "/actions")

    def bomb(group) -> None:  # a compressed chunk is expanded as a whole
        actions = group.create_dataset(
            "actions", (3, 1), "f8", maxshape=(None, 1), chunks=(5_000_000, 1), compression="gzip"
        )
        actions[:] = 1

    def odd_numbers(group) -> None:
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_ebias(100_000)
        h5py.h5d.create(group.id, b"actions", kind, h5py.h5s.create_simple((3, 1)))

    sound = load(with_actions(lambda group: group.create_dataset("actions", data=np.ones((3, 1)))))
    assert sound.num_steps == 3 and sound.env_id is None and sound.seed is None  # control
    for add, match in (
        (huge, "expands to 8000000000064 bytes, expected at most"),
        (bomb, "actions: expands to 40000000 bytes, expected at most 33554432"),
        (odd_numbers, "Insufficient precision in available types"),
        (lambda group: group.create_dataset("actions", data=np.ones((3, 1), "g")), "got float128"),
        (elsewhere, "episode_0/actions: missing"),
        (lambda group: None, "episode_0/actions: missing"),
        (lambda group: group.create_dataset("actions", data=np.ones((2, 1))), "got 4 rows, exp"),
        (lambda group: group.create_dataset("actions", data=["a"] * 3), "got object, expected"),
    ):
        with pytest.raises(DataError, match=match):
            load(with_actions(add))
    (tmp_path / "link").symlink_to(tmp_path / "d")
    with pytest.raises(DataError, match="link is a symbolic link, expected the folder itself"):
        load(tmp_path / "link")
    (data / "main_data.hdf5").write_bytes(b"\x89HDF nonsense")
    with pytest.raises(DataError, match=r"main_data\.hdf5"):
        load(tmp_path / "d")


# The arrays --------------------------------------------------------------------------------------


def test_arrays_cannot_be_changed(cartpole):
    for name in FIELDS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(cartpole, name)[:] = 0


def test_subset_keeps_trajectories_whole():
    whole = made([4, 1, 3])
    part = whole.subset([2, 0])
    assert part.lengths.tolist() == [3, 4]
    assert np.array_equal(part.obs, np.concatenate([whole.obs[5:8], whole.obs[:4]]))
    assert np.array_equal(part.final_obs, whole.final_obs[[2, 0]])
    assert part.seed.tolist() == whole.seed[[2, 0]].tolist()
    assert part.returns == pytest.approx(whole.returns[[2, 0]])
    assert np.shares_memory(whole.subset([0, 1]).obs, whole.obs)  # which leaves a file mapped


def test_kept_steps_are_every_kth_from_a_random_offset():
    d = made([1000, 7, 1, 45])
    kept = d.kept_steps(20, np.random.default_rng(0))
    trajectory = np.searchsorted(d.start, kept, side="right") - 1
    for e in range(4):
        steps = kept[trajectory == e]
        assert (np.diff(steps) == 20).all() and 0 <= steps[0] - d.start[e] < min(20, d.lengths[e])
    assert np.bincount(trajectory).tolist()[:3] == [50, 1, 1]
    offsets = {int(d.kept_steps(20, np.random.default_rng(s))[0]) for s in range(200)}
    assert offsets == set(range(20))
    assert d.kept_steps(1, np.random.default_rng(0)).tolist() == list(range(1053))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"start": np.array([0, 5, 4, 8])}, "start: expected numbers that rise from 0 to 8"),
        ({"start": np.array([0, 4, 5, 9])}, "start: expected numbers that rise from 0 to 8"),
        ({"start": np.array([0])}, "empty: 0 steps, expected"),
        ({"reward": np.ones(7)}, "reward: got 7 rows, expected 8, one for each action"),
        ({"seed": np.ones(2)}, "seed: got 2 rows, expected 3, one for each trajectory"),
        ({"final_obs": np.ones((3, 4))}, r"final_obs: got the shape \(4,\), expected \(3,\)"),
        ({"final_obs": np.full((3, 3), np.inf)}, r"final_obs: got inf at index \[0, 0\]"),
    ],
)
def test_arrays_that_do_not_fit_each_other(changes, match):
    with pytest.raises(DataError, match=match):
        replace(made([4, 1, 3]), **changes)


# The choice of an algorithm ----------------------------------------------------------------------


def test_chosen_demonstrations(tmp_path, monkeypatch):
    monkeypatch.setenv("RLZOO_COMMAND", "tools/rlzoo")
    path = tmp_path / "d.npz"
    path.write_bytes(encode(made([4, 1, 3]), "imitation"))
    config = DemonstrationsConfig(path=str(path))
    assert chosen(config).num_trajectories == 3
    assert chosen(replace(config, trajectories=2)).lengths.tolist() == [4, 1]
    with pytest.raises(
        UsageError, match=r"demonstrations\.trajectories: got 4, expected at most 3"
    ):
        chosen(replace(config, trajectories=4))
    with pytest.raises(UsageError, match=r"algo\.demonstrations\.path: got nothing, expected a f"):
        chosen(DemonstrationsConfig())
    missing = DemonstrationsConfig(path="no/x.npz", recipe="expert=HopperBulletEnv-v0 episodes=25")
    with pytest.raises(UsageError) as caught:
        chosen(missing)
    assert str(caught.value) == (
        "algo.demonstrations.path: no file 'no/x.npz'; make it with: "
        "tools/rlzoo demos record expert=HopperBulletEnv-v0 episodes=25 file=no/x.npz"
    )


# Recording and replaying -------------------------------------------------------------------------


def test_recording_keeps_what_the_policy_saw_did_and_got(cartpole):
    """Against a plain loop over gymnasium's own env."""
    import gymnasium

    env = gymnasium.make("CartPole-v1", max_episode_steps=150)
    for e in range(cartpole.num_trajectories):
        obs, _ = env.reset(seed=int(cartpole.seed[e]))
        for step in range(cartpole.start[e], cartpole.start[e + 1]):
            assert np.array_equal(obs, cartpole.obs[step])
            action = int(balance(obs[None], explore=False)[0])
            assert action == cartpole.action[step]
            obs, reward, terminated, truncated, _ = env.step(action)
            assert reward == cartpole.reward[step]
        assert terminated or truncated
        assert cartpole.terminated[e] == terminated
        assert np.array_equal(obs, cartpole.final_obs[e])
    assert cartpole.obs.dtype == np.float32 and cartpole.action.dtype == np.int64
    assert cartpole.env_id == "CartPole-v1"
    check_fits(cartpole, env.observation_space, env.action_space, "CartPole-v1")


def test_ends_are_told_apart():
    def push_right(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        return np.ones(len(obs_B), np.int64)

    falls = record(Reactive(push_right), CARTPOLE, episodes=2, seed=0, source="")
    assert falls.terminated.tolist() == [True, True] and falls.lengths.max() < 15
    short = replace(CARTPOLE, max_episode_steps=5)
    cut = record(Reactive(push_right), short, episodes=2, seed=0, source="")
    assert cut.terminated.tolist() == [False, False] and cut.lengths.tolist() == [5, 5]


def test_recorded_episodes_are_never_those_of_an_evaluation():
    seeds = record(
        Reactive(balance), replace(CARTPOLE, max_episode_steps=1), episodes=300, seed=0, source=""
    )
    recorded = set(seeds.seed.tolist())
    for purpose in (SELECT, TEST):  # by construction, whatever the run's seed
        others = {episode_seed(run, purpose, 0, k) % 3 for run in range(3) for k in range(50)}
        assert others.isdisjoint({seed % 3 for seed in recorded})
    train = {
        episode_seed(run, TRAIN, i, k) for run in range(3) for i in range(8) for k in range(99)
    }
    assert len(recorded) == 300 and recorded.isdisjoint(train)


def test_recording_is_a_function_of_its_seed(cartpole):
    again = record(Reactive(balance), CARTPOLE, episodes=4, seed=0, source="here")
    other = record(Reactive(balance), CARTPOLE, episodes=4, seed=1, source="here")
    assert np.array_equal(again.obs, cartpole.obs)
    assert set(other.seed.tolist()).isdisjoint(cartpole.seed.tolist())


def test_replay_from_the_recorded_seeds_repeats_the_recording(cartpole):
    make = partial(make_env, CARTPOLE)
    for e in range(cartpole.num_trajectories):
        begin, end = cartpole.start[e : e + 2]
        seen = [(episode.obs.copy(), episode.return_) for episode in replay(cartpole, e, make)]
        assert np.array_equal([obs for obs, _ in seen[:-1]], cartpole.obs[begin:end])
        assert np.array_equal(seen[-1][0], cartpole.final_obs[e])
        assert seen[-1][1] == cartpole.returns[e]
    unknown = replace(cartpole, seed=None)
    assert len(list(replay(unknown, 0, make))) < cartpole.lengths[0]


def test_observations_that_are_numbers(tmp_path):
    """A table's env: Discrete observations and actions, an end that is an arrival."""
    lake = EnvConfig(id="FrozenLake-v1", kwargs={"is_slippery": False}, restore="replay")
    way = dict(zip([0, 4, 8, 9, 13, 14], [1, 1, 2, 1, 2, 2], strict=True))

    def walk(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        return np.array([way[int(obs)] for obs in obs_B])

    (tmp_path / "d.npz").write_bytes(
        encode(record(Reactive(walk), lake, episodes=2, seed=0, source=""), "imitation")
    )
    read = load(tmp_path / "d.npz")
    assert read.obs.tolist() == [*way] * 2 and read.final_obs.tolist() == [15, 15]
    assert read.returns.tolist() == [1, 1] and read.terminated.all()
    found = fit_report(read, partial(make_env, lake))
    assert found.warnings == () and found.same_steps == (6, 6)
    assert [feature.name for feature in found.features] == ["obs"]


def test_an_action_beyond_the_limit_by_rounding_is_played():
    pendulum = EnvConfig(id="Pendulum-v1", restore="replay", max_episode_steps=5)

    def full(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        return np.full((1, 1), 2, np.float32)

    d = record(Reactive(full), pendulum, episodes=1, seed=0, source="here")
    make = partial(make_env, pendulum)
    beyond = replace(d, action=d.action.astype(np.float64) * (1 + 1e-7))
    assert len(list(replay(beyond, 0, make))) == 6
    with pytest.raises(
        DataError, match=r"action: got \[2\.2.*\] at step 0, expected float32 \(1,\) f"
    ):
        list(replay(replace(d, action=d.action * 1.1), 0, make))


# Whether they fit an env -------------------------------------------------------------------------


def moved(d: Demonstrations, feature: int, by: float) -> Demonstrations:
    offset = np.zeros(d.obs.shape[1], d.obs.dtype)
    offset[feature] = by
    return replace(d, obs=d.obs + offset)


def report(d: Demonstrations) -> demonstration_fit.FitReport:
    return fit_report(d, partial(make_env, CARTPOLE))


def test_demonstrations_from_the_env_itself_fit(cartpole):
    found = report(cartpole)
    assert found.warnings == ()
    assert found.replay_lengths == found.same_steps == found.recorded_lengths
    unknown = report(replace(cartpole, seed=None))
    assert unknown.same_steps is None
    assert len(unknown.features) == 4 and not any(f.is_foreign for f in unknown.features)
    assert report(moved(cartpole, 2, 1e-6)).warnings == ()  # rounding


@pytest.mark.parametrize("trajectories", [1, 4])
def test_a_feature_from_another_simulator_is_named(cartpole, trajectories):
    """A root height that starts at 1.25 in one simulator and at 0 in the other."""
    shifted = moved(replace(cartpole, seed=None).subset(range(trajectories)), 2, 1.25)
    [warning] = [line for line in report(shifted).warnings if line.startswith("obs")]
    assert warning.startswith("obs[2] alone tells the demonstrations from the env")
    assert "AUC 1.000" in warning


def test_actions_that_carry_no_further_than_random_ones(cartpole):
    useless = replace(cartpole, seed=None, action=np.zeros_like(cartpole.action))
    [warning] = report(useless).warnings
    assert warning.startswith("the recorded actions end an episode after 10 steps (median), random")


def test_seeds_that_belong_to_another_env(cartpole):
    [warning] = report(replace(cartpole, seed=cartpole.seed + 3)).warnings
    assert warning.startswith("from the recorded seeds, the recorded actions give other obs")
    assert "after 0 steps" in warning


def test_other_spaces_are_refused_before_anything_is_played():
    with pytest.raises(DataError, match="obs: got float32 "):
        report(made([4]))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_auc_counts_pairs(first, second):
    pairs = [(x > y) + 0.5 * (x == y) for x in first for y in second]
    assert auc(np.array(first), np.array(second)) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("trajectories", [1, 4, 25])
def test_alarms_by_accident_are_rare(trajectories):
    rng = np.random.default_rng(trajectories)
    alpha = demonstration_fit.FAMILY_ERROR / 15
    samples = [(rng.normal(size=trajectories), rng.normal(size=100)) for _ in range(3000)]
    alarms = [demonstration_fit._is_foreign(x, y, 0.0, alpha) for x, y in samples]
    assert sum(alarms) <= 2
    assert all(demonstration_fit._is_foreign(x + 20, y, 0.0, alpha) for x, y in samples[:100])


# The experts of the pybullet wheel ---------------------------------------------------------------

SOURCE = """
import os
os.mkdir({canary!r})
weights_dense1_w = np.array([[+1.0, -1.0], [0.0, 2.0]])
weights_dense1_b = np.array([0.0, +0.5])
weights_dense2_w = np.array([[1.0], [1.0]])
weights_dense2_b = np.array([-1.0])
weights_final_w = np.array([[0.25]])
weights_final_b = np.array([0.1])
"""


def test_an_expert_is_read_from_text_that_is_not_run(tmp_path):
    source = SOURCE.format(canary=str(tmp_path / "canary"))
    expert = experts.parse(source, "file.py")
    # [2, 1]: hidden (2, 0 + .5), sum - 1 = 1.5, / 4 + .1; the second input is cut to the limit
    action = expert.act(np.array([[2, 1], [9, 9]], np.float32), explore=False)
    assert action.shape == (2, 1)
    assert action[:, 0] == pytest.approx([0.475, 1.0]) and action.dtype == np.float32
    assert not (tmp_path / "canary").exists()
    evil = source.replace("np.array([-1.0])", f"np.array(os.mkdir({str(tmp_path / 'c')!r}))")
    with pytest.raises(DataError, match=r"file\.py: weights_dense2_b: expected rows of numbers"):
        experts.parse(evil, "file.py")
    exec(compile(ast.parse("import os\n" + source.split("weights")[0]), "f", "exec"))  # control
    assert (tmp_path / "canary").exists() and not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("weights_final_b", "other", "weights_final_b: missing"),
        ("[[1.0], [1.0]]", "[[1.0]]", r"weights_dense2_w: got the shape \(1, 1\)"),
        ("[0.1]", "[0.1, 0.2]", r"weights_final_w: got the shape \(1, 1\)"),
    ],
)
def test_text_that_holds_no_expert(old, new, match):
    with pytest.raises(DataError, match=match):
        experts.parse(SOURCE.format(canary="").replace(old, new), "file.py")


@needs_pybullet
def test_the_hopper_expert_hops():
    expert = experts.load_expert("HopperBulletEnv-v0")
    assert (expert.num_obs, expert.num_actions) == (15, 3)
    hopper = EnvConfig(id="rlzoo.envs.zoo.bullet:HopperBulletEnv-v0", restore="settle")
    demonstrations = record(Reactive(expert.act), hopper, episodes=2, seed=0, source="")
    assert (demonstrations.returns > 2400).all() and demonstrations.env_id == "HopperBulletEnv-v0"
    with pytest.raises(UsageError, match=r"got 'HopperBullet', expected one of AntBulletEnv-v0"):
        experts.load_expert("HopperBullet")


@needs_pybullet
@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "low", "high"),
    [("HopperBulletEnv-v0", 2500, 2600), ("AntBulletEnv-v0", 2300, 2450)],
)
def test_scores_of_the_experts(env_id, low, high):
    """Medians of 20 episodes; now and then the hopper falls early."""
    env = EnvConfig(id=f"rlzoo.envs.zoo.bullet:{env_id}", restore="settle")
    played = record(Reactive(experts.load_expert(env_id).act), env, episodes=20, seed=0, source="")
    assert low < np.median(played.returns) < high


def test_an_env_that_is_closed_early_is_closed(cartpole):
    closed = []

    class Watched(EpisodeEnv):
        def close(self) -> None:
            closed.append(True)
            super().close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlzoo.envs.play.EpisodeEnv", Watched)
        frames = replay(cartpole, 0, partial(make_env, CARTPOLE))
        next(frames)
        frames.close()
    assert closed == [True]
