"""C as another agent's: what is fitted is what the agent says, on what the pupil sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from world_models_parts import finish, imitation, pictures_store, vmc

from rlzoo.algos.world_models.imitate import _steps_until_stuck


def test_with_the_agents_own_v_and_m_c_is_the_agents(tmp_path: Path) -> None:
    agent = vmc(1)
    phase = imitation(tmp_path, agent=agent, pupil=agent, ridge=1e-9)
    explained = [row["train/imitate_explained_variance"] for row in finish(phase)]
    np.testing.assert_allclose(phase.params_N, agent.params_N, rtol=1e-3, atol=1e-3)
    assert explained[0] < 0.9 and explained[-1] > 0.999, "foreseen once something was learnt"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [0, 3])
def test_equals_least_squares_by_hand(tmp_path: Path, bias: bool, hidden: int) -> None:
    """Whatever V, M and C the agent has; step by step, as they would act."""
    store = pictures_store(tmp_path / "frames", (6, 9, 7, 5))
    agent = vmc(1, latent_size=3, hidden_size=2, hidden=hidden)
    pupil = vmc(2, bias=bias)
    phase = imitation(tmp_path, agent=agent, pupil=pupil, ridge=0.1, episodes=3)
    finish(phase)
    layers = agent.controller.layers(torch.from_numpy(agent.params_N[None]).float())
    inputs, outputs = [], []
    for index in range(3):
        episode = store.episode(index)
        seen: list[list[np.ndarray]] = [[], []]
        for it, rows in ((agent, seen[0]), (pupil, seen[1])):
            senses, carry_TM = it.senses, torch.zeros(1, 2 * it.senses.hidden_size)
            for frame_HWC, action_A in zip(episode["frame"], episode["action"], strict=True):
                noise_TZ = np.full((1, senses.latent_size), np.nan, np.float32)
                with torch.inference_mode():
                    latent_TZ = senses.look(frame_HWC[None].copy(), noise_TZ)
                    feature_TF = torch.cat([latent_TZ, carry_TM], dim=1)
                    rows.append(feature_TF[0, it.columns].numpy())
                    action_TA = torch.from_numpy(action_A[None].copy())
                    carry_TM = senses.remember(feature_TF, action_TA)
        x_TX = torch.from_numpy(np.array(seen[0]))
        *first, (weight, b) = [(weight[0], b[0]) for weight, b in layers]
        for w, c in first:
            x_TX = torch.tanh(x_TX @ w + c)
        outputs.append((x_TX @ weight + b).numpy())
        inputs.append(np.array(seen[1]))
    x_TX, y_TA = np.concatenate(inputs), np.concatenate(outputs)
    if bias:
        x_TX = np.concatenate([x_TX, np.ones((len(x_TX), 1))], axis=1)
    penalty_XX = np.sqrt(0.1) * np.eye(x_TX.shape[1])  # as more data whose outputs are 0
    stacked = (
        np.concatenate([x_TX, penalty_XX]),
        np.concatenate([y_TA, np.zeros((len(penalty_XX), 2))]),
    )
    expected_XA = np.linalg.lstsq(*stacked, rcond=None)[0]
    np.testing.assert_allclose(phase.params_N, expected_XA.ravel(), rtol=1e-3, atol=1e-4)
    got = pupil.controller.layers(torch.from_numpy(phase.params_N[None]))
    np.testing.assert_array_equal(got[0][0][0], phase.params_N.reshape(-1, 2)[:7])


def test_hopeless_steps_do_not_count(tmp_path: Path) -> None:
    reward_T = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1.0])
    assert _steps_until_stuck(reward_T, None) == 9
    assert _steps_until_stuck(reward_T, 4) == 9, "the fourth step after a reward has one"
    assert _steps_until_stuck(reward_T, 3) == 8, "three after the fifth have none"
    assert _steps_until_stuck(reward_T, 2) == 4
    assert _steps_until_stuck(-reward_T, 3) == 3
    patient, hasty = (imitation(tmp_path, patience_env_steps=n) for n in (None, 100))
    finish(patient)
    finish(hasty)
    np.testing.assert_array_equal(patient.params_N, hasty.params_N)


def test_an_episode_of_one_step_says_nothing_of_what_was_foreseen(tmp_path: Path) -> None:
    pictures_store(tmp_path / "frames", (1, 6))
    phase = imitation(tmp_path)
    assert phase.step() == {}
    assert np.isfinite(phase.step()["train/imitate_explained_variance"]) and phase.params_N.any()
