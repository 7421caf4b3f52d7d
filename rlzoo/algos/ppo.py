"""PPO (Schulman et al. 2017) with the details of Huang et al. 2022 ("The 37 implementation details
of proximal policy optimization"), for discrete actions, and for continuous ones with a Gaussian
(gSDE: Raffin et al. 2022).

Collect a rollout with a fixed policy and estimate advantages (rlzoo/algos/on_policy.py); make
`epochs` passes over it in shuffled minibatches. One `step` is one rollout and its epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlzoo.algos.on_policy import OnPolicy, OnPolicyConfig, Samples
from rlzoo.core.algorithm import Setup
from rlzoo.core.settings import Schedule, setting
from rlzoo.core.types import Metrics
from rlzoo.losses.policy_gradient import (
    clip_fraction,
    clipped_surrogate_loss,
    clipped_value_loss,
    kl_estimate,
    normalized_advantages,
    value_loss,
)
from rlzoo.nets.adam import Adam
from rlzoo.nets.update import GradientStep, Named, averaged

KL_TOLERANCE = 1.5  # the epochs stop above target_kl times this, as in Stable-Baselines3


@dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Defaults as in Stable-Baselines3 2.x, which are those of Schulman et al. 2017 for MuJoCo."""

    name: str = "ppo"
    epochs: int = setting(10, "passes over a rollout", low=1)
    lr: float = setting(3e-4, "Adam's learning rate, at first", above=0)
    lr_schedule: Schedule = setting(
        "constant", "linear: falls to 0 over the run (Huang et al. 2022, detail 4)"
    )
    clip: float = setting(0.2, "ratios are clipped to 1 +- this, at first", above=0)
    clip_schedule: Schedule = setting("constant", "linear: falls to 0 over the run")
    normalize_advantage: bool = setting(True, "in each minibatch: mean 0, standard deviation 1")
    value_coef: float = setting(0.5, "weight of the mean squared error of the values", low=0)
    value_clip: float | None = setting(
        None,
        "values move this far at most (OpenAI Baselines: 0.2; null: as far as they like)",
        above=0,
    )
    max_grad_norm: float | None = setting(0.5, "gradients are clipped to this norm", above=0)
    target_kl: float | None = setting(
        None, "a rollout's epochs stop after a minibatch with a KL above 1.5 of this", above=0
    )


class PPO(OnPolicy):
    config: PPOConfig

    def __init__(self, config: PPOConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.optimizer = Adam(self.network.parameters(), lr=config.lr, eps=config.adam_eps)
        self.update = GradientStep(
            self.optimizer,
            self.loss,
            max_grad_norm=config.max_grad_norm,
            watched={"policy_grad_norm": self._policy_part()},
            compile=setup.compile,
        )
        self.parts["optimizer"] = self.optimizer

    def _policy_part(self) -> slice:
        """Where the policy's layers lie among all parameters: behind the encoder's."""
        modules = (self.network.encoder, self.network.policy)
        first, size = (sum(p.numel() for p in module.parameters()) for module in modules)
        return slice(first, first + size)

    def improve(self, samples: Samples) -> Metrics:
        """Passes over the rollout in minibatches, until the policy has moved too far."""
        config = self.config
        self.optimizer.lr = self.scheduled(config.lr, config.lr_schedule)
        clip = self.scheduled(config.clip, config.clip_schedule)
        clip_tensor = torch.tensor(clip, device=self.setup.device)
        updates: list[Named] = []
        for minibatch in self.minibatches(samples, config.epochs):
            updates.append(self.update(*minibatch, clip_tensor))
            if self._has_moved_too_far(updates[-1]):
                break
        self.counters.updates += len(updates)
        rates: Metrics = {"train/lr": self.optimizer.lr, "train/clip": clip}
        return averaged(updates, "train") | rates

    def _has_moved_too_far(self, update: Named) -> bool:
        target_kl = self.config.target_kl
        return target_kl is not None and float(update["kl"]) > KL_TOLERANCE * target_kl

    def loss(
        self,
        obs_B: torch.Tensor,
        action_B: torch.Tensor,
        old_log_prob_B: torch.Tensor,
        advantage_B: torch.Tensor,
        return_B: torch.Tensor,
        old_value_B: torch.Tensor,
        clip: torch.Tensor,
    ) -> tuple[torch.Tensor, Named]:
        """The loss of a minibatch, its three parts, and how far the policy has moved.

        Schulman et al. 2017, equation 9.
        """
        config = self.config
        output_BA, value_B = self.network(obs_B)
        log_prob_B, entropy = self.distribution.log_prob_and_entropy(output_BA, action_B)
        log_ratio_B = log_prob_B - old_log_prob_B
        if config.normalize_advantage:
            advantage_B = normalized_advantages(advantage_B)
        policy_loss = clipped_surrogate_loss(log_ratio_B, advantage_B, clip)
        if config.value_clip is None:
            values_loss = value_loss(value_B, return_B)
        else:
            values_loss = clipped_value_loss(value_B, old_value_B, return_B, config.value_clip)
        loss = policy_loss + config.value_coef * values_loss - config.entropy_coef * entropy
        with torch.no_grad():
            kl, fraction = kl_estimate(log_ratio_B), clip_fraction(log_ratio_B, clip)
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": values_loss,
            "entropy": entropy,
            "kl": kl,
            "clip_fraction": fraction,
        }
