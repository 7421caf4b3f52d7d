"""Composition, presets and overrides; every file under conf/ composes, fits and runs small."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from experts import with_demonstrations
from hydra.errors import ConfigCompositionException

from rlzoo.core import registry
from rlzoo.core.types import DataError, UsageError
from rlzoo.io.run_dir import RunDir
from rlzoo.run import config as configuration
from rlzoo.run.build import Builder, build
from rlzoo.run.config import (
    CONF_DIR,
    compose,
    from_mapping,
    groups,
    plain,
    sweep_jobs,
    with_overrides,
)
from rlzoo.run.run import Run
from rlzoo.run.saved import source_of

FILES = [(file.parent.name, file.stem) for file in sorted(CONF_DIR.glob("*/*.yaml"))]
EXPERIMENTS = groups()["experiment"]
BULLET = ("hopper_bullet", "walker2d_bullet", "half_cheetah_bullet", "ant_bullet", "hopper11")
NEEDS = {  # what must be chosen with an option so that the whole can work
    ("algo", "gail_as_printed"): ["env=lunarlander_continuous"],
    ("algo", "world_models"): ["env=car_racing_fast"],
    ("env", "gym"): ["env.id=CartPole-v1"],
    **{("env", env): ["algo=ppo"] for env in ("lunarlander_continuous", "hopper_mujoco")},
    **{("env", env): ["algo=ppo"] for env in BULLET},
    **{("env", f"car_racing{backend}"): None for backend in ("", "_fast", "_envpool")},  # images
    ("env", "takecover"): ["algo=ppo"],
    ("network", "nature_cnn"): None,  # no env with stacks of frames
    ("experiment", "world_models_car_racing_iterative"): [
        f"algo.source={CONF_DIR.parent / 'outputs/pretrained/world_models_car_racing'}",
        "algo.vision.latent_size=32",  # as the source's, also where debug=tiny
        "algo.memory.hidden_size=256",
    ],
}
NAMED_OTHERWISE = (  # after what they reproduce, or how they explore
    "gail_chapter",
    "gail_chapter_as_printed",
    "ppo_hopper_bullet_gaussian",
    *(name for name in EXPERIMENTS if name.startswith("world_models_car_racing")),
)
PACKAGES = dict.fromkeys(BULLET, "pybullet")
PACKAGES |= {"car_racing_envpool": "envpool"}
PACKAGES |= {"hopper_mujoco": "imageio", "takecover": "vizdoom"}  # MuJoCo draws with imageio


def skip_without_its_package(option: str) -> None:
    """Some envs, which name themselves in their presets, need packages that are not everywhere."""
    for env, package in PACKAGES.items():
        if env in option:
            pytest.importorskip(package)


def words_for(group: str, option: str) -> list[str] | None:
    needed = NEEDS.get((group, option), [])
    if needed is None:
        return None
    words = [f"{group}={option}", *needed]
    if group in ("network", "replay"):
        words.append("algo=dqn")
    if group == "algo" and not needed and "network" not in registry.get("algo", option)[0].needs:
        words.append("env=frozenlake")
    return words


@pytest.mark.parametrize(("group", "option"), FILES, ids=["/".join(pair) for pair in FILES])
def test_every_file_composes_and_makes_a_step(group, option):
    words = words_for(group, option)
    if group in ("env", "experiment"):
        skip_without_its_package(option)
    if words is None:
        with pytest.raises(UsageError):
            build(compose([f"{group}={option}", "algo=dqn", "experiment=none"]))
        return
    config = compose([*words, *(["debug=tiny"] if group != "debug" else [])])
    if config.env.name in PACKAGES:
        pytest.importorskip(PACKAGES[config.env.name])
    assert from_mapping(yaml.safe_load(configuration.to_yaml(config))) == config
    algorithm = Builder(with_demonstrations(config)).build(source=source_of(config))
    algorithm.step()
    algorithm.env.close()


@pytest.mark.parametrize(("group", "option"), FILES, ids=["/".join(pair) for pair in FILES])
def test_every_file_says_what_it_is(group, option):
    assert 10 < len(configuration.description(group, option)) < 110


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_named_after_what_they_choose(name):
    skip_without_its_package(name)
    config = compose(words_for("experiment", name))
    if name not in NAMED_OTHERWISE:
        assert name == f"{config.algo.name}_{config.env.name}"
    package = PACKAGES.get(config.env.name)
    if package is not None:
        pytest.importorskip(package)
    Builder(config).check_spaces()


@pytest.mark.parametrize("name", ["dqn_cartpole", "q_learning_cliffwalking"])
def test_experiments_run_through_when_tiny(name, tmp_path):
    config = compose([f"experiment={name}", "debug=tiny", "logger=jsonl"])
    run = Run(config, RunDir.claim_at(tmp_path / "run"), lambda: False)
    assert run.train() == "finished"
    assert (tmp_path / "run" / "result.json").exists()


# --- presets, and who wins -------------------------------------------------------------------


@pytest.mark.parametrize("env", ["car_racing_fast", "car_racing_envpool"])
def test_a_preset_for_the_env_under_a_shorter_name_is_pointed_out(env):
    notes: list[str] = []
    config = compose(["algo=world_models", f"env={env}"], note=notes.append)
    assert notes == [f"no preset for env={env}; there is experiment=world_models_car_racing"]
    assert config.algo.collect.episodes == 10_000, "it is not used"
    notes.clear()
    compose(["algo=world_models", f"env={env}", "experiment=none"], note=notes.append)
    assert not notes


def test_tuned_preset_is_used_and_noted():
    notes: list[str] = []
    config = compose(["algo=q_learning", "env=cliffwalking"], note=notes.append)
    assert notes == ["using experiment=q_learning_cliffwalking (experiment=none turns it off)"]
    assert (config.algo.alpha, config.total_env_steps) == (0.5, 30_000)
    assert config == compose(["experiment=q_learning_cliffwalking"])


@pytest.mark.parametrize("none", ["none", "null"])
def test_no_preset_where_it_is_turned_off(none):
    notes: list[str] = []
    words = ["algo=q_learning", "env=cliffwalking", f"experiment={none}"]
    config = compose(words, note=notes.append)
    assert notes == []
    assert config.algo.alpha == 0.1


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        (["env=gym", "env.id=CartPole-v1"], "dqn_cartpole"),
        (["algo=ppo", "env=gym", "env.id=Hopper-v5"], "ppo_hopper_mujoco"),
        (["algo=world_models", "env=gym", "env.id=CarRacing-v3"], "world_models_car_racing"),
        (
            ["algo=gail", "env=gym", "env.id=rlzoo.envs.zoo.bullet:HopperBulletEnv-v0"],
            "gail_hopper_bullet",
        ),
    ],
)
def test_a_preset_for_the_env_by_its_id_is_pointed_out(words, preset):
    notes: list[str] = []
    compose(words, note=notes.append)
    assert notes == [f"no preset for env=gym; there is experiment={preset}"]


def test_the_obvious_words_find_the_preset_of_car_racing():
    notes: list[str] = []
    config = compose(["algo=world_models", "env=car_racing"], note=notes.append)
    assert notes == ["using experiment=world_models_car_racing (experiment=none turns it off)"]
    assert (config.env.id, config.algo.collect.episodes) == ("CarRacing-v3", 400)


@pytest.mark.parametrize(
    ("id", "name"),
    [("Pendulum-v1", "Pendulum-v1"), ("rlzoo.envs.zoo.bullet:AntBulletEnv-v0", "AntBulletEnv-v0")],
)
def test_runs_of_any_gymnasium_env_are_named_after_its_id(id, name):
    assert compose(["algo=ppo", "env=gym", f"env.id={id}"]).env.name == name
    assert compose(["algo=ppo", "env=gym", f"env.id={id}", "env.name=mine"]).env.name == "mine"
    assert compose(["env=cartpole", "env.id=Acrobot-v1"]).env.name == "cartpole"


@pytest.mark.parametrize("words", [["algo=sarsa", "env=taxi"], ["env=gym", "env.id=Pendulum-v1"]])
def test_no_preset_where_there_is_none(words):
    notes: list[str] = []
    compose(words, note=notes.append)
    assert notes == []


def test_explicit_words_win_over_presets_in_any_order():
    words = ["algo.alpha=0.25", "algo=q_learning", "eval.episodes=3", "env=cliffwalking"]
    config = compose(words)
    assert (config.algo.alpha, config.eval.episodes) == (0.25, 3)
    assert config.algo.epsilon_start == 0.1, "the rest is the preset's"


def test_another_env_or_algorithm_beside_an_experiment():
    config = compose(["experiment=dqn_cartpole", "env=acrobot"])
    assert (config.env.id, config.algo.lr) == ("Acrobot-v1", 2.3e-3)
    config = compose(["experiment=q_learning_taxi", "algo=sarsa"])
    assert (config.algo.name, config.algo.alpha) == ("sarsa", 0.5)
    with pytest.raises(UsageError, match=r"experiment=dqn_cartpole does not fit algo=q_learning"):
        compose(["experiment=dqn_cartpole", "algo=q_learning"])
    with pytest.raises(UsageError, match=r"^unknown setting 'algo.alhpa'"):  # not blamed on it
        compose(["experiment=q_learning_taxi", "algo=sarsa", "algo.alhpa=1"])


# --- debug=tiny ------------------------------------------------------------------------------


def test_tiny_is_small_in_every_way():
    config = compose(["experiment=dqn_cartpole", "debug=tiny"])
    assert config.total_env_steps <= 1000
    assert config.algo.batch_size <= 32
    assert max(config.network.hidden) <= 32
    assert config.replay.capacity <= 1000
    assert config.eval.test_episodes <= 2
    assert config.algo.lr == 2.3e-3, "what is no size is left as it is"
    algorithm = build(config)
    while not algorithm.done():
        algorithm.step()
    algorithm.env.close()
    assert 20 <= algorithm.counters.updates <= 200


@pytest.mark.parametrize("num_envs", [1, 2, 3, 4, 8])
def test_tiny_goes_with_several_envs(num_envs):
    assert compose(["algo=dqn", "debug=tiny", f"env.num_envs={num_envs}"]).algo.batch_size == 16


def test_explicit_words_win_over_tiny():
    config = compose(["algo=dqn", "debug=tiny", "algo.batch_size=24", "network.hidden=[5]"])
    assert (config.algo.batch_size, config.network.hidden) == (24, (5,))
    assert config.replay.capacity == 500


def test_every_size_in_tiny_is_a_setting_somewhere():
    tree = yaml.safe_load((CONF_DIR / "debug" / "tiny.yaml").read_text())["where_known"]
    for kind, sizes in tree.items():
        classes = [registry.get(kind, name)[1] for name in registry.names(kind)]
        known = {field.name for cls in classes for field in dataclasses.fields(cls)}
        assert sizes.keys() <= known


# --- words and sweeps ------------------------------------------------------------------------


def test_values_keep_their_types():
    words = ["algo=q_learning", "env=cliffwalking", "total_env_steps=1e3", "algo.alpha=1"]
    words += ["env.kwargs={is_slippery: true}", "output_dir='a b'", "logger.tensorboard=false"]
    config = compose([*words, "save_every=200_000"])
    assert (config.total_env_steps, config.save_every) == (1000, 200_000)
    assert isinstance(config.algo.alpha, float)
    assert config.env.kwargs == {"is_slippery": True}
    assert (config.output_dir, config.logger.tensorboard) == ("a b", False)


def test_plus_signs_make_no_difference():
    plain_words = ["algo=q_learning", "algo.alpha=0.3", "env=taxi"]
    assert compose(plain_words) == compose(["+algo=q_learning", "++algo.alpha=0.3", "+env=taxi"])


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        (["seed=1"], [["seed=1"]]),
        (["seed=0,1", "a.x=2"], [["seed=0", "a.x=2"], ["seed=1", "a.x=2"]]),
        (["s=0,1", "t=a,b"], [["s=0", "t=a"], ["s=0", "t=b"], ["s=1", "t=a"], ["s=1", "t=b"]]),
        (["s=range(0,3)"], [["s=0"], ["s=1"], ["s=2"]]),
        (["s=choice(3,4)"], [["s=3"], ["s=4"]]),
        (["s=1e-3,3e-4"], [["s=0.001"], ["s=0.0003"]]),
        (["h=[1,2],[3]"], [["h=[1,2]"], ["h=[3]"]]),
        (["p='a b',c"], [["p='a b'"], ["p=c"]]),
        (["p='a,b'"], [["p='a,b'"]]),
        (["algo=q_learning,sarsa"], [["algo=q_learning"], ["algo=sarsa"]]),
        (["replay=glob(*)"], [["replay=prioritized"], ["replay=uniform"]]),
        (["p=${x}", "s=1,2"], [["p=${x}", "s=1"], ["p=${x}", "s=2"]]),
    ],
)
def test_sweep_jobs(words, jobs):
    assert sweep_jobs(words) == jobs


# --- saved configurations --------------------------------------------------------------------


def test_overrides_on_a_saved_configuration():
    saved = plain(compose(["algo=q_learning", "env=frozenlake"]))
    config, differences = with_overrides(saved, ["algo.alpha=0.25", "algo=q_learning", "seed=0"])
    assert config.algo.alpha == 0.25
    assert differences == {"algo.alpha": (1.0, 0.25)}
    assert with_overrides(saved, [])[0] == from_mapping(saved)
    saved = plain(compose(["algo=dqn", "env=cartpole"]))
    faster = ["env.backend=process", "env.workers=2", "env.timeout_seconds=5"]
    assert len(with_overrides(saved, faster)[1]) == 3, "where envs run is no part of the identity"


@pytest.mark.parametrize(
    "word", ["seed=1", "env.num_envs=2", "env.kwargs.map_name=8x8", "env.kwargs={}", "algo=sarsa"]
)
def test_identity_cannot_change(word):
    saved = plain(compose(["algo=q_learning", "env=frozenlake"]))
    with pytest.raises(UsageError, match="start a new run"):
        with_overrides(saved, [word])


@pytest.mark.parametrize(
    ("algo", "word"),
    [
        ("ppo", "algo.log_std_init=-3"),
        ("trpo", "algo.orthogonal_init=False"),
        ("gail", "algo.ppo.log_std_init=-3"),
        ("bc", "algo.log_std_init=-3"),
        ("sarsa", "algo.initial_value=1"),
        ("ppo", "output_dir=elsewhere"),
    ],
)
def test_what_only_the_beginning_of_a_run_reads_cannot_change(algo, word):
    env = "env=frozenlake" if algo == "sarsa" else "env=lunarlander_continuous"
    saved = plain(compose([f"algo={algo}", env, "experiment=none"]))
    with pytest.raises(UsageError, match=rf"{word}\S* would change what the run is"):
        with_overrides(saved, [word])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": None}, "algo: got None"),
        ({"algo": "dqn"}, "algo: got 'dqn'"),
        ({"algo": {"name": 3}}, "algo: got"),
        ({"algo": {"name": "nope"}}, "unknown algo 'nope'"),
        ({"network": {"hidden": [3]}}, "network: got"),
        ({"env": {"name": "x"}}, "env.id: got nothing"),
        ({"plugins": 3}, "plugins: got 3"),
        ({"extra": 1}, "unknown setting 'extra'"),
        ({"eval": [1]}, "eval: got"),
    ],
)
def test_strict_check_of_a_mapping(change, message):
    values = {**plain(compose(["algo=q_learning", "env=taxi"])), **change}
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        from_mapping(values)


@pytest.mark.parametrize("text", ["[1]", "a: [", "!!python/object:os.system {}", "", "\t-"])
def test_unreadable_yaml_is_bad_data(text):
    with pytest.raises(DataError, match=r"^run/config\.yaml"):
        configuration.load_yaml(text, "run/config.yaml")


def test_a_branch_takes_the_settings_of_its_source():
    saved = plain(
        compose(["algo=world_models", "env=car_racing_fast", "algo.vision.latent_size=8"])
    )
    words = ["algo.phases=[vision]", "algo.source='/a/run'", "seed=7"]
    config = configuration.branched(saved, words)
    assert (config.algo.phases, config.algo.source, config.seed) == (("vision",), "/a/run", 7)
    assert config.algo.vision.latent_size == 8
    with pytest.raises(UsageError, match=r"resume: algo\.vision\.latent_size=4 would change"):
        with_overrides(saved, ["algo.vision.latent_size=4"])  # a nested fixed setting
    with pytest.raises(UsageError, match=r"unknown setting 'algo\."):
        configuration.branched(plain(compose(["algo=ppo"])), words)


def test_debug_leaves_explicit_nested_settings_alone():
    words = ["algo=world_models", "env=car_racing_fast", "debug=tiny"]
    config = compose([*words, "algo.vision.latent_size=7"])
    assert config.algo.vision.latent_size == 7 and config.algo.vision.epochs == 1


@pytest.mark.parametrize("wrap", [ConfigCompositionException, None])
def test_an_interrupt_that_hydra_hides_is_still_one(wrap, monkeypatch):
    """OmegaConf can fail at cleaning up after Ctrl-C: out comes an error of its own."""

    def interrupted(*_):
        try:
            try:
                raise KeyboardInterrupt
            finally:
                None._invalidate_flags_cache()  # what it came from
        except AttributeError as error:
            if wrap is None:
                raise
            raise wrap() from error

    monkeypatch.setattr("hydra.compose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compose(["algo=dqn", "env=cartpole"])


def test_an_error_of_hydra_is_not_an_interrupt(monkeypatch):
    def broken(*_):
        raise ConfigCompositionException("of itself")

    monkeypatch.setattr("hydra.compose", broken)
    with pytest.raises(UsageError, match=r"^configuration: of itself$"):
        compose(["algo=dqn", "env=cartpole"])
