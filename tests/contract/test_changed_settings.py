"""A setting that is changed on resume makes a difference, or is refused: none is only written down.

Each algorithm is stopped in the middle and goes on twice, with and without the change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
from itertools import starmap, zip_longest
from operator import eq
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from lamp import small_vision
from test_algorithms import ALGORITHMS, tiny

from rlzoo.core import registry
from rlzoo.core.algorithm import Algorithm
from rlzoo.core.types import State
from rlzoo.io.encoding import decode, encode
from rlzoo.run.build import Builder, close
from rlzoo.run.config import RunConfig, plain, with_overrides
from rlzoo.study.contract import fingerprint, greedy

STEPS = 6
BOX = "env=gym env.id=Pendulum-v1 env.restore=replay"
CASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "q_learning": (("algo.initial_value=1",),),
    "sarsa": (("algo.initial_value=1",),),
    "dqn": (
        ("env=lunarlander", "algo.epsilon_fraction=1"),
        ("env=cartpole", "algo.epsilon_fraction=1", "algo.lr=0.01"),
    ),
    "ppo": ((BOX, "algo.gsde=true"),),
    "trpo": ((BOX, "algo.gsde=true", "algo.target_kl=10"),),
    "bc": ((BOX,),),
    "gail": ((BOX, "algo.discriminator.gradient_penalty=1"),),
    "airl": ((BOX, "algo.discriminator.gradient_penalty=1"),),
    "gail_as_printed": (
        (
            BOX,
            *(
                f"algo.defects.{defect}=false"
                for defect in ("actor_gets_no_gradient", "fixed_sigma", "never_resets")
            ),
        ),
    ),
}
# Values that make a difference where the next one may not.
VALUES: dict[str, Any] = {
    "learning_starts_env_steps": 400,
    "train_every_env_steps": 48,
    "target_every_env_steps": 7,
    "rollout_env_steps": 96,
    "target_kl": 1e-6,
    "clip": 1e-4,
    "line_search_steps": 1,
    "value_clip": 1e-6,
    "max_grad_norm": 1e-4,
    "updates": 1,
    "patience": 1,
    "final_lr": 0.0,
    "patience_env_steps": 1,
    "sequence_steps": 3,
    "max_grad_value": 1e-6,
    "generations": 1,
    "sigma_limit": 1.0,
    "evaluate_every_generations": 100,
    "cg_iterations": 1,
    "policy": "brownian",
    "min_episode_steps": 100,
    "max_episode_steps": 3,
    "max_dream_steps": 1,
}
# What need not make a difference in the steps that follow here, and why.
EXEMPT = (
    # How work is divided: no result depends on it.
    "algo.encode.batch_size",
    "algo.controller.num_envs",
    "algo.controller.workers",
    "algo.controller.executor",
    "algo.controller.timeout_seconds",
    # The same in the space of the tests, whose actions are between -1 and 1.
    "algo.controller.clipped_actions",
    # Of a head that M has not got in the tests.
    "algo.memory.done_weight",
    # These need another run.
    "algo.collect.disturbance_rate",
    "algo.imitate.",
    # The settings of gail's agent: ppo and trpo have them, too.
    "algo.ppo.",
    "algo.trpo.",
)


@pytest.fixture(autouse=True, scope="module")
def fast() -> Iterator[None]:
    with small_vision():
        yield


def changeable(settings: Any, path: str = "algo") -> Iterator[tuple[str, Any, Any]]:
    """(name, type, value) of all settings to be tested, nested ones too: not the `fixed` ones."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        name, value = f"{path}.{field.name}", getattr(settings, field.name)
        if field.metadata.get("fixed") or field.name == "name" or name.startswith(EXEMPT):
            continue
        if is_dataclass(value):
            yield from changeable(value, name)
        else:
            yield name, hints[field.name], value


def settings_of(algo: str, group: str = "") -> set[str]:
    config = registry.get("algo", algo)[1]()
    return {name for name, *_ in changeable(config) if name.startswith(f"algo.{group}")}


def other(name: str, hint: Any, value: Any) -> Any:
    """Another value that the setting can have."""
    last = name.rpartition(".")[2]
    if last in VALUES:
        return VALUES[last]
    if isinstance(value, bool):
        return not value
    if get_origin(hint) is Literal:
        return next(choice for choice in reversed(get_args(hint)) if choice != value)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    return {str: "other", tuple: [2]}[str if isinstance(value, str) else tuple]


def saved(algorithm: Algorithm) -> State:
    """What a checkpoint would give back."""
    tree, arrays = encode(algorithm.state())
    arrays = {name: array.copy() for name, array in arrays.items()}
    return decode(json.loads(json.dumps(tree)), arrays, Path("checkpoint"))


def future(config: RunConfig, state: State, directory: Path) -> Iterator[str]:
    """Fingerprints of all that can be seen of the next steps, one after the other."""
    algorithm = Builder(config).build(directory)
    try:
        algorithm.load(deepcopy(state))
        for _ in range(STEPS):
            yield fingerprint(algorithm.done())
            if algorithm.done():
                return
            metrics = algorithm.step().items()
            yield fingerprint({name: float(v) for name, v in metrics if "seconds" not in name})
            yield fingerprint(saved(algorithm))
            gauges = algorithm.gauges().items()
            yield fingerprint({name: v for name, v in gauges if not name.startswith("time/")})
            if algorithm.policy is not None:
                for explore in (False, True):
                    yield fingerprint(greedy(algorithm, algorithm.env.obs_B, explore=explore))
    finally:
        close(algorithm)


def without_effect(names: set[str], config: RunConfig, state: State, directory: Path) -> set[str]:
    """Those of the settings whose change is not seen in the steps after `state`."""
    straight = list(future(config, state, directory))
    assert straight == list(future(config, state, directory)), "the control"
    silent = set()
    for name, hint, value in changeable(config.algo):
        if name in names:
            word = f"{name}={json.dumps(other(name, hint, value))}"
            changed, differences = with_overrides(plain(config), [word])
            assert list(differences) == [name]
            if all(starmap(eq, zip_longest(straight, future(changed, state, directory)))):
                silent.add(name)
    return silent


@pytest.mark.parametrize("algo", [name for name in ALGORITHMS if name != "world_models"])
def test_changed_setting_makes_a_difference_or_is_refused(algo, tmp_path):
    """... in one of the cases: a setting of gSDE, for example, needs gSDE."""
    silent = settings_of(algo)
    for words in CASES[algo]:
        config = tiny(algo, words)
        algorithm = Builder(config).build()
        while algorithm.counters.clock < 200:
            algorithm.step()
        state = saved(algorithm)
        close(algorithm)
        silent = without_effect(silent, config, state, tmp_path)
    assert silent == set()


WORLD_MODELS = (
    "algo.collect.episodes=7",
    "algo.vision.precision=float32",
    "algo.memory.reward_head=true",
)
SEARCH = (
    "algo.controller.population=8",
    "algo.controller.groups=2",
    "algo.controller.sigma_decay=0.9",
    "algo.controller.evaluate_every_generations=1",
)
PHASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "collect": (("algo.collect.policy=held",),),
    "vision": (("algo.vision.block_updates=1", "algo.vision.final_lr=1e-5"),),
    "encode": ((),),
    "memory": (("algo.memory.block_updates=1",),),
    "controller": (SEARCH, (*SEARCH, "algo.controller.train_in=dream")),
}


@pytest.mark.parametrize("phase", PHASES)
def test_changed_setting_of_a_phase_makes_a_difference(phase, tmp_path):
    silent = settings_of("world_models", f"{phase}.")
    for case, words in enumerate(PHASES[phase]):
        config, directory = tiny("world_models", (*WORLD_MODELS, *words)), tmp_path / str(case)
        algorithm = in_phase(phase, config, directory)
        state = saved(algorithm)
        assert not any(name.startswith(f"{phase}.") for name in algorithm.spent())
        close(algorithm)
        silent = without_effect(silent, config, state, directory)
    assert silent == set()


def test_changed_setting_of_a_phase_that_is_over_makes_no_difference_and_is_known(tmp_path):
    config = tiny("world_models", (*WORLD_MODELS, *PHASES["memory"][0]))
    algorithm = in_phase("memory", config, tmp_path)
    state, spent = saved(algorithm), {f"algo.{name}" for name in algorithm.spent()}
    close(algorithm)
    over = set.union(
        *(settings_of("world_models", f"{p}.") for p in ("collect", "vision", "encode"))
    )
    assert without_effect(over, config, state, tmp_path) == spent & settings_of("world_models")
    assert over - spent == {"algo.vision.precision"}, "V computes in it later, too"


def in_phase(phase: str, config: RunConfig, directory: Path) -> Algorithm:
    algorithm = Builder(config).build(directory)
    while algorithm.counters.phase != phase:
        algorithm.step()
    for _ in range(2):
        algorithm.step()
    return algorithm
