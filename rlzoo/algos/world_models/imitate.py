"""C begins as another agent's: phase `imitate`, between a new V or M and C.

An agent's C is worth nothing on another V or M, whose numbers mean something else. But C is linear,
so the one that comes closest to what the agent's own C says of stored frames, before its tanh, is a
ridge regression on what the new V and M make of the same frames: behavioural cloning (Pomerleau
1991) in closed form. Shape suffixes: T steps of an episode, Z latents, X inputs of C (and a
constant 1), A actions, N parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from rlzoo.algos.world_models.frame_store import FrameStore
from rlzoo.algos.world_models.phases import Phase
from rlzoo.algos.world_models.policy import VMCPolicy
from rlzoo.core.seeding import numpy_generator
from rlzoo.core.settings import setting
from rlzoo.core.types import Counters, Metrics, State


@dataclass(frozen=True)
class ImitateConfig:
    agent: str = setting(
        "", "the run of world_models that C is to act like ('': algo.source)", fixed=True
    )
    episodes: int = setting(100, "of those stored, the first so many are learnt from", low=1)
    ridge: float = setting(1.0, "penalty on C's squared weights, in squared outputs", above=0)


class ImitatePhase(Phase):
    """Fits the linear C of a `pupil` to the outputs of an `agent`.

    What is kept from episode to episode are sums, so memory is flat. As in training, an episode
    counts until it has had no reward above 0 for `patience_env_steps`: a car that is stuck sees
    the same for hundreds of steps.
    """

    name: ClassVar = "imitate"
    unit: ClassVar = "episodes"
    length: ClassVar = "imitate.episodes"

    def __init__(
        self,
        config: ImitateConfig,
        *,
        seed: int,
        frames: FrameStore,
        agent: VMCPolicy,
        pupil: VMCPolicy,
        patience_env_steps: int | None,
    ) -> None:
        self.config, self.seed, self.frames = config, seed, frames
        self.agent, self.pupil, self.patience = agent, pupil, patience_env_steps
        params_1N = torch.from_numpy(agent.params_N[None].astype(np.float32))
        self._layers = agent.controller.layers(params_1N)
        num_actions = pupil.controller.action_size
        num_inputs, rest = divmod(pupil.controller.num_params, num_actions)
        assert not rest, "linear"
        self._square_XX = np.zeros((num_inputs, num_inputs))
        self._product_XA = np.zeros((num_inputs, num_actions))
        self.episodes = 0

    @property
    def params_N(self) -> np.ndarray:
        """The pupil's parameters after the episodes so far."""
        penalty_XX = self.config.ridge * np.eye(len(self._square_XX))
        return np.linalg.solve(self._square_XX + penalty_XX, self._product_XA).ravel()

    def step(self) -> Metrics:
        """Learn from one episode; the metric is how much of it was foreseen before."""
        input_TX, output_TA = self._seen(self.episodes)
        foreseen_TA = input_TX @ self.params_N.reshape(self._product_XA.shape)
        error, variance = np.square(output_TA - foreseen_TA).mean(), output_TA.var(axis=0).mean()
        self._square_XX += input_TX.T @ input_TX
        self._product_XA += input_TX.T @ output_TA
        self.episodes += 1
        if not variance:  # an episode of one step
            return {}
        return {"train/imitate_explained_variance": float(1 - error / variance)}

    @torch.inference_mode()
    def _seen(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of the pupil, and outputs of the agent in the same steps."""
        episode = self.frames.episode(index)
        length = _steps_until_stuck(episode["reward"], self.patience)
        frame_THWC, action_TA = (episode[name][:length].copy() for name in ("frame", "action"))
        rng = numpy_generator(self.seed, "imitate", index)
        inputs = []
        for policy in (self.pupil, self.agent):
            noise_TZ = rng.standard_normal((length, policy.senses.latent_size), np.float32)
            inputs.append(policy.inputs(frame_THWC, action_TA, noise_TZ))
        output_TA = self.agent.controller.outputs(self._layers, inputs[1]).double().numpy()
        input_TX = inputs[0].double().numpy()
        if len(self._square_XX) > input_TX.shape[1]:  # a bias comes after the weights
            input_TX = np.concatenate([input_TX, np.ones((length, 1))], axis=1)
        return input_TX, output_TA

    def progress(self) -> tuple[int, int]:
        return self.episodes, min(self.config.episodes, self.frames.num_episodes)

    def counted(self) -> Counters:
        return Counters(offline_units=self.episodes)

    def left(self) -> State:
        params_N = self.params_N
        return {"mean": params_N, "best": params_N}

    def state(self) -> State:
        return {
            "episodes": self.episodes,
            "square": self._square_XX.copy(),
            "product": self._product_XA.copy(),
            **self.left(),
        }

    def load(self, state: State) -> None:
        self.episodes = state["episodes"]
        self._square_XX, self._product_XA = np.array(state["square"]), np.array(state["product"])


def _steps_until_stuck(reward_T: np.ndarray, patience: int | None) -> int:
    """How many steps of an episode count."""
    if patience is None:
        return len(reward_T)
    gain_G = np.concatenate([[0], np.flatnonzero(reward_T > 0) + 1, [len(reward_T)]])
    stop_G = gain_G[:-1][np.diff(gain_G) > patience]
    return int(stop_G[0] + patience) if len(stop_G) else len(reward_T)
