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
from rlzoo.core.settings import nearest, setting
from rlzoo.core.types import DataError, UsageError
from rlzoo.envs.packages import env_hint
from rlzoo.io import files
from rlzoo.io.migrations import RENAMED
from rlzoo.run import foreign, plugins
from rlzoo.run.strict import UnknownSetting, defaults, plain, read

# A checkout has conf/ at its top level; the wheel carries a copy inside the package.
_PACKAGE = Path(__file__).parents[1]
_PACKAGED = _PACKAGE / "conf"
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent / "conf"
KINDS = ("algo", "network", "replay")  # groups whose options have classes in the registry
MANY = 24  # more choices than this are not listed in a line
OPTIONAL_GROUPS = ("experiment", "debug")  # "none" is a choice
OWN_ENVS = "rlzoo.envs.zoo."
# Of a saved config.yaml, which takes some 2,000 bytes and puts nothing but [] and {} in brackets.
MAX_YAML_BYTES = 32 << 10
MAX_YAML_BRACKETS = 200  # the time for nested ones grows with the square of their number
MAX_YAML_DEPTH = 32


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
    threads: int = setting(
        1, "torch threads; small networks are slower with more", low=1, high=1024
    )
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

    plugins.load_plugins(_plugins_named_in(words))  # before they are read: they add choices
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
            raise UsageError(f"cannot read {given!r:.200}: {_grammar_hint(word)}") from error
        except ValueError as error:  # a number of 5,000 digits
            raise UsageError(f"cannot read {given!r:.200}: {error}") from error
        key = parsed.key_or_group
        sweep = tuple(f"{key}={value}" for value in values) if is_sweep else ()
        value = None if is_sweep else values[0]
        if key in known and not sweep:
            value = _check_option(key, "none" if value is None else str(value), known[key])
        overrides.append(Override(key, value, key in known, sweep, word))
        if key == "env.id" and not sweep:
            plugins.load_plugins(_env_modules({"id": value}))
    return overrides


def _grammar_hint(word: str) -> str:
    key = word.partition("=")[0]
    if foreign.has_open_bracket(word):
        return foreign.quoted(word)
    if write := foreign.as_word(key, "", ()):
        return f"unknown setting '{key}': {write}"
    return (
        "expected a number, a word, a list [64,64], a mapping {a: 1} or text in quotes of its own"
    )


def _check_key(word: str) -> None:
    key, equals, value = word.partition("=")
    if word.startswith("~"):
        raise UsageError(f"'{word}': settings cannot be removed, only given another value")
    if re.match(r"hydra\b", key):
        raise UsageError(f"'{word}': Hydra's own settings are not used here (see rlzoo --help)")
    if equals and re.fullmatch(r"[\w-]+(\.[\w-]+)*", key) and "-" in key:
        write = foreign.as_word(key, value, ()) or f"names have '_', as in {foreign.plain(key)}"
        raise UsageError(f"unknown setting '{key}': {write}")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UsageError(f"cannot read {word!r}: expected key=value, such as algo=dqn or seed=1")
    if value.startswith("="):
        raise UsageError(f"cannot read {word!r}: expected one '=', as in {key}={value.strip('=')}")
    if key in RENAMED:
        raise UsageError(f"unknown setting '{key}'. It is called '{RENAMED[key]}' now")
    if key.startswith("where_known"):
        raise UsageError(f"unknown setting '{key}': that is for files such as conf/debug/tiny.yaml")
    if key in {f"{kind}.name" for kind in KINDS}:
        raise UsageError(f"'{word}': the choice of a group is made with {key[:-5]}={value}")


def _check_option(group: str, option: str, known: Sequence[str]) -> str:
    if option in known or (option == "none" and group in OPTIONAL_GROUPS):
        return option
    listed = ", ".join(known) if len(known) <= MANY else f"see rlzoo list {group}"
    hint = foreign.choice_hint(group, option)
    if group == "env":
        hint = _env_hint(option, known)
    hint = hint or nearest(option, known)
    raise UsageError(f"unknown {group} '{option}'.{hint} Known: {listed}")


def _env_hint(option: str, known: Sequence[str]) -> str:
    """For a gymnasium id, the preset of that env; and how to use any other."""
    if not re.search(r"-v\d+$", option):
        return nearest(option, known) + " Any gymnasium env: env=gym env.id=ID."
    name = option.rpartition("-v")[0]
    same = [preset for preset in known if _env_id(preset).rpartition("-v")[0] == name]
    hint = f" Did you mean '{same[0]}'?" if same else ""
    return hint + (env_hint(option) or f" Any gymnasium env: env=gym env.id={option}.")


def _env_id(preset: str) -> str:
    """The id in the YAML file of an env, without its module."""
    files = [root / "env" / f"{preset}.yaml" for root in _conf_dirs()]
    text = next((file.read_text() for file in files if file.is_file()), "")
    return (re.findall(r"^id: (?:.*:)?(.*)$", text, re.MULTILINE) or [""])[0]


def _plugins_named_in(words: Sequence[str]) -> list[str]:
    for word in words:
        name, _, value = word.lstrip("+").partition("=")
        if name == "plugins":
            return plugins.listed(value)
    return []


def quoted(text: str) -> str:
    """A text as the value of an override, whatever characters are in it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", "\\'"), text) + "'"


def _named_modules(values: Mapping[str, Any]) -> list[str]:
    """The modules outside rlzoo that settings name, not checked yet."""
    named = values.get("plugins")
    found = [m for m in named if isinstance(m, str)] if isinstance(named, list | tuple) else []
    return [*found, *(m for m in _env_modules(values.get("env")) if m not in found)]


def _env_modules(env: Any) -> list[str]:
    """The module that an env's id names, unless it is one of rlzoo's own."""
    env_id = env.get("id") if isinstance(env, Mapping) else None
    module = env_id.rpartition(":")[0] if isinstance(env_id, str) else ""
    return [module] if module and not module.startswith(OWN_ENVS) else []


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
            *_, value = override.word.partition("=")
            of_list = "" if "(" in value else f" (a list is '{override.key}=[{value}]')"
            raise UsageError(f"'{override.word}' is a sweep: put -m before it{of_list}")
    chosen = {o.key: o.value for o in overrides if o.is_group}
    preset = f"{chosen.get('algo', 'dqn')}_{chosen.get('env', 'cartpole')}"
    presets = groups().get("experiment", []) if "experiment" not in chosen else []
    if preset in presets:
        note(f"using experiment={preset} (experiment=none turns it off)")
        return _compose([*overrides, *parse([f"experiment={preset}"])])
    if "experiment" not in chosen and (other := _preset_of_the_same_env(overrides, preset)):
        note(f"no preset for env={chosen.get('env', 'cartpole')}; there is experiment={other}")
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


def _preset_of_the_same_env(overrides: Sequence[Override], preset: str) -> str:
    """A preset for the chosen algorithm and another name of the chosen env, or ''."""
    given = {override.key: str(override.value) for override in overrides}
    algo, env = given.get("algo", "dqn"), given.get("env", "cartpole")
    same = [
        name
        for name in groups()["env"]
        if env == "gym" and given.get("env.id", "").rpartition(":")[2] == _env_id(name)
    ]
    names = {f"{algo}_{name}" for name in same}
    presets = groups().get("experiment", [])
    return next((n for n in presets if n in names or preset.startswith(f"{n}_")), "")


def _compose(overrides: Sequence[Override]) -> RunConfig:
    words = []
    for override in overrides:
        if not override.is_group:
            words.append("++" + override.word)  # so that Hydra takes any key: we check them all
        elif override.value != "none":
            words.append(f"{override.key}={override.value}")
    values = _compose_with_hydra(words)
    env = values["env"]
    if env["name"] == "gym" and env.get("id") and "env.name" not in {o.key for o in overrides}:
        env["name"] = str(env["id"]).rpartition(":")[2]  # what its runs are called
    _apply_where_known(values, explicit={override.key for override in overrides})
    plugins.load_plugins(_named_modules(values))
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
    paths = ",".join(quoted(f"file://{path}") for path in plugins.conf_dirs)
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
    classes: dict[str, type] = {"env": EnvConfig, "eval": EvalConfig, "logger": LoggerConfig}
    for kind in KINDS:
        node = given.get(kind)
        if node is None and kind != "algo":
            continue
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
            raise UsageError(f"{kind}: got {node!r}, expected a choice such as {kind}=NAME")
        classes[kind] = registry.get(kind, node["name"])[1]
    try:
        parts = {kind: read(cls, given.get(kind) or {}, kind) for kind, cls in classes.items()}
        config = read(RunConfig, {**dict.fromkeys(KINDS), **given, **parts})
    except UnknownSetting as error:
        raise _unknown(error, given, classes) from None
    _check_combinations(config)
    return config


def _unknown(
    error: UnknownSetting, given: Mapping[str, Any], classes: Mapping[str, type]
) -> UsageError:
    """What an unknown setting may have been meant for, among all that this run has."""
    known = {*(field.name for field in fields(RunConfig)), *OPTIONAL_GROUPS, "resume"}
    known -= set(KINDS) - classes.keys()
    known |= _flat({kind: defaults(cls) for kind, cls in classes.items()}).keys()
    key, node = error.key, given.get(error.key)
    while isinstance(node, Mapping) and len(node) == 1:  # of `ppo.gae_lambda`, all of it
        [(name, node)] = node.items()
        key = f"{key}.{name}"
    hint = foreign.setting_hint(key, error.siblings, known, given["algo"]["name"])
    return UsageError(f"unknown setting '{key}'.{hint}") if hint else error


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


def read_yaml(path: Path) -> dict[str, Any]:
    """A saved config.yaml as a plain mapping; anything else is a one-line DataError."""
    data = files.read(path, limit=MAX_YAML_BYTES)
    try:
        return load_yaml(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error


def load_yaml(text: str, name: str) -> dict[str, Any]:
    """Settings in YAML as a plain mapping; DataError with `name` for what rlzoo does not write.

    That is also an alias, which could stand for any number of copies, a tag, and deep nesting.
    """
    import yaml

    if text.count("[") + text.count("{") > MAX_YAML_BRACKETS:
        raise DataError(f"{name}: has more than {MAX_YAML_BRACKETS} lists and mappings in brackets")

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()
            if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
                raise yaml.YAMLError(f"line {event.start_mark.line + 1} has an alias or a tag")
            if self.depth == MAX_YAML_DEPTH:
                raise yaml.YAMLError(f"nested deeper than {MAX_YAML_DEPTH} levels")
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        values = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a number or date can be wrong
        raise DataError(f"{name}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{name}: got {type(values).__name__}, expected a mapping of settings")
    return values


# What a run is: changing one of these on resume would be another run.
IDENTITY = ("algo.name", "env", "network", "replay", "seed", "device", "output_dir")
# ... except for what no number of the training depends on.
NOT_IDENTITY = ("env.backend", "env.workers", "env.timeout_seconds", "env.eval_episode_steps")


def with_overrides(
    saved: Mapping[str, Any], words: Sequence[str], where: str = "config.yaml"
) -> tuple[RunConfig, dict[str, tuple[Any, Any]]]:
    """A saved configuration with explicit overrides on top, and what changed: {key: (old, new)}.

    A change of identity (another algorithm, env, network, seed ...) is a UsageError. So are the
    saved settings, those of the file `where`, if they name a module that the user does not.
    """
    before = flat(branched(saved, (), where))
    config = branched(saved, words, where)
    after = flat(config)
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


def branched(
    saved: Mapping[str, Any], words: Sequence[str], where: str = "config.yaml"
) -> RunConfig:
    """A saved configuration with overrides on top, whatever they change."""
    values = _overridden(saved, words)
    plugins.require(_named_modules(values), where)
    try:
        return from_mapping(values)
    except UsageError as error:
        if words:  # it may well be one of them that is wrong
            raise
        raise DataError(f"{where}: {error}") from error


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
        if override.key == "plugins":
            continue  # they are imported by now; what the run names stays as it is
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
