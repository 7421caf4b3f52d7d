"""A detector for each defect of the chapter's GAIL: fires on it, is silent without it and on ours.

rlzoo/algos/gail/as_printed.py has the defects as flags. Each detector meets it with one of them
planted, with none, and our own GAIL with PPO. Two defects are no flags: 3 is one of the data, and
with 6 the program does not start.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlzoo.algos.gail.as_printed import Defects, GAILAsPrinted, GAILAsPrintedConfig
from rlzoo.algos.gail.gail import GAIL, DiscriminatorConfig, GAILConfig
from rlzoo.algos.ppo import PPOConfig
from rlzoo.core.algorithm import Network, Reactive, Setup
from rlzoo.core.types import NonFiniteError
from rlzoo.demonstrations.files import DemonstrationsConfig, chosen, encode
from rlzoo.demonstrations.fit import fit_report
from rlzoo.demonstrations.recording import record
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.envs.make import EnvConfig, MoreEnvs, make_env, make_vector
from rlzoo.nets.mlp import NetworkConfig, vector_encoder

torch.set_num_threads(1)
LIMIT, STEPS, LR, LN2 = 8, 64, 3e-4, math.log(2)
MARKS = np.array([-0.7, -0.2, 0.3, 0.8], np.float32)  # the second action, one for each trajectory


class Walk(gymnasium.Env[np.ndarray, np.ndarray]):
    """A walk in the plane, at most 1 a step; with `ends`, it ends 1 to the right of `offset`."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    ended = {"terminated": 0, "truncated": 0, "and went on": 0}  # noqa: RUF012 (of all instances)

    def __init__(self, offset: float = 0.0, ends: bool = True) -> None:
        self.offset, self.ends = offset, ends

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x, self.age, self.is_over = self.np_random.uniform(-1, 1, 2), 0, False
        return (self.x + self.offset).astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.ended["and went on"] += self.is_over
        self.x, self.age = self.x + action, self.age + 1
        terminated, truncated = self.ends and self.x[0] > 1, self.age == LIMIT
        self.ended["terminated"] += terminated
        self.ended["truncated"] += truncated
        self.is_over |= terminated or truncated
        return (self.x + self.offset).astype(np.float32), 1.0, terminated, False, {}


gymnasium.register("rlzoo_test/Walk-v0", Walk, max_episode_steps=LIMIT)


@cache
def expert(path: Path, offset: float) -> DemonstrationsConfig:
    """Trajectories around `offset` that differ in the second action."""
    steps = len(MARKS) * LIMIT
    rng = np.random.default_rng(0)
    made = Demonstrations(
        obs=(offset + rng.uniform(-1, 1, (steps, 2))).astype(np.float32),
        action=np.stack([np.ones(steps, np.float32), MARKS.repeat(LIMIT)], axis=1),
        reward=np.ones(steps),
        start=np.arange(len(MARKS) + 1) * LIMIT,
        terminated=np.zeros(len(MARKS), bool),
        final_obs=np.full((len(MARKS), 2), offset, np.float32),
        source="",
        env_id=None,
    )
    path = path / f"expert{offset}.npz"
    path.write_bytes(encode(made, "imitation"))
    return DemonstrationsConfig(path=str(path))


def setup(num_envs: int, **kwargs: Any) -> Setup:
    config = EnvConfig("walk", "rlzoo_test/Walk-v0", kwargs, num_envs=num_envs, restore="replay")
    return Setup(
        make_vector(config, run_seed=0),
        seed=0,
        total_env_steps=10_000,
        network=Network(NetworkConfig(hidden=(16,), activation="tanh"), vector_encoder),
        envs=MoreEnvs(config),
    )


def with_expert(made: Setup, config: DemonstrationsConfig) -> Setup:
    return dataclasses.replace(made, demonstrations=partial(chosen, config))


# Two programs with the same names for the same parts. A rollout is one minibatch.


class Printed:
    def __init__(
        self,
        path: Path,
        planted: str = "",
        *,
        epochs: int = 1,
        offset: float = 0,
        ends: bool = True,
    ) -> None:
        flags = {f.name: f.name == planted for f in dataclasses.fields(Defects)}
        config = GAILAsPrintedConfig(
            demonstrations=expert(path, offset),
            defects=Defects(**flags),
            lr=LR,
            rollout_env_steps=STEPS,
            batch_size=STEPS,
            epochs=epochs,
        )
        self.algo = algo = GAILAsPrinted(
            config, with_expert(setup(1, offset=offset, ends=ends), config.demonstrations)
        )
        self.network, self.log_std = algo.network, algo.network.log_std_A
        self.mean, self.value = algo.network.mean, algo.network.value
        self.discriminator, self.logit = algo.discriminator, algo.discriminator.head
        fill(self.logit, 0.0)  # no opinion, as ours begins
        self.update_of = (algo, "_step")

    def collect(self, action: Tensor | None = None) -> None:
        self.rollout = self.algo._rollout()
        if action is not None:
            self.rollout["action"][:] = action

    def learn(self) -> dict[str, Any]:
        """The agent's update; with no opinion of the discriminator each step is paid ln 2."""
        return self.algo._update_agent(self.rollout)

    def discriminator_loss(self, pairs: int) -> Tensor:
        """What is differentiated, for so many pairs of each kind."""
        self.collect()
        losses: list[Tensor] = []
        with replaced(self.algo, "_step", lambda which, loss: losses.append(loss)):
            self.algo._update_discriminator(
                self.rollout["obs"][:pairs], self.rollout["action"][:pairs]
            )
        return losses[0]

    def first_moment(self) -> Tensor:
        moments = self.algo.optimizers["agent"].state.values()
        return torch.cat([moment["exp_avg"].ravel() for moment in moments])


class Ours:
    def __init__(
        self, path: Path, *, epochs: int = 1, offset: float = 0, ends: bool = True
    ) -> None:
        agent = PPOConfig(
            rollout_env_steps=STEPS, batch_size=STEPS, epochs=epochs, lr=LR, normalize_obs=True
        )  # as in conf/algo/gail.yaml
        config = GAILConfig(
            demonstrations=expert(path, offset),
            ppo=agent,
            discriminator=DiscriminatorConfig(entropy_coef=0),
        )
        self.algo = algo = GAIL(
            config, with_expert(setup(2, offset=offset, ends=ends), config.demonstrations)
        )
        self.network, self.log_std = algo.generator.network, algo.generator.distribution.log_std_A
        self.mean, self.value = self.network.policy[-1], self.network.value[-1]
        self.discriminator = algo.discriminator.network
        self.logit = self.discriminator[-1]
        self.update_of = (algo.generator, "update")

    def collect(self, action: Tensor | None = None) -> None:
        self.algo.generator.collect()
        rollout = self.algo.generator.rollout
        rollout.reward_TN[:] = LN2
        if action is not None:
            rollout.action_TN[:] = action

    def learn(self) -> dict[str, Any]:
        return self.algo.generator.learn()

    def discriminator_loss(self, pairs: int) -> Tensor:
        self.collect()
        both = (self.algo.expert, self.algo._agent_transitions())
        rows = (self.algo.discriminator.rows(transitions)[:pairs] for transitions in both)
        return self.algo.loss(*rows, torch.zeros(pairs, 1))[0]

    def first_moment(self) -> Tensor:
        return self.algo.generator.optimizer.mean


Program = Printed | Ours
Make = Callable[..., Program]  # with epochs, offset and ends as above


@contextmanager
def replaced(owner: Any, name: str, other: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, other)
    yield
    setattr(owner, name, original)


@torch.no_grad()
def fill(layer: nn.Linear, bias: float) -> None:
    """Make a layer say `bias`, whatever it is given."""
    layer.weight.zero_()
    layer.bias.fill_(bias)


def learnt_from(program: Program, module: nn.Module) -> list[Tensor]:
    """What a module is given in a step where a gradient is to follow."""
    seen: list[Tensor] = []

    def look(module: nn.Module, given: tuple[Tensor]) -> None:
        if torch.is_grad_enabled():
            seen.append(given[0].detach())

    handle = module.register_forward_pre_hook(look)
    program.algo.step()
    handle.remove()
    assert seen
    return seen


def moved(parameters: Iterable[Tensor], act: Callable[[], Any]) -> float:
    """How far `act` moves parameters, at most."""
    parameters = list(parameters)
    before = [p.detach().clone() for p in parameters]
    act()
    return max(float((p - b).detach().abs().max()) for p, b in zip(parameters, before, strict=True))


# ------------------------------------------------------------------ the detectors


def actor_stands_still(make: Make) -> bool:
    program = make()
    return moved(program.mean.parameters(), program.algo.step) == 0


def steps_on_after_the_end(make: Make) -> bool:
    program = make()
    Walk.ended.update(dict.fromkeys(Walk.ended, 0))
    program.algo.step()
    assert Walk.ended["terminated"]
    assert Walk.ended["truncated"]
    return Walk.ended["and went on"] > 0


def no_opinion_costs_other_than_2_ln_2(make: Make) -> bool:
    return float(make().discriminator_loss(1).detach()) != pytest.approx(2 * LN2)


def loss_grows_with_the_batch(make: Make) -> bool:
    one, many = (float(make().discriminator_loss(pairs).detach()) for pairs in (1, 30))
    return many != pytest.approx(one)


def layer_is_idle(make: Make) -> bool:
    program = make()
    with torch.no_grad():
        for p in program.discriminator.parameters():
            p.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    parameters = list(program.discriminator.parameters())
    gradients = torch.autograd.grad(program.discriminator_loss(30), parameters, allow_unused=True)
    return any(gradient is None or not gradient.any() for gradient in gradients)


def statistics_are_never_taken(make: Make) -> bool:
    program = make()
    modules = (program.network, program.discriminator)
    buffers = [buffer for module in modules for buffer in module.buffers()]
    return any(moved([buffer], program.algo.step) == 0 for buffer in buffers)


def sigma_stands_still(make: Make) -> bool:
    program = make()
    return moved([program.log_std], program.algo.step) == 0


def ratio_is_not_that_of_the_whole_action(make: Make) -> bool:
    """One dimension becomes twice as likely, the other half as likely: their product stays 1.

    Then the surrogate is the mean of normalised advantages, 0, and nothing is clipped.
    """
    program, mean = make(epochs=2), 0.5
    fill(program.mean, 0.0)
    log_ratio_A = torch.tensor([LN2, -LN2])
    action_A = (log_ratio_A + mean**2 / 2) / mean  # of log N(a; mean, 1) - log N(a; 0, 1)
    program.collect(action_A)
    update = getattr(*program.update_of)

    def update_and_move(*args: Any) -> Any:
        outcome = update(*args)
        fill(program.mean, mean)
        with torch.no_grad():
            program.log_std.zero_()
        return outcome

    with replaced(*program.update_of, update_and_move):
        metrics = program.learn()
    return abs(metrics["train/policy_loss"]) > 1e-3


def observations_are_raw(make: Make) -> bool:
    for part in ("network", "discriminator"):
        program = make(offset=100)
        program.algo.step()  # the first rollout is what statistics begin with
        seen = learnt_from(program, getattr(program, part))
        if torch.cat(seen).abs().mean() > 3:
            return True
    return False


def advantages_are_raw(make: Make) -> bool:
    """With mean 0, the surrogate is 0 as long as the policy has not moved."""
    program = make()
    program.collect()
    return abs(program.learn()["train/policy_loss"]) > 1e-3


def gradients_are_of_any_size(make: Make) -> bool:
    """The value of a program that expects 1000 has a steep way to go. Adam's beta1 is 0.9."""
    program = make()
    fill(program.value, 1000.0)
    program.collect()
    program.learn()
    return program.first_moment().norm() / 0.1 > 0.51


def rollout_is_wasted(make: Make) -> bool:
    program = make()
    updates = []
    for _ in range(3):
        program.algo.step()
        updates.append(program.algo.counters.updates)
    return updates != [1, 2, 3]


def time_limit_is_death(make: Make) -> bool:
    """Where only the limit ends episodes, ln 2 for ever is what every state is worth."""
    program = make(ends=False)
    fill(program.value, LN2 / (1 - 0.99))
    program.collect()
    return program.learn()["train/value_loss"] > 1e-3


def batch_lacks_trajectories(make: Make) -> bool:
    program = make()
    [batch, *_] = learnt_from(program, program.discriminator)
    return not all((batch == mark).any() for mark in MARKS)


def head_goes_too_far(make: Make) -> bool:
    """Adam's first step moves no parameter by more than the learning rate."""
    program = make()
    program.collect()
    heads = [*program.mean.parameters(), *program.value.parameters()]
    return moved(heads, program.learn) > 1.1 * LR


def reward_overflows(make: Make) -> bool:
    """-log(1 - D) of the logit 100 is 100."""
    program = make()
    fill(program.logit, 100.0)
    try:
        with np.errstate(invalid="ignore"):
            metrics = program.algo.step()
    except NonFiniteError:
        return True
    return float(metrics["discriminator/agent_reward"]) != pytest.approx(100, rel=0.01)


DETECTORS: list[tuple[str, Callable[[Make], bool]]] = [
    ("actor_gets_no_gradient", actor_stands_still),
    ("never_resets", steps_on_after_the_end),
    ("double_sigmoid", no_opinion_costs_other_than_2_ln_2),
    ("sums_the_loss", loss_grows_with_the_batch),
    ("skips_second_layer", layer_is_idle),
    ("batch_norm", statistics_are_never_taken),
    ("fixed_sigma", sigma_stands_still),
    ("keeps_dimensions_apart", ratio_is_not_that_of_the_whole_action),
    ("normalizes_nothing", observations_are_raw),
    ("normalizes_nothing", advantages_are_raw),
    ("normalizes_nothing", gradients_are_of_any_size),
    ("wastes_rollouts", rollout_is_wasted),
    ("time_limit_is_terminal", time_limit_is_death),
    ("one_trajectory_a_batch", batch_lacks_trajectories),
    ("steps_heads_twice", head_goes_too_far),
    ("unstable_reward", reward_overflows),
]


@pytest.mark.parametrize(
    ("planted", "is_there"), DETECTORS, ids=[detector.__name__ for _, detector in DETECTORS]
)
def test_a_defect_is_found_where_it_is_planted_and_nowhere_else(tmp_path, planted, is_there):
    assert is_there(partial(Printed, tmp_path, planted))
    assert not is_there(partial(Printed, tmp_path))
    assert not is_there(partial(Ours, tmp_path))


def test_every_defect_has_a_detector():
    assert {name for name, _ in DETECTORS} == {f.name for f in dataclasses.fields(Defects)}


def test_demonstrations_may_be_of_float64(tmp_path):
    algo = Printed(tmp_path).algo
    columns = {name: getattr(algo.expert, name).astype(np.float64) for name in ("obs", "action")}
    algo.expert = dataclasses.replace(algo.expert, **columns)
    assert algo.step()["discriminator/loss"].isfinite()


def test_demonstrations_of_another_simulator_are_told_by_the_height():
    """Defect 3: upright is 1.25 in the expert's simulator and 0 in the agent's."""
    pytest.importorskip("pybullet")
    rng = np.random.default_rng(0)
    hopper = EnvConfig(id="rlzoo.envs.zoo.hopper:Hopper11BulletEnv-v0", restore="settle")
    shifted = dataclasses.replace(hopper, kwargs={"height_offset": 0.0})

    def act(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        return rng.uniform(-1, 1, (len(obs_B), 3)).astype(np.float32)

    recorded = record(Reactive(act), hopper, episodes=4, seed=0, source="")
    recorded = dataclasses.replace(recorded, seed=None)  # else it is told by its seeds, too
    assert not fit_report(recorded, partial(make_env, hopper)).warnings
    [warning] = fit_report(recorded, partial(make_env, shifted)).warnings
    assert warning.startswith("obs[0] alone tells")


def test_python_refuses_a_constructor_that_returns_something():
    """Defect 6: a `return` of what another method gives, in the discriminator's constructor."""
    with pytest.raises(TypeError, match="should return None"):
        type("Discriminator", (), {"__init__": lambda self: nn.Identity()})()
