"""From command-line words to one checked, frozen RunConfig. The only user of Hydra and OmegaConf.

Hydra composes the groups under conf/; every value override is handed to it as `++key=value`, so
that it never stops at an unknown key. The strict reader then does, with the nearest known one.
Defaults live in the dataclasses alone, YAML files hold only what differs (docs/configuration.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlzoo import registry
from rlzoo.settings import nearest, plain, read, setting
from rlzoo.types import UsageError

# A checkout has conf/ at its top level; the wheel carries a copy inside the package.
_PACKAGED = Path(__file__).parent / "conf"
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "conf"
MULTIPLE_CHOICE = ("algo", "network", "replay")  # groups whose settings class the registry knows


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
    total_env_steps: int = setting(50_000, "length of the run, summed over all envs", low=1)
    log_every_env_steps: int = setting(1000, "metrics are written this often", low=1)
    save_every_env_steps: int = setting(10_000, "a checkpoint is saved this often", low=1)
    keep_checkpoints: int = setting(2, "newest checkpoints kept, besides the best one", low=1)
    threads: int = setting(1, "torch threads; small networks are slower with more", low=1)
    device: Literal["cpu", "cuda"] = setting("cpu", "where networks live")
    compile: bool = setting(False, "compile whole updates (needs a C++ compiler; starts slower)")
    output_dir: str = setting("outputs", "where run directories are made")
    plugins: tuple[str, ...] = setting((), "modules to import first, such as my_package.my_algo")


def groups() -> dict[str, list[str]]:
    """The config groups and their options, from the file names under conf/ and the registry."""
    found: dict[str, set[str]] = {}
    for root in (CONF_DIR, *registry.plugin_conf_dirs):
        for file in root.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    for kind in MULTIPLE_CHOICE:
        found.setdefault(kind, set()).update(registry.names(kind))
    return {group: sorted(options) for group, options in sorted(found.items())}


def description(group: str, option: str) -> str:
    """The one-line comment that each YAML file begins with."""
    for root in (CONF_DIR, *registry.plugin_conf_dirs):
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
    value: Any
    is_group: bool
    text: str  # as it is handed to Hydra; empty for experiment=none and debug=none
    is_sweep: bool = False


def parse(words: Sequence[str]) -> list[Override]:
    """Check the words of a command line without composing: grammar, group names and options."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    registry.load_plugins(_plugins_named_in(words))
    known = groups()
    parser = OverridesParser.create()
    checked = []
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"cannot read '{word}': expected key=value (see --help)")
        try:
            parsed = parser.parse_override(word)
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"cannot read '{word}': {reason}") from error
        checked.append(_check_override(word, parsed, known))
    return checked


def _check_override(word: str, parsed: Any, known: Mapping[str, list[str]]) -> Override:
    key = parsed.key_or_group
    if key.startswith("hydra/") or key.split(".")[0] == "hydra":
        raise UsageError(f"'{word}': Hydra's own settings are not used here; see --help for sweeps")
    if word.startswith("~"):
        raise UsageError(f"'{word}': settings cannot be removed; give '{key}' a value instead")
    text = word.lstrip("+")
    is_sweep = parsed.is_sweep_override()
    if key not in known:
        return Override(key, parsed.value(), False, "++" + text, is_sweep)
    may_be_none = key in ("experiment", "debug")
    for choice in (job.split("=", 1)[1] for job in _expand(parsed)):
        if choice not in known[key] and not (may_be_none and choice == "none"):
            hint = " Any gymnasium id: env=gym env.id=NAME." if key == "env" else ""
            raise UsageError(
                f"unknown {key} '{choice}'.{nearest(choice, known[key])}{hint} "
                f"Known: {', '.join(known[key])}"
            )
    value = text.split("=", 1)[1]
    return Override(key, value, True, "" if value == "none" else text, is_sweep)


def _plugins_named_in(words: Sequence[str]) -> list[str]:
    for word in words:
        name, _, value = word.lstrip("+").partition("=")
        if name == "plugins":
            return [item.strip(" '\"") for item in value.strip("[]").split(",") if item.strip()]
    return []


def _expand(parsed: Any) -> list[str]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return [job[0] for batch in BasicSweeper.split_arguments([parsed], None) for job in batch]


def sweep_jobs(words: Sequence[str]) -> list[list[str]]:
    """Every combination of a multirun's comma lists and ranges, in Hydra's own sweep grammar."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse(words)
    parsed = OverridesParser.create().parse_overrides(list(words))
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def compose(words: Sequence[str] = ()) -> RunConfig:
    """The checked configuration for the words of a command line, or a one-line UsageError."""
    overrides = parse(words)
    for override in overrides:
        if override.is_sweep:
            raise UsageError(f"'{override.text.lstrip('+')}' is a sweep: put -m before it")
    texts = [override.text for override in overrides if override.text]
    preset = _tuned_preset(overrides)
    if preset:
        texts.append(f"experiment={preset}")
    return from_mapping(_compose_with_hydra(texts))


def _tuned_preset(overrides: Sequence[Override]) -> str | None:
    """The preset <algo>_<env>, which is used where it exists unless an experiment is named."""
    chosen = {o.key: o.value for o in overrides if o.is_group}
    if "experiment" in chosen:
        return None
    name = f"{chosen.get('algo', 'dqn')}_{chosen.get('env', 'cartpole')}"
    return name if name in groups().get("experiment", []) else None


@contextmanager
def _hydra_errors() -> Iterator[None]:
    """Hydra's and YAML's complaints about a composition, as one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UsageError("configuration: " + " ".join(str(error).split())) from error


def _compose_with_hydra(texts: list[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    on_disk = {(f.parent.name, f.stem) for f in CONF_DIR.glob("*/*.yaml")}
    for kind in MULTIPLE_CHOICE:  # a plug-in without a YAML file is still a choice
        for name in registry.names(kind):
            if (kind, name) not in on_disk:
                ConfigStore.instance().store(group=kind, name=name, node={"name": name})
    paths = ",".join(f"file://{path}" for path in registry.plugin_conf_dirs)
    search = [f"hydra.searchpath=[{paths}]"] if paths else []
    with (
        _hydra_errors(),
        initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"),
    ):
        composed = hydra_compose("config", overrides=texts + search)
        values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """The strict check: a plain mapping (composed, or a saved config.yaml) to a RunConfig."""
    from rlzoo.envs.make import EnvConfig
    from rlzoo.evaluate import EvalConfig
    from rlzoo.io.logger import LoggerConfig

    given = dict(values)
    parts: dict[str, Any] = {}
    for kind in MULTIPLE_CHOICE:
        node = given.pop(kind, None)
        if node is None and kind != "algo":
            parts[kind] = None
            continue
        if not isinstance(node, Mapping) or "name" not in node:
            raise UsageError(f"{kind}: got {node!r}, expected a choice such as {kind}=NAME")
        parts[kind] = read(registry.get(kind, node["name"])[1], node, kind)
    classes = {"env": EnvConfig, "eval": EvalConfig, "logger": LoggerConfig}
    for kind, settings_class in classes.items():
        parts[kind] = read(settings_class, given.pop(kind, None) or {}, kind)
    config = read(RunConfig, {**parts, **given})
    _check_combinations(config)
    return config


def _check_combinations(config: RunConfig) -> None:
    algorithm = registry.get("algo", config.algo.name)[0]
    for kind in ("network", "replay"):
        chosen, needed = getattr(config, kind), kind in getattr(algorithm, "needs", ())
        if chosen is not None and not needed:
            raise UsageError(f"{kind}={chosen.name}: algo={config.algo.name} has no {kind}")
        if chosen is None and needed:
            raise UsageError(f"{kind}: got none, expected one: algo={config.algo.name} needs it")
    algorithm.check(config)


def to_yaml(config: RunConfig) -> str:
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False)


def load_yaml(text: str, name: str) -> dict[str, Any]:
    """A saved config.yaml as a plain mapping; anything else is a one-line UsageError."""
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{name}: got {type(values).__name__}, expected a mapping of settings")
    return values


# What a run is: changing one of these on resume would be another run.
IDENTITY = ("algo.name", "env", "network", "replay", "seed", "device", "plugins")
# ... except for what does not touch the numbers.
NOT_IDENTITY = ("env.backend", "env.workers", "env.timeout_seconds")


def with_overrides(saved: Mapping[str, Any], words: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """A saved configuration with explicit overrides on top, and the differences as lines of text.

    A change of identity (another algorithm, env, network, seed ...) is a UsageError.
    """
    values = plain(dict(saved))
    for override in parse(words):
        if override.is_group:
            current = (values.get(override.key) or {}).get("name")
            if current != override.value:
                raise UsageError(
                    f"resume: {override.key}={override.value} would change what the run is "
                    f"(it has {override.key}={current}); start a new run instead"
                )
            continue
        *parents, last = override.key.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = override.value
    before, after = _flat(plain(from_mapping(saved))), _flat(plain(from_mapping(values)))
    changed = [key for key in after if after[key] != before.get(key)]
    for key in changed:
        identity = any(key == name or key.startswith(name + ".") for name in IDENTITY)
        if identity and key not in NOT_IDENTITY:
            raise UsageError(
                f"resume: {key}={after[key]} would change what the run is "
                f"(it has {key}={before.get(key)}); start a new run instead"
            )
    return from_mapping(values), [f"{k}: {before.get(k)} -> {after[k]}" for k in changed]


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
