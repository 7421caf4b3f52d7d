"""From command-line words to one checked, frozen RunConfig. The only user of Hydra and OmegaConf.

Hydra composes the groups under conf/; every value override is handed to it as `++key=value`, so
that it never stops at an unknown key. The strict reader then does, with the nearest known one.
Defaults live in the dataclasses alone, YAML files hold only what differs (docs/configuration.md).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from rlzoo.core import registry
from rlzoo.core.settings import nearest, plain, setting
from rlzoo.core.types import DataError, UsageError
from rlzoo.io.migrations import RENAMED
from rlzoo.run import plugins
from rlzoo.run.strict import read

# A checkout has conf/ at its top level; the wheel carries a copy inside the package.
_PACKAGE = Path(__file__).parents[1]
_PACKAGED = _PACKAGE / "conf"
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent / "conf"
KINDS = ("algo", "network", "replay")  # groups whose options have classes in the registry
MANY = 24  # more choices than this are not listed in a line
OPTIONAL_GROUPS = ("experiment", "debug")  # "none" is a choice


@dataclass(frozen=True)
class RunConfig:
    """Everything that one training run depends on."""

    algo: Any
    env: Any
    network: Any
    replay: Any
    eval: Any
    logger: Any
    seed: int = setting(0, "run seed: everything random derives from it", low=0, high=2**31 - 1)
    total_env_steps: int = setting(
        50_000, "length of the run: env steps of all envs together (bc takes none)", low=1
    )
    log_every: int = setting(
        1000,
        "metrics are written this often: in env steps, or in what else the progress bar counts "
        "(minibatches for bc, the units of each phase for world_models)",
        low=1,
    )
    save_every: int = setting(10_000, "a checkpoint is saved this often, likewise", low=1)
    save_every_seconds: float | None = setting(
        300.0, "... and after so many seconds without one (null: never)", above=0
    )
    keep_checkpoints: int = setting(2, "newest checkpoints kept, besides the best one", low=1)
    threads: int = setting(1, "torch threads; small networks are slower with more", low=1)
    device: Literal["cpu", "cuda"] = setting("cpu", "where networks live")
    compile: bool = setting(False, "compile whole updates (needs a C++ compiler; starts slower)")
    output_dir: str = setting("outputs", "runs are made in its folder runs/, sweeps in sweeps/")
    plugins: tuple[str, ...] = setting((), "modules to import first, such as my_package.my_algo")


def _conf_dirs() -> tuple[Path, ...]:
    return CONF_DIR, *plugins.conf_dirs


def groups() -> dict[str, list[str]]:
    """The config groups and their options, from the file names under conf/ and the registry."""
    found = {kind: set(registry.names(kind)) for kind in KINDS}
    for root in _conf_dirs():
        for file in root.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def description(group: str, option: str) -> str:
    """The one-line comment that each YAML file begins with."""
    for root in _conf_dirs():
        file = root / group / f"{option}.yaml"
        if file.is_file():
            for line in file.read_text().splitlines():
                if line.startswith("# ") and not line.startswith("# @"):
                    return line[2:].strip()
    return ""


@dataclass(frozen=True)
class Override:
    """One checked word of the command line: `group=option` or `dotted.key=value`."""

    key: str
    value: Any  # None for a sweep
    is_group: bool
    sweep: tuple[str, ...]  # the words that a comma list or range stands for
    word: str  # without Hydra's + or ++, which make no difference here


def parse(words: Sequence[str]) -> list[Override]:
    """Check the words of a command line without composing: grammar, group names and options."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    plugins.load_plugins(_plugins_named_in(words))
    known = groups()
    options_of: Any = SimpleNamespace(get_group_options=lambda group, **_: known.get(group, []))
    parser = OverridesParser.create(config_loader=options_of)  # for sweeps such as env=glob(*)
    overrides = []
    for given in words:
        word = given.lstrip("+")
        _check_key(word)
        try:
            [parsed] = parser.parse_overrides([word])
            is_sweep = parsed.is_sweep_override()
            values = list(parsed.sweep_string_iterator()) if is_sweep else [parsed.value()]
        except HydraException as error:
            raise UsageError(f"cannot read {given!r}: {error}") from error
        key = parsed.key_or_group
        sweep = tuple(f"{key}={value}" for value in values) if is_sweep else ()
        value = None if is_sweep else values[0]
        if key in known and not sweep:
            value = _check_option(key, "none" if value is None else str(value), known[key])
        overrides.append(Override(key, value, key in known, sweep, word))
    return overrides


def _check_key(word: str) -> None:
    key, equals, value = word.partition("=")
    if word.startswith("~"):
        raise UsageError(f"'{word}': settings cannot be removed, only given another value")
    if re.match(r"hydra\b", key):
        raise UsageError(f"'{word}': Hydra's own settings are not used here (see rlzoo --help)")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UsageError(f"cannot read {word!r}: expected key=value, such as algo=dqn or seed=1")
    if key in RENAMED:
        raise UsageError(f"unknown setting '{key}'. It is called '{RENAMED[key]}' now")
    if key.startswith("where_known"):
        raise UsageError(f"unknown setting '{key}': that is for files such as conf/debug/tiny.yaml")
    if key in {f"{kind}.name" for kind in KINDS}:
        raise UsageError(f"'{word}': the choice of a group is made with {key[:-5]}={value}")


def _check_option(group: str, option: str, known: Sequence[str]) -> str:
    if option in known or (option == "none" and group in OPTIONAL_GROUPS):
        return option
    hint = ""
    if group == "env":
        hint = f" Any gymnasium env: env=gym env.id={option if '-v' in option else 'ID'}."
    listed = ", ".join(known) if len(known) <= MANY else f"see rlzoo list {group}"
    raise UsageError(f"unknown {group} '{option}'.{nearest(option, known)}{hint} Known: {listed}")


def _plugins_named_in(words: Sequence[str]) -> list[str]:
    for word in words:
        name, _, value = word.lstrip("+").partition("=")
        if name == "plugins":
            return [item.strip(" '\"") for item in value.strip("[]").split(",") if item.strip()]
    return []


def sweep_jobs(words: Sequence[str]) -> list[list[str]]:
    """Every combination of a multirun's comma lists and ranges, in Hydra's own sweep grammar."""
    choices = [override.sweep or (override.word,) for override in parse(words)]
    return [list(job) for job in itertools.product(*choices)]


def _silent(line: str) -> None: ...


def compose(words: Sequence[str] = (), *, note: Callable[[str], None] = _silent) -> RunConfig:
    """The checked configuration for the words of a command line, or a one-line UsageError.

    Where there is a tuned preset <algo>_<env> and no experiment is named, it is used and noted. One
    for the same env under a shorter name (car_racing for car_racing_fast) is only pointed out.
    """
    overrides = parse(words)
    for override in overrides:
        if override.sweep:
            raise UsageError(f"'{override.word}' is a sweep: put -m before it")
    chosen = {o.key: o.value for o in overrides if o.is_group}
    preset = f"{chosen.get('algo', 'dqn')}_{chosen.get('env', 'cartpole')}"
    presets = groups().get("experiment", []) if "experiment" not in chosen else []
    if preset in presets:
        note(f"using experiment={preset} (experiment=none turns it off)")
        return _compose([*overrides, *parse([f"experiment={preset}"])])
    for name in presets:
        if preset.startswith(f"{name}_"):
            note(f"no preset for env={chosen['env']}; there is experiment={name}")
    try:
        return _compose(overrides)
    except UsageError as error:
        if not {"algo", "experiment"} <= chosen.keys():
            raise
        with suppress(UsageError):
            _compose([o for o in overrides if o.key != "experiment"])
            error = UsageError(
                f"experiment={chosen['experiment']} does not fit algo={chosen['algo']}: {error}"
            )
        raise error from None


def _compose(overrides: Sequence[Override]) -> RunConfig:
    words = []
    for override in overrides:
        if not override.is_group:
            words.append("++" + override.word)  # so that Hydra takes any key: we check them all
        elif override.value != "none":
            words.append(f"{override.key}={override.value}")
    values = _compose_with_hydra(words)
    _apply_where_known(values, explicit={override.key for override in overrides})
    return from_mapping(values)


def _apply_where_known(values: dict[str, Any], explicit: set[str]) -> None:
    """Merge the tree `where_known`: each setting where the chosen algorithm, network ... has it."""
    for kind, settings in (values.pop("where_known", None) or {}).items():
        chosen = (values.get(kind) or {}).get("name")
        if chosen in registry.names(kind):
            known = {f.name for f in fields(registry.get(kind, chosen)[1])}
            names = [n for n in settings if n in known and f"{kind}.{n}" not in explicit]
            for name in names:
                if isinstance(settings[name], Mapping):  # nested settings keep their others
                    path = f"{kind}.{name}"
                    new = {k: v for k, v in settings[name].items() if f"{path}.{k}" not in explicit}
                    settings[name] = {**(values[kind].get(name) or {}), **new}
                values[kind][name] = settings[name]


def _compose_with_hydra(words: list[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for kind in KINDS:  # a plug-in without a YAML file is still a choice
        for name in registry.names(kind):
            if not any((root / kind / f"{name}.yaml").is_file() for root in _conf_dirs()):
                ConfigStore.instance().store(group=kind, name=name, node={"name": name})
    paths = ",".join(f"'file://{path}'" for path in plugins.conf_dirs)
    try:
        with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
            composed = hydra_compose("config", [*words, f"hydra.searchpath=[{paths}]"])
            values = OmegaConf.to_container(composed, resolve=False)
    except Exception as error:
        if _hides_interrupt(error):
            raise KeyboardInterrupt from error
        if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
            raise UsageError(f"configuration: {error}") from error
        raise
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _hides_interrupt(error: BaseException | None) -> bool:
    """Whether this came of Ctrl-C: OmegaConf's own cleaning up can fail then, and raise instead."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """The strict check: a plain mapping (composed, or a saved config.yaml) to a RunConfig."""
    from rlzoo.envs.make import EnvConfig
    from rlzoo.io.logger import LoggerConfig
    from rlzoo.run.evaluate import EvalConfig

    given = dict(values)
    if isinstance(given.get("plugins"), list | tuple):
        plugins.load_plugins(given["plugins"])
    parts: dict[str, Any] = {}
    for kind in KINDS:
        node = given.pop(kind, None)
        if node is None and kind != "algo":
            parts[kind] = None
            continue
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
            raise UsageError(f"{kind}: got {node!r}, expected a choice such as {kind}=NAME")
        parts[kind] = read(registry.get(kind, node["name"])[1], node, kind)
    classes = {"env": EnvConfig, "eval": EvalConfig, "logger": LoggerConfig}
    for kind, settings_class in classes.items():
        parts[kind] = read(settings_class, given.pop(kind, None) or {}, kind)
    for key in given.keys() - {field.name for field in fields(RunConfig)}:
        for name in _flat(plain(parts)):
            if name.endswith(f".{key}"):
                raise UsageError(f"unknown setting '{key}'. Did you mean '{name}'?")
    config = read(RunConfig, {**parts, **given})
    _check_combinations(config)
    return config


def _check_combinations(config: RunConfig) -> None:
    algorithm: Any = registry.get("algo", config.algo.name)[0]
    for kind in ("network", "replay"):
        chosen, needed = getattr(config, kind), kind in algorithm.needs
        if chosen is not None and not needed:
            raise UsageError(f"{kind}={chosen.name}: algo={config.algo.name} has no {kind}")
        if chosen is None and needed:
            raise UsageError(f"{kind}: got none, expected one: algo={config.algo.name} needs it")
    algorithm.check(config)


def to_yaml(config: RunConfig) -> str:
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False)


def load_yaml(text: str, name: str) -> dict[str, Any]:
    """A saved config.yaml as a plain mapping; anything else is a one-line DataError."""
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{name}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{name}: got {type(values).__name__}, expected a mapping of settings")
    return values


# What a run is: changing one of these on resume would be another run.
IDENTITY = ("algo.name", "env", "network", "replay", "seed", "device", "plugins", "output_dir")
# ... except for what does not touch the numbers.
NOT_IDENTITY = ("env.backend", "env.workers", "env.timeout_seconds")


def with_overrides(
    saved: Mapping[str, Any], words: Sequence[str]
) -> tuple[RunConfig, dict[str, tuple[Any, Any]]]:
    """A saved configuration with explicit overrides on top, and what changed: {key: (old, new)}.

    A change of identity (another algorithm, env, network, seed ...) is a UsageError.
    """
    config = from_mapping(_overridden(saved, words))
    before, after = flat(from_mapping(saved)), flat(config)
    fixed = _fixed_settings(config.algo, "algo")
    differences: dict[str, tuple[Any, Any]] = {}
    for key in [*after, *(before.keys() - after.keys())]:
        old, new = before.get(key, "unset"), after.get(key, "unset")
        if old == new:
            continue
        identity = any(key == name or key.startswith(name + ".") for name in (*IDENTITY, *fixed))
        if identity and key not in NOT_IDENTITY:
            raise UsageError(
                f"resume: {key}={new} would change what the run is "
                f"(it has {key}={old}); start a new run instead"
            )
        differences[key] = (old, new)
    return config, differences


def branched(saved: Mapping[str, Any], words: Sequence[str]) -> RunConfig:
    """The configuration of a new run that builds on another one: that one's, with overrides."""
    return from_mapping(_overridden(saved, words))


def _fixed_settings(settings: Any, path: str) -> list[str]:
    """The dotted names of all `fixed` settings, nested ones too."""
    found = []
    for field in fields(settings):
        name, value = f"{path}.{field.name}", getattr(settings, field.name)
        if field.metadata.get("fixed"):
            found.append(name)
        elif is_dataclass(value):
            found += _fixed_settings(value, name)
    return found


def _overridden(saved: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = plain(dict(saved))
    for override in parse(words):
        if override.sweep:
            raise UsageError(f"'{override.word}' is a sweep: expected one value")
        node = values
        *parents, last = override.key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        if not override.is_group:
            node[last] = override.value
        elif (values.get(last) or {}).get("name") != override.value:
            raise UsageError(
                f"'{override.word}' chooses a group; only single settings can change, "
                "such as total_env_steps=200_000. For another choice start a new run"
            )
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings with dotted names, for hparams and for comparing runs."""
    return _flat(plain(config))
