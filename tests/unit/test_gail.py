"""GAIL and AIRL: what their agent is paid, what their discriminators see, and that they imitate."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from experts import with_demonstrations
from gymnasium import spaces

from rlzoo.algos.gail.airl import AIRL, AIRLConfig
from rlzoo.algos.gail.gail import GAIL, DiscriminatorConfig, GAILConfig
from rlzoo.algos.gail.transitions import Transitions
from rlzoo.algos.ppo import PPOConfig
from rlzoo.algos.trpo import TRPOConfig
from rlzoo.core.algorithm import Algorithm, Network, Reactive, Setup
from rlzoo.core.types import DataError, NonFiniteError, UsageError
from rlzoo.demonstrations.files import DemonstrationsConfig, chosen, encode
from rlzoo.demonstrations.recording import record
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import EnvConfig
from rlzoo.envs.recorded import RecordedVectorEnv
from rlzoo.envs.sync import SyncVectorEnv
from rlzoo.nets.mlp import NetworkConfig, vector_encoder
from rlzoo.run.build import build, close
from rlzoo.run.config import compose, plain, with_overrides

torch.set_num_threads(1)
AGENT = PPOConfig(rollout_env_steps=64, batch_size=32, epochs=2)


class Corridor(gymnasium.Env[np.ndarray, np.ndarray]):
    """A walk on a line by at most 1 a step; ends at 5 and beyond, and is cut after 8 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x, self.age = float(self.np_random.uniform(-1, 1)), 0
        return np.array([self.x], np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.x, self.age = self.x + float(action[0]), self.age + 1
        obs = np.array([self.x], np.float32)
        return obs, 1.0, self.x >= 5, self.age == 8, {}


def demonstrations(path: Path, action: float = 1.0, trajectories: int = 4) -> DemonstrationsConfig:
    """An expert that always does the same, in a file."""
    obs, actions, starts, terminated, final = [], [], [0], [], []
    for start in np.linspace(-0.9, 0.9, trajectories):
        x, age = start, 0
        while x < 5 and age < 8:
            obs.append([x])
            actions.append([action])
            x, age = x + action, age + 1
        starts.append(len(obs))
        terminated.append(x >= 5)
        final.append([x])
    made = Demonstrations(
        obs=np.array(obs, np.float32),
        action=np.array(actions, np.float32),
        reward=np.zeros(len(obs)),
        start=np.array(starts),
        terminated=np.array(terminated),
        final_obs=np.array(final, np.float32),
        source="",
        env_id=None,
    )
    path.write_bytes(encode(made, "imitation"))
    return DemonstrationsConfig(path=str(path))


def make(config: GAILConfig, path: Path, *, steps: int = 10_000, env: Any = Corridor) -> GAIL:
    if not config.demonstrations.path:
        config = replace(config, demonstrations=demonstrations(path / "expert.npz"))
    envs = [EpisodeEnv(env, run_seed=0, purpose="train", env_index=i) for i in range(4)]
    setup = Setup(
        env=RecordedVectorEnv(SyncVectorEnv(envs)),
        seed=0,
        total_env_steps=steps,
        network=Network(NetworkConfig(hidden=(16,), activation="tanh"), vector_encoder),
        demonstrations=partial(chosen, config.demonstrations),
    )
    return (AIRL if isinstance(config, AIRLConfig) else GAIL)(config, setup)


def acted(algorithm: Algorithm, obs_B: np.ndarray) -> np.ndarray:
    assert algorithm.policy is not None
    return algorithm.policy.act(obs_B, (), explore=False)[0]


def rewards_of_a_step(gail: GAIL) -> np.ndarray:
    """What the agent is handed to learn from in the next step, [T, N]."""
    seen = []
    learn = gail.generator.learn

    def watched() -> Any:
        seen.append(gail.generator.rollout.reward_TN.copy())
        return learn()

    gail.generator.learn = watched
    gail.step()
    gail.generator.learn = learn
    return seen[0]


def test_a_new_discriminator_has_no_opinion(tmp_path):
    for config in (GAILConfig(ppo=AGENT), AIRLConfig(ppo=AGENT)):
        gail = make(config, tmp_path)
        gail.generator.collect()
        agent = gail._agent_transitions()
        rows = [gail.discriminator.rows(t) for t in (gail.expert, agent)]
        loss, parts = gail.loss(*rows, torch.zeros(1))
        entropy = parts["entropy"]
        score_B = gail.discriminator.score(torch.cat(rows))
        assert (score_B == 0).all()
        if isinstance(config, AIRLConfig):
            continue  # its logit has -log pi from the start
        entropy_coef = config.discriminator.entropy_coef
        assert float(entropy) == pytest.approx(math.log(2))
        assert float(loss + entropy_coef * entropy) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("form", ["gail", "log_d", "airl", "fairl"])
def test_the_agent_is_paid_for_what_the_discriminator_says_and_not_by_the_env(tmp_path, form):
    gail = make(GAILConfig(ppo=AGENT, reward=form, absorbing=False), tmp_path)
    reward_TN = rewards_of_a_step(gail)
    agent = gail._agent_transitions()
    with torch.no_grad():
        logit_B = gail.discriminator.logit(gail.discriminator.rows(agent)).double().numpy()
    d_B = 1 / (1 + np.exp(-logit_B))
    wanted = {
        "gail": -np.log(1 - d_B),
        "log_d": np.log(d_B),
        "airl": logit_B,
        "fairl": -logit_B * np.exp(logit_B),
    }
    assert reward_TN.ravel() == pytest.approx(wanted[form], abs=1e-5)
    assert np.unique(reward_TN).size > 10
    assert (
        gail.env.gauges()["rollout/return_mean"] > 4
    )  # the true return, 1 a step, is what is logged


def test_the_reward_is_high_for_what_the_expert_does(tmp_path):
    gail = make(GAILConfig(ppo=AGENT), tmp_path)
    metrics = [gail.step() for _ in range(6)][-1]
    assert metrics["discriminator/expert_reward"] > metrics["discriminator/agent_reward"]
    obs_B, action_B = np.zeros((2, 1), np.float32), np.array([[1], [-1]], np.float32)
    like_expert_and_not = Transitions(obs_B, action_B, obs_B, np.zeros(2, bool))
    with torch.no_grad():
        logit_B = gail.discriminator.logit(gail.discriminator.rows(like_expert_and_not))
    assert logit_B[0] > logit_B[1]


def test_what_the_absorbing_state_pays_is_taken_off_all_rewards(tmp_path):
    """The expert ends 4 times in 22 steps; the agent twice in 64 steps, then 6 times."""
    gail = make(GAILConfig(ppo=AGENT), tmp_path)
    assert len(gail.expert.obs_B) == 22
    for ends in (2, 6):
        gail._note_ends(np.arange(64) < ends)
    agent_share = 0.9 * (2 / 66) + 0.1 * (6 / 70)
    assert gail.absorbing.agent_share == pytest.approx(agent_share)
    paid = math.log(1 + (4 / 26 + 1e-3) / (agent_share + 1e-3))  # softplus of the log ratio
    gail.generator.collect()
    rows = [gail.discriminator.rows(t) for t in (gail.expert, gail._agent_transitions())]
    for logit, wanted in ((5.0, math.log(1 + math.exp(5)) - paid), (-5.0, 0.0)):
        # An end pays no more than what the expert does.
        gail.absorbing.agent_share = agent_share
        gail.discriminator.logit = lambda row_BX, c=logit: torch.full((len(row_BX),), c)
        gail._reward(*rows)
        assert gail.generator.rollout.reward_TN == pytest.approx(wanted, abs=1e-5)


def drifting_expert(file: Path) -> Path:
    """Ten episodes of CartPole of 370 to 500 steps, most of which leave the track in the end."""

    def act(obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        _, speed, angle, spin = obs_B.T
        return (0.1 * (speed - 0.44) + angle + 0.3 * spin > 0).astype(np.int64)

    env = EnvConfig(id="CartPole-v1", restore="replay")
    recorded = record(Reactive(act), env, episodes=10, seed=0, source="here")
    assert recorded.terminated.sum() == 7
    file.write_bytes(encode(recorded, "imitation"))
    return file


def test_an_agent_learns_to_survive_from_an_expert_that_ends_now_and_then(tmp_path):
    words = f"""algo=gail env=cartpole experiment=none env.num_envs=4 total_env_steps=8192 seed=1
        algo.ppo.rollout_env_steps=1024 algo.demonstrations.path={drifting_expert(tmp_path / "e")}
        algo.demonstrations.keep_every=1""".split()
    gail = build(compose(words))
    returns = []
    while not gail.done():
        gail.step()
        returns.append(gail.env.gauges()["rollout/return_mean"])
    assert min(returns) > 18  # random play has 22
    assert returns[-1] > 35
    close(gail)


def test_the_agents_actions_are_seen_as_the_env_got_them(tmp_path):
    gail = make(GAILConfig(ppo=replace(AGENT, log_std_init=2.0)), tmp_path)
    gail.generator.collect()
    assert np.abs(gail.generator.rollout.action_TN).max() > 1
    agent = gail._agent_transitions()
    assert np.abs(agent.action_B).max() == 1


def test_airl_logit_by_hand(tmp_path):
    gail = make(AIRLConfig(ppo=replace(AGENT, gamma=0.5), absorbing=True), tmp_path)
    discriminator = gail.discriminator
    discriminator.network = {
        "reward": lambda pair_BF: 10 * pair_BF[:, :1],  # of the action
        "potential": lambda state_BF: state_BF[:, :1] + 3,
    }
    discriminator.features.update(np.array([[-1], [1]], np.float32))
    scale = discriminator.features.statistics
    scale.mean[:], scale.variance[:] = 0, 1
    obs_B = np.array([[1], [2]], np.float32)
    action_B = np.array([[0.5], [-1]], np.float32)
    next_obs_B = np.array([[1.5], [9]], np.float32)
    terminated_B = np.array([False, True])
    rows = discriminator.rows(Transitions(obs_B, action_B, next_obs_B, terminated_B))
    log_prob_B = gail.generator.log_prob(obs_B, action_B)
    wanted = [
        5 + 0.5 * (1.5 + 3) - (1 + 3) - log_prob_B[0],
        -10 + 0 - (2 + 3) - log_prob_B[1],  # a terminal state has no potential
    ]
    assert discriminator.logit(rows).tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("settings", [GAILConfig(ppo=AGENT), AIRLConfig(ppo=AGENT)])
def test_airl_and_gail_hand_the_actor_a_gradient(tmp_path, settings):
    gail = make(settings, tmp_path)
    before = {name: p.detach().clone() for name, p in gail.generator.network.named_parameters()}
    gail.step()
    for name, parameter in gail.generator.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_regularisers_change_the_loss_as_they_say(tmp_path):
    def loss(**settings: Any) -> float:
        config = DiscriminatorConfig(entropy_coef=0, **settings)
        gail = make(GAILConfig(ppo=AGENT, discriminator=config), tmp_path)
        with torch.no_grad():
            gail.optimizer.vector.fill_(0.1)
        rng = np.random.default_rng(0)
        size = gail.discriminator.features.num_pair
        rows = (torch.from_numpy(rng.random((5, size), np.float32)) for _ in range(2))
        return float(gail.loss(*rows, torch.full((5, 1), 0.5))[0].detach())

    gail = make(GAILConfig(ppo=AGENT), tmp_path)
    squares = 0.01 * len(gail.optimizer.vector)
    assert loss(weight_decay=0.3) == pytest.approx(loss() + 0.5 * 0.3 * squares, rel=1e-5)
    one, two = loss(gradient_penalty=1.0) - loss(), loss(gradient_penalty=2.0) - loss()
    assert one > 0.01
    assert two == pytest.approx(2 * one, rel=1e-4)


def test_spectral_norm_holds_the_slope_of_the_discriminator(tmp_path):
    config = DiscriminatorConfig(spectral_norm=True, activation="relu", updates=50, lr=0.1)
    gail = make(GAILConfig(ppo=AGENT, discriminator=config), tmp_path)
    gail.step()
    free = replace(config, spectral_norm=False)
    control = make(GAILConfig(ppo=AGENT, discriminator=free), tmp_path)
    control.step()

    def slope(gail: GAIL) -> float:
        row_BX = gail.discriminator.rows(gail.expert).requires_grad_()
        [gradient] = torch.autograd.grad(gail.discriminator.score(row_BX).sum(), row_BX)
        return float(gradient.norm(dim=1).max())

    assert slope(gail) < 1.1
    assert slope(control) > 2


def test_the_agents_older_rollouts_are_replayed(tmp_path):
    config = DiscriminatorConfig(replay_rollouts=3)
    gail = make(GAILConfig(ppo=AGENT, discriminator=config, absorbing=False), tmp_path)
    sizes = []
    for _ in range(5):
        gail.step()
        sizes.append(sum(map(len, gail.recent)))
    assert sizes == [64, 128, 192, 192, 192]


def test_a_reward_of_one_sign_is_warned_of_where_episodes_terminate(tmp_path, capsys):
    def warnings(config: GAILConfig) -> list[str]:
        capsys.readouterr()
        gail = make(config, tmp_path)
        gail.generator.collect()
        gail.generator.rollout.terminated_TN[3, 1] = True
        gail._agent_transitions()
        gail._agent_transitions()
        return capsys.readouterr().err.splitlines()

    [warning] = warnings(GAILConfig(ppo=AGENT, absorbing=False))
    assert "survive" in warning
    [warning] = warnings(GAILConfig(ppo=AGENT, absorbing=False, reward="log_d"))
    assert "end the episode" in warning
    assert not warnings(GAILConfig(ppo=AGENT, absorbing=False, reward="airl"))
    assert not warnings(GAILConfig(ppo=AGENT, absorbing=True))


def test_a_nan_stops_the_discriminator_before_it_learns(tmp_path):
    gail = make(GAILConfig(ppo=AGENT), tmp_path)
    gail.step()
    gail.expert.obs_B[0] = np.nan
    with pytest.raises(NonFiniteError):
        for _ in range(20):  # until the pair is drawn
            gail.step()
    assert torch.isfinite(gail.optimizer.vector).all()


@pytest.mark.parametrize("config", [GAILConfig(), GAILConfig(absorbing=False), AIRLConfig()])
@pytest.mark.parametrize("action", [1.0, -1.0])
def test_it_imitates_whether_the_expert_ends_the_episode_or_not(tmp_path, action, config):
    """One expert goes to the end at once, the other away from it for as long as it may."""
    config = replace(
        config,
        demonstrations=demonstrations(tmp_path / "expert.npz", action),
        ppo=PPOConfig(rollout_env_steps=256, batch_size=64, epochs=5, lr=3e-3),
        discriminator=DiscriminatorConfig(hidden=(32,), lr=1e-3),
    )
    gail = make(config, tmp_path)
    obs_B = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    at_first = np.abs(acted(gail, obs_B) - action).max()
    for _ in range(80):
        gail.step()
    assert np.abs(acted(gail, obs_B) - action).max() < 0.3 < at_first


def test_it_begins_as_a_clone_of_the_expert(tmp_path):
    agent = replace(AGENT, normalize_obs=True)
    gail = make(GAILConfig(ppo=agent, warm_start_updates=200), tmp_path)
    obs_B = np.linspace(-1, 4, 6, dtype=np.float32)[:, None]
    assert np.abs(acted(gail, obs_B) - 1).max() > 0.3
    phases = []
    for _ in range(3):
        gail.step()
        phases.append((gail.counters.phase, gail.counters.clock))
    assert phases == [("warm start", 100), ("train", 200), ("train", 264)]
    first = make(GAILConfig(ppo=agent, warm_start_updates=200), tmp_path)
    for _ in range(2):
        first.step()
    assert np.abs(acted(first, obs_B) - 1).max() < 0.3
    assert first.generator.obs_normalizer.statistics.mean == pytest.approx(
        first.expert.obs_B.mean(), abs=0.5
    )
    assert np.abs(acted(gail, obs_B) - 1).max() < 0.5  # and does not lose it at once


def test_a_state_of_either_phase_is_loaded(tmp_path):
    config = GAILConfig(ppo=AGENT, warm_start_updates=200)
    obs_B = np.linspace(-1, 4, 6, dtype=np.float32)[:, None]
    for steps in (1, 2, 3):
        saved, loaded, played = (make(config, tmp_path) for _ in range(3))
        for _ in range(steps):
            saved.step()
        loaded.load(saved.state())
        played.load_policy(saved.state())
        for other in (loaded, played):
            assert np.array_equal(acted(other, obs_B), acted(saved, obs_B)), steps
        assert loaded.counters == saved.counters


def test_changed_demonstrations_are_noticed(tmp_path):
    config = GAILConfig(ppo=AGENT, demonstrations=demonstrations(tmp_path / "expert.npz"))
    saved = make(config, tmp_path)
    saved.step()
    state = saved.state()
    make(config, tmp_path).load(state)
    demonstrations(tmp_path / "expert.npz", -1.0)
    with pytest.raises(DataError, match="has changed"):
        make(config, tmp_path).load(state)


def test_a_clone_has_no_gsde():
    class Run:
        algo = GAILConfig(ppo=replace(AGENT, gsde=True), warm_start_updates=5)

    with pytest.raises(UsageError, match="gsde"):
        GAIL.check(Run)


def test_the_agents_settings_are_named_as_they_are_here():
    with pytest.raises(UsageError, match=r"^algo\.ppo\.rollout_env_steps: got 50, expected"):
        compose(["algo=gail", "env=cartpole", "env.num_envs=4", "algo.ppo.rollout_env_steps=50"])


@pytest.mark.parametrize("algo", ["gail", "airl"])
def test_the_defaults_take_discrete_observations(algo):
    """They normalise vectors; codes stay as they are."""
    config = compose([f"algo={algo}", "env=frozenlake", "experiment=none", "debug=tiny"])
    assert config.algo.ppo.normalize_obs
    config = with_demonstrations(config)
    algorithm = build(config)
    algorithm.step()
    assert algorithm.generator.obs_normalizer is None
    vector = build(with_demonstrations(compose([f"algo={algo}", "env=cartpole", "debug=tiny"])))
    assert vector.generator.obs_normalizer is not None


@pytest.mark.parametrize(
    "word",
    ["absorbing=false", "discriminator.hidden=[7]", "discriminator.activation=relu"],
)
def test_what_the_state_depends_on_cannot_be_changed_by_a_resume(word):
    saved = plain(compose(["algo=gail", "env=cartpole"]))
    with pytest.raises(UsageError, match="would change what the run is"):
        with_overrides(saved, [f"algo.{word}"])
    assert with_overrides(saved, ["algo.discriminator.lr=1e-4"])[1]  # control


@pytest.mark.parametrize(
    "experiment", ["gail_chapter", "gail_chapter_as_printed", "gail_hopper_bullet"]
)
def test_the_hopper_in_training_is_filmed_at_each_evaluation(experiment):
    assert compose([f"experiment={experiment}"]).logger.every_video


@pytest.mark.parametrize("generator", ["ppo", "trpo"])
def test_either_generator_is_paid(tmp_path, generator):
    trpo = TRPOConfig(rollout_env_steps=64, batch_size=32)
    gail = make(GAILConfig(ppo=AGENT, trpo=trpo, generator=generator), tmp_path)
    assert type(gail.generator).__name__.lower() == generator
    assert np.unique(rewards_of_a_step(gail)).size > 10
