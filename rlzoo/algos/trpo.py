"""TRPO (Schulman et al. 2015) with advantages by GAE (Schulman et al. 2016), for discrete actions,
and for continuous ones with a Gaussian (gSDE: Raffin et al. 2022).

Collect a rollout with a fixed policy and estimate advantages (rlzoo/algos/on_policy.py); step once
along the natural gradient of the surrogate, as far as improvement and the KL divergence allow; then
fit the values, by themselves. One `step` is one rollout and all of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlzoo.algos.on_policy import VALUED_AT_ONCE, OnPolicy, OnPolicyConfig, Samples
from rlzoo.core.algorithm import Setup
from rlzoo.core.settings import Schedule, setting
from rlzoo.core.types import Metrics, NonFiniteError
from rlzoo.losses.policy_gradient import normalized_advantages, value_loss
from rlzoo.losses.trust_region import (
    Product,
    conjugate_gradients,
    flat_gradient,
    hessian_product,
    line_search,
    surrogate,
)
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named, check_finite


@dataclass(frozen=True)
class TRPOConfig(OnPolicyConfig):
    """Defaults as in sb3-contrib 2.x; those of Schulman et al. 2015 where they say so."""

    name: str = "trpo"
    batch_size: int = setting(
        128, "transitions in a minibatch for the values; the last one may be smaller", low=1
    )
    target_kl: float = setting(
        0.01, "trust region: KL divergence from old to new policy (Schulman et al. 2015)", above=0
    )
    kl_schedule: Schedule = setting(
        "constant", "linear: target_kl falls to 0 over the run, as PPO's rate may"
    )
    cg_iterations: int = setting(
        15, "conjugate gradients: steps at most (Schulman et al. 2015: 10)", low=1
    )
    cg_damping: float = setting(0.1, "added to the diagonal of the Fisher matrix", low=0)
    fisher_fraction: float = setting(
        1.0,
        "share of a rollout, at random, that the Fisher matrix is of (ibid.: 0.1)",
        above=0,
        high=1,
    )
    line_search_factor: float = setting(
        0.8, "a step that fails is tried again, shortened to this share", above=0, below=1
    )
    line_search_steps: int = setting(10, "steps tried, before the policy stays as it is", low=1)
    critic_lr: float = setting(1e-3, "learning rate of the values' Adam", above=0)
    critic_updates: int = setting(10, "passes over a rollout that fit the values", low=1)


class TRPO(OnPolicy):
    config: TRPOConfig

    def __init__(self, config: TRPOConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        network = self.network
        # An encoder with parameters (of images) belongs to the policy: what the critic would do to
        # it, no KL divergence bounds.
        policy = (network.encoder, network.policy, network.distribution)
        self.policy_parameters = [p for module in policy for p in module.parameters()]
        self.policy_P = parameters_to_vector(self.policy_parameters).detach()
        vector_to_parameters(self.policy_P, self.policy_parameters)  # views of it, from now on
        self.optimizer = Adam(network.value.parameters(), lr=config.critic_lr, eps=config.adam_eps)
        self.update_values = GradientStep(
            self.optimizer, self.values_loss, max_grad_norm=None, compile=setup.compile
        )
        self.parts["optimizer"] = self.optimizer

    def improve(self, samples: Samples) -> Metrics:
        """A step of the policy in its trust region, then passes that fit the values."""
        return self._improve_policy(samples) | self._fit_values(samples)

    # ---------------------------------------------------------------- the policy

    def _improve_policy(self, samples: Samples) -> Metrics:
        config = self.config
        advantage_B = normalized_advantages(samples.advantage_B)
        samples = samples._replace(advantage_B=advantage_B)
        objective, entropy, policy = self.objective(samples)
        gradient_P = flat_gradient(objective, self.policy_parameters)
        norm = torch.linalg.vector_norm(gradient_P)
        objective, old = objective.detach(), tuple(part.detach() for part in policy)
        check_finite(objective + norm, objective, norm)

        target_kl = self.scheduled(config.target_kl, config.kl_schedule)
        step_P, residual = self.natural_step(gradient_P, samples.obs_B, target_kl)

        def evaluate() -> tuple[torch.Tensor, torch.Tensor]:
            new_objective, _, new = self.objective(samples)
            return new_objective - objective, self.distribution.kl(old, new).mean()

        searched = line_search(
            self.policy_P,
            step_P,
            evaluate,
            max_kl=target_kl,
            factor=config.line_search_factor,
            trials=config.line_search_steps,
        )
        self.counters.updates += 1
        return {
            "train/grad_norm": norm,
            "train/cg_residual": residual,
            "train/policy_step_accepted": float(searched.accepted),
            "train/line_search_steps": float(searched.trials),
            "train/surrogate_improvement": searched.improvement,
            "train/kl": searched.kl,
            "train/entropy": entropy.detach(),
        }

    def objective(
        self, samples: Samples
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """What the policy is to maximise, its entropy, and its distributions (for the KL).

        The surrogate of Schulman et al. 2015, equation 14, and the bonus for entropy.
        """
        output_BA = self._outputs(samples.obs_B)
        log_prob_B, entropy = self.distribution.log_prob_and_entropy(output_BA, samples.action_B)
        gain = surrogate(log_prob_B - samples.log_prob_B, samples.advantage_B)
        policy = self.distribution.as_tensors(output_BA)
        return gain + self.config.entropy_coef * entropy, entropy, policy

    def natural_step(
        self, gradient_P: torch.Tensor, obs_B: torch.Tensor, target_kl: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The step along F^-1 g to the border of the trust region, and CG's relative residual.

        Where x solves F x = g it is sqrt(2 target_kl / x.Fx) x (ibid., appendix C).
        """
        x_P, residual_P = conjugate_gradients(
            self.fisher_product(obs_B), gradient_P, iterations=self.config.cg_iterations
        )
        curvature = float(x_P @ (gradient_P - residual_P))  # x.Fx, without another product
        if not math.isfinite(curvature):
            raise NonFiniteError("the natural gradient is not finite; the parameters are unchanged")
        length = math.sqrt(2 * target_kl / curvature) if curvature > 0 else 0.0
        norm, residual_norm = map(torch.linalg.vector_norm, (gradient_P, residual_P))
        return length * x_P, residual_norm / norm.clamp(min=torch.finfo(norm.dtype).tiny)

    def fisher_product(self, obs_B: torch.Tensor) -> Product:
        """Products with the policy's damped Fisher matrix, averaged over observations."""
        count = math.ceil(self.config.fisher_fraction * len(obs_B))
        if count < len(obs_B):
            chosen = self.minibatch_rng.choice(len(obs_B), count, replace=False)
            obs_B = obs_B[torch.from_numpy(chosen).to(obs_B.device)]
        policy = self.distribution.as_tensors(self._outputs(obs_B))
        kl_from_itself = self.distribution.kl(tuple(part.detach() for part in policy), policy)
        return hessian_product(
            kl_from_itself.mean(), self.policy_parameters, damping=self.config.cg_damping
        )

    def _outputs(self, obs_B: torch.Tensor) -> torch.Tensor:
        return self.network.policy(self.network.encoder(obs_B))

    # ---------------------------------------------------------------- the values

    def _fit_values(self, samples: Samples) -> Metrics:
        encoder = self.network.encoder
        with torch.no_grad():
            features_BF = torch.cat([encoder(o) for o in samples.obs_B.split(VALUED_AT_ONCE)])
        columns = (features_BF, samples.return_B)
        minibatches = self.minibatches(columns, self.config.critic_updates)
        losses = [self.update_values(*minibatch)["loss"] for minibatch in minibatches]
        self.counters.updates += len(losses)
        return {"train/value_loss": torch.stack(losses).mean()}

    def values_loss(
        self, features_BF: torch.Tensor, return_B: torch.Tensor
    ) -> tuple[torch.Tensor, Named]:
        """Mean squared error of the values of a minibatch. No gradient reaches the encoder."""
        return value_loss(self.network.value(features_BF).squeeze(1), return_B), {}
