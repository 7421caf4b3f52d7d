"""Names to classes: lazily, strictly, and open to plug-ins."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass

import pytest
from hydra.core.config_store import ConfigStore

from rlzoo.algos.tabular import QLearningConfig
from rlzoo.core import registry
from rlzoo.core.settings import setting
from rlzoo.core.types import UsageError
from rlzoo.run import config as configuration
from rlzoo.run import plugins


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", copy.deepcopy(registry._ENTRIES))
    monkeypatch.setattr(plugins, "conf_dirs", [])


@pytest.mark.parametrize("kind", ["algo", "network", "replay"])
def test_every_entry_loads(kind):
    for name in registry.names(kind):
        cls, config = registry.get(kind, name)
        assert callable(cls)
        assert config().name in registry.names(kind)


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown algo 'sasra'. Did you mean 'sarsa'\? Known: "):
        registry.get("algo", "sasra")


def test_register():
    registry.register("algo", "mine", "my_module:Mine", "my_module:MineConfig")
    registry.register("algo", "mine", "my_module:Mine", "my_module:MineConfig")
    assert "mine" in registry.names("algo")
    with pytest.raises(UsageError, match="'mine' is already registered as my_module:Mine"):
        registry.register("algo", "mine", "other:Mine", "other:MineConfig")
    with pytest.raises(UsageError, match="'dqn' is already registered"):
        registry.register("algo", "dqn", "other:DQN", "other:DQNConfig")
    with pytest.raises(UsageError, match=r"unknown kind 'algos'. Did you mean 'algo'\?"):
        registry.register("algos", "mine", "my_module:Mine", "my_module:MineConfig")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A plug-in in the current directory: another name for Q-learning, without a YAML file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    target = '"rlzoo.algos.tabular:QLearning", "rlzoo.algos.tabular:QLearningConfig"'
    text = f'from rlzoo.core import registry\nregistry.register("algo", "second_q", {target})\n'
    (tmp_path / "second_plugin.py").write_text(text)
    yield tmp_path
    sys.modules.pop("second_plugin", None)
    ConfigStore.instance().repo["algo"].pop("second_q.yaml", None)  # there is one in a process


def test_plugin_without_a_yaml_file(plugin):
    config = configuration.compose(["plugins=[second_plugin]", "algo=second_q", "env=taxi"])
    assert config.algo.name == "second_q"
    assert config.plugins == ("second_plugin",)


@dataclass(frozen=True)
class FixedConfig(QLearningConfig):
    name: str = "fixed"
    double: bool = setting(False, "gives the tables their shape", fixed=True)


def test_fixed_setting_of_a_plugin_cannot_change_on_resume():
    registry.register("algo", "fixed", "rlzoo.algos.tabular:QLearning", f"{__name__}:FixedConfig")
    saved = {"algo": {"name": "fixed"}, "env": {"id": "Taxi-v4"}}
    assert configuration.with_overrides(saved, ["algo.alpha=0.5", "algo.double=false"])
    with pytest.raises(UsageError, match=r"algo\.double=True would change what the run is"):
        configuration.with_overrides(saved, ["algo.double=true"])


def test_plugin_is_found_wherever_its_name_stands(plugin):
    words = ["algo=second_q", "env=taxi", "+plugins=[ 'second_plugin' ]"]
    assert configuration.compose(words).algo.name == "second_q"


def test_saved_configuration_imports_nothing_by_itself(plugin):
    saved = {"algo": {"name": "second_q"}, "env": {"id": "Taxi-v4"}, "plugins": ["second_plugin"]}
    with pytest.raises(UsageError, match=r"names second_plugin.*add plugins=\[second_plugin\]"):
        configuration.branched(saved, [])
    assert "second_plugin" not in sys.modules
    assert configuration.branched(saved, ["plugins=[second_plugin]"]).algo.name == "second_q"
    assert configuration.branched(saved, []).algo.name == "second_q"  # named once in this process


def test_conf_folder_beside_a_plugin(plugin):
    (plugin / "conf" / "algo").mkdir(parents=True)
    (plugin / "conf" / "algo" / "second_q.yaml").write_text("# Two\nname: second_q\nalpha: 0.75\n")
    (plugin / "conf" / "experiment").mkdir()
    experiment = "# @package _global_\n# Theirs\ndefaults: [override /algo: second_q, _self_]\n"
    (plugin / "conf" / "experiment" / "theirs.yaml").write_text(experiment + "seed: 7\n")
    config = configuration.compose(["plugins=[second_plugin]", "experiment=theirs", "env=taxi"])
    assert (config.algo.name, config.algo.alpha, config.seed) == ("second_q", 0.75, 7)
    assert "theirs" in configuration.groups()["experiment"]
    assert configuration.description("algo", "second_q") == "Two"


def test_installed_plugin_is_found_by_its_entry_point(plugin, monkeypatch):
    info = plugin / "second-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: second\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlzoo.plugins]\nsecond = second_plugin\n")
    sys.path.append(str(plugin))
    plugins._installed_plugins.cache_clear()
    try:
        assert configuration.compose(["algo=second_q", "env=taxi"]).algo.name == "second_q"
    finally:
        plugins._installed_plugins.cache_clear()
