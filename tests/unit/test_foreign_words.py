"""What users of other libraries and of a shell type by habit, and the line that each gets."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from rlzoo.cli.main import main
from rlzoo.core import registry
from rlzoo.run import config as configuration
from rlzoo.run import foreign
from rlzoo.run.strict import defaults

# The words as typed, and what the error has to say.
SETTINGS = [
    # Stable-Baselines3
    ("algo=dqn algo.learning_rate=1e-3", "Did you mean 'algo.lr'?"),
    ("algo=ppo algo.learning_rate=1e-3", "Did you mean 'algo.lr'?"),
    ("algo=trpo algo.learning_rate=1e-3", "Did you mean 'algo.critic_lr'?"),
    ("algo=q_learning algo.learning_rate=0.1", "Did you mean 'algo.alpha'?"),
    ("algo=gail algo.learning_rate=1e-3", "Did you mean 'algo.ppo.lr'?"),
    ("algo=dqn learning_rate=1e-3", "unknown setting 'learning_rate'. Did you mean 'algo.lr'?"),
    ("algo=dqn algo.learning_rates=1e-3", "Did you mean 'algo.lr'?"),
    ("algo=dqn algo.buffer_size=1000", "Did you mean 'replay.capacity'?"),
    ("algo=ppo buffer_size=1000", "it is 'replay.capacity', which algo=ppo does not have"),
    ("algo=dqn algo.learning_starts=100", "Did you mean 'algo.learning_starts_env_steps'?"),
    ("algo=dqn algo.train_freq=4", "Did you mean 'algo.train_every_env_steps'?"),
    ("algo=dqn algo.target_update_interval=9", "Did you mean 'algo.target_every_env_steps'?"),
    ("algo=dqn algo.exploration_fraction=0.1", "Did you mean 'algo.epsilon_fraction'?"),
    ("algo=dqn algo.exploration_final_eps=0.1", "Did you mean 'algo.epsilon_final'?"),
    ("algo=ppo algo.n_steps=128", "Did you mean 'algo.rollout_env_steps'? (of all envs together"),
    ("algo=dqn algo.n_steps=3", "Did you mean 'algo.n_step'?"),
    ("algo=ppo algo.n_epochs=4", "Did you mean 'algo.epochs'?"),
    ("algo=ppo algo.ent_coef=0.01", "Did you mean 'algo.entropy_coef'?"),
    ("algo=ppo algo.vf_coef=0.5", "Did you mean 'algo.value_coef'?"),
    ("algo=ppo algo.clip_range=0.2", "Did you mean 'algo.clip'?"),
    ("algo=ppo algo.clip_range_vf=0.2", "Did you mean 'algo.value_clip'?"),
    ("algo=ppo algo.use_sde=true", "Did you mean 'algo.gsde'?"),
    ("algo=ppo algo.policy_kwargs.net_arch=[64,64]", "Did you mean 'network.hidden'?"),
    ("algo=ppo policy_kwargs=dict(net_arch=[64])", "write network.hidden="),
    ("algo=ppo policy=MlpPolicy", "Did you mean 'network'? (mlp or nature_cnn)"),
    ("algo=ppo network=MlpPolicy", "Did you mean 'network=mlp'?"),
    ("algo=dqn network=CnnPolicy", "Did you mean 'network=nature_cnn'?"),
    ("algo=ppo total_timesteps=1e5", "Did you mean 'total_env_steps'?"),
    ("algo=ppo verbose=1", "A terminal shows a progress bar"),
    ("algo=ppo tensorboard_log=logs", "Did you mean 'logger.tensorboard'? (on by default)"),
    ("algo=ppo progress_bar=true", "A terminal shows a progress bar"),
    ("algo=ppo callback=EvalCallback", "Evaluation, checkpoints and logs are part of every run"),
    ("algo=ppo env.n_envs=8", "Did you mean 'env.num_envs'?"),
    ("algo=ppo vec_env=subproc", "Did you mean 'env.backend'?"),
    ("algo=ppo env.backend=SubprocVecEnv", "Did you mean 'process'?"),
    ("algo=ppo algo.norm_obs=true", "Did you mean 'algo.normalize_obs'?"),
    ("algo=ppo eval_freq=1000", "Did you mean 'eval.every'?"),
    ("algo=ppo n_eval_episodes=10", "Did you mean 'eval.episodes'?"),
    ("device=auto", "expected one of cpu, cuda. Did you mean 'cuda'?"),
    ("device=gpu", "Did you mean 'cuda'?"),
    ("device=cuda:0", "Did you mean 'cuda'?"),
    ("device=mps", "Did you mean 'cpu'?"),
    ("algo=ppo algo.target_kl=None", "algo.target_kl: got 'None'. Did you mean 'null'?"),
    ("algo=ppo network.activation=nn.Tanh", "Did you mean 'tanh'?"),
    (
        "algo=sac",
        "unknown algo 'sac'. It is not in rlzoo yet; for continuous actions there are ppo",
    ),
    ("algo=A2C", "It is not in rlzoo yet; the nearest is ppo"),
    ("algo=QRDQN", "It is not in rlzoo yet; the nearest is dqn"),
    ("algo=MaskablePPO", "no algorithm masks actions"),
    # CleanRL
    ("--total-timesteps 500000", "write total_env_steps=500000"),
    ("--env-id CartPole-v1", "write env.id=CartPole-v1"),
    ("--track", "unknown option '--track': logs are metrics.jsonl and TensorBoard files"),
    ("--wandb-project-name mine", "logs are metrics.jsonl and TensorBoard files"),
    ("--cuda false", "write device=VALUE (cpu or cuda)"),
    ("--no-cuda", "write device=VALUE (cpu or cuda)"),
    ("--capture-video", "a film: rlzoo play RUN file=film.gif"),
    ("--learning-rate 2.5e-4", "write algo.lr=2.5e-4"),
    ("--num-envs=8", "write env.num_envs=8"),
    ("--exp-name mine", "run_dir=PATH"),
    ("--torch-deterministic", "runs are always deterministic"),
    ("algo=ppo algo.num_steps=128", "Did you mean 'algo.rollout_env_steps'?"),
    ("algo=ppo algo.update_epochs=4", "Did you mean 'algo.epochs'?"),
    ("algo=ppo algo.num_minibatches=4", "Did you mean 'algo.batch_size'?"),
    ("algo=ppo algo.anneal_lr=true", "Did you mean 'algo.lr_schedule'? (linear)"),
    ("algo=ppo algo.clip_coef=0.2", "Did you mean 'algo.clip'?"),
    ("algo=dqn algo.start_e=1", "Did you mean 'algo.epsilon_start'?"),
    ("algo=dqn algo.target_network_frequency=9", "Did you mean 'algo.target_every_env_steps'?"),
    ("algo=ppo_continuous_action", "Did you mean 'algo=ppo'?"),
    ("algo=c51", "It is not in rlzoo yet; the nearest is dqn"),
    # rl-zoo
    ("--algo dqn --env CartPole-v1", "unknown option '--algo': write algo=dqn"),
    ("--env CartPole-v1", "write env=gym env.id=CartPole-v1"),
    ("--env cartpole", "write env=cartpole"),
    ("algo=dqn -n 50000", "unknown option '-n': write total_env_steps=50000"),
    ("algo=dqn --n-timesteps 50000", "write total_env_steps=50000"),
    ("algo=dqn -f logs/", "write output_dir=logs/"),
    ("algo=dqn -params learning_rate:0.01", "settings are words key=value"),
    ("algo=dqn --hyperparams learning_rate:0.01", "settings are words key=value"),
    ("algo=dqn -i logs/dqn/best.zip", "write resume=logs/dqn/best.zip (RUN or latest)"),
    ("algo=dqn --seed 3", "write seed=3"),
    ("algo=dqn -P", "a terminal shows a progress bar"),
    ("algo=dqn -optimize --n-trials 100", "there is no tuner. A sweep: rlzoo -m"),
    ("algo=ppo algo.lr=lin_0.001", "algo.lr_schedule=linear"),
    ("algo=ppo normalize=true", "Did you mean 'algo.normalize_obs'?"),
    ("enjoy --algo ppo", "unknown option '--algo'"),
    ("enjoy latest", "unknown command 'enjoy'. Did you mean 'play RUN'?"),
    # sheeprl, TorchRL, RLlib, Spinning Up, imitation
    ("exp=dreamer_v3", "Did you mean 'experiment'? (a preset; see rlzoo list experiment)"),
    ("fabric.accelerator=gpu", "Did you mean 'device'? (cpu or cuda)"),
    ("algo=ppo algo.per_rank_batch_size=64", "Did you mean 'algo.batch_size'?"),
    ("algo=dqn buffer.size=1000", "Did you mean 'replay.capacity'?"),
    ("checkpoint.every=1000", "Did you mean 'save_every'?"),
    ("metric.log_every=1000", "Did you mean 'log_every'?"),
    ("algo=dreamer_v3", "there is world_models"),
    ("algo=ppo collector.frames_per_batch=100", "Did you mean 'algo.rollout_env_steps'?"),
    ("algo=ppo collector.total_frames=1000", "Did you mean 'total_env_steps'?"),
    ("algo=ppo optim.lr=1e-3", "Did you mean 'algo.lr'?"),
    ("algo=ppo loss.clip_epsilon=0.2", "Did you mean 'algo.clip'?"),
    ("algo=ppo algo.lambda=0.95", "Did you mean 'algo.gae_lambda'?"),
    ("algo=ppo algo.sgd_minibatch_size=64", "Did you mean 'algo.batch_size'?"),
    ("algo=ppo algo.pi_lr=3e-4", "Did you mean 'algo.lr'?"),
    ("algo=ppo env.max_ep_len=100", "Did you mean 'env.max_episode_steps'?"),
    ("algo=bc demonstrations.path=x.npz", "Did you mean 'algo.demonstrations.path'?"),
    ("algo=gail algo.n_disc_updates_per_round=4", "Did you mean 'algo.discriminator.updates'?"),
    ("algo=gail algo.demo_batch_size=64", "Did you mean 'algo.discriminator.batch_size'?"),
    ("algo=behavioral_cloning", "Did you mean 'algo=bc'?"),
    ("algo=dagger", "There are bc, gail and airl".lower()),
    # names of choices
    ("algo=ddqn", "Did you mean 'algo=dqn algo.double=true'?"),
    ("algo=Q-learning", "Did you mean 'q_learning'?"),
    ("algo=world-models", "Did you mean 'world_models'?"),
    ("algo=dqn replay=PER", "Did you mean 'replay=prioritized'?"),
    ("logger=wandb", "It is not in rlzoo yet: logs are metrics.jsonl"),
    ("debug=true", "Did you mean 'debug=tiny'?"),
    ("env=LunarLander-v2", "Did you mean 'lunarlander'?"),
    ("env=Pendulum-v1", "'Pendulum-v1'. Any gymnasium env: env=gym env.id=Pendulum-v1."),
    ("env=ALE/Pong-v5", "It is known as env.id=ale_py:ALE/Pong-v5"),
    # where a name of ours stands in another group, or has a dash
    ("algo=dqn algo.hidden=[64,64]", "Did you mean 'network.hidden'?"),
    ("algo=ppo ppo.gae_lambda=0.9", "Did you mean 'algo.gae_lambda'?"),
    ("algo=dqn lr=1e-3", "Did you mean 'algo.lr'?"),
    ("algo=dqn algo.learning-rate=1e-3", "'algo.learning-rate': write algo.lr=1e-3"),
    ("total-env-steps=1000", "names have '_', as in total_env_steps"),
    ("env.kwargs.max_episode_steps=9", "expected env.max_episode_steps"),
    ("env.kwargs.render_mode=human", "rlzoo play RUN"),
    # a shell's brackets, spaces and signs
    ("algo=dqn network.hidden=[64, 64]", "In 'network.hidden=[64,' a bracket stays open: quote"),
    ("algo=dqn network.hidden=[64", "a bracket stays open"),
    ("algo=dqn network.hidden=64,64", "put -m before it (a list is 'network.hidden=[64,64]')"),
    ("algo=dqn network.hidden=(64,64)", "expected a number, a word, a list [64,64]"),
    ("algo=dqn algo.lr = 1e-3", "Expected no spaces around '=', as in algo.lr=1e-3."),
    ("algo=dqn algo.lr= 1e-3", "Expected no spaces around '='"),
    ("algo=dqn algo.lr =1e-3", "Expected no spaces around '='"),
    ("algo=dqn algo.lr==1e-3", "expected one '=', as in algo.lr=1e-3"),
    ("algo=dqn algo.lr:1e-3", "Expected '=', not ':': algo.lr=1e-3."),
    ("algo=dqn algo.lr: 1e-3", "Expected '=', not ':'"),
    ("algo=dqn seed=0 1 2", "Several values are a sweep: -m seed=0,1,2."),
    ("algo=dqn ~network", "settings cannot be removed"),
    ("algo=dqn +algo.learning_rate=1", "Did you mean 'algo.lr'?"),
    ("\u2014m algo=dqn", "It begins with a typographic dash, expected '-': -m."),
    ("dqn cartpole", "unknown command 'dqn'. Did you mean 'algo=dqn'?"),
    ("algo=dqn CartPole-v1", "Did you mean 'env=gym env.id=CartPole-v1'?"),
    ("sac", "unknown command 'sac'. It is not in rlzoo yet"),
    ("eval latest", "Did you mean 'evaluate RUN'?"),
    ("tune algo=dqn", "Did you mean '-m algo.lr=1e-3,3e-4 seed=0,1,2'?"),
    # options of verbs
    ("evaluate nowhere --episodes 3", "Did you mean 'episodes='?"),
    ("evaluate nowhere n_eval_episodes=3", "Did you mean 'episodes='?"),
    ("evaluate nowhere deterministic=true", "Evaluation is greedy."),
    ("play nowhere render_mode=human", "A film: rlzoo play RUN file=film.gif."),
    ("play nowhere load_best=true", "Did you mean 'checkpoint='?"),
    ("demos record nowhere n_episodes=3", "Did you mean 'episodes='?"),
    ("demos record nowhere output=x.npz", "Did you mean 'file='?"),
]


@pytest.fixture(scope="module", autouse=True)
def composed_once():
    """Hydra takes 0.2 s to compose choices that most rows share; single values come on top."""
    composed: dict[tuple[str, ...], dict[str, Any]] = {}
    compose = configuration._compose_with_hydra

    def compose_choices(words: list[str]) -> dict[str, Any]:
        choices = tuple(word for word in words if not word.startswith("++"))
        if choices not in composed:
            composed[choices] = compose(list(choices))
        values = [word for word in words if word.startswith("++")]
        return configuration._overridden(composed[choices], values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configuration, "_compose_with_hydra", compose_choices)
        yield


@pytest.mark.parametrize(("typed", "said"), SETTINGS, ids=[typed for typed, _ in SETTINGS])
def test_a_foreign_word_gets_one_line(tmp_path, monkeypatch, capsys, typed, said):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(typed)) == 64
    captured = capsys.readouterr()
    *notes, line = captured.err.splitlines()
    assert all(" using experiment=" in note for note in notes)
    assert line.startswith("rlzoo: error: ") and len(line) < 500
    assert said in line
    assert captured.out == "" and not list(tmp_path.iterdir())


def test_the_table_is_as_large_as_promised():
    assert len(SETTINGS) >= 60
    assert len({word for words, *_ in foreign.SETTINGS for word in words.split()}) >= 200


def every_name() -> set[str]:
    """The full names of all settings of all algorithms, and of what else a command can name."""
    names = {*configuration.groups(), "resume", "env.kwargs"}  # null, or a group of its own
    names |= configuration.flat(configuration.compose(["env=frozenlake8x8"])).keys()
    for algo in registry.names("algo"):
        names |= configuration._flat({"algo": defaults(registry.get("algo", algo)[1])}).keys()
    return names


def test_the_table_names_only_what_there_is():
    known = every_name()
    for _, settings, remark in foreign.SETTINGS:
        assert set(settings.split()) <= known
        assert settings or remark
    for setting, _, value in foreign.VALUES:
        assert setting in known and value
    groups = configuration.groups()
    for group, rows in foreign.CHOICES.items():
        for words, meant in rows:
            assert not set(words.split()) & set(groups[group]), "a name that we have"
            if meant.startswith(f"{group}="):
                configuration.compose([*meant.split(), "env=frozenlake", "experiment=none"])


def test_no_word_of_ours_is_taken_for_a_foreign_one():
    """What we call so must never be explained away where it stands right."""
    ours = every_name()
    theirs = {word for words, *_ in foreign.SETTINGS for word in words.split()}
    assert not {name for name in ours if name in theirs}
