"""What users of other libraries type, and what it is called here.

The words of Stable-Baselines3, rl-zoo, CleanRL, sheeprl, TorchRL, imitation, Spinning Up, RLlib and
Tianshou, which a spelling distance does not know: for `learning_rate` it finds `learning_starts`.
They are looked up in lower case with `_` for `-`; a dotted one whole at first, then its last part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from rlzoo.core.settings import nearest


class Meaning(NamedTuple):
    """Settings here, of which the first that a run has is meant, and a remark.

    Where there are no such settings, the remark is the whole answer.
    """

    settings: tuple[str, ...]
    remark: str


# fmt: off
# One row a meaning: their words; the settings; the remark.
SETTINGS = (
    # the length of a run, seeds, machines
    ("total_timesteps n_timesteps timesteps num_timesteps total_steps total_frames max_steps "
     "num_frames max_timesteps gen_train_timesteps", "total_env_steps", ""),
    ("n_iterations num_iterations n_itr num_updates n_updates epoch", "total_env_steps", ""),
    ("random_seed rng_seed torch_seed env.seed", "seed", ""),
    ("cuda gpu use_cuda use_gpu accelerator fabric.accelerator", "device", "cpu or cuda"),
    ("num_threads torch_threads n_threads", "threads", ""),
    ("torch_compile jit", "compile", ""),
    ("torch_deterministic", "", "Runs are always deterministic"),
    # envs
    ("env_id gym_id env_name env.task task", "env.id", "or env=NAME; see rlzoo list env"),
    ("n_envs num_envs num_env num_environments training_num num_workers", "env.num_envs", ""),
    ("env_kwargs env_args env_config", "env.kwargs", ""),
    ("vec_env vec_env_cls parallel", "env.backend", "sync, process or envpool"),
    ("time_limit episode_length max_ep_len max_episode_length horizon env.max_steps",
     "env.max_episode_steps", ""),
    ("gym_packages env_wrapper wrapper wrappers", "", "A module of yours can register an env: "
     "env.id=MODULE:Name-v0"),
    # what most learners have
    ("learning_rate lr step_size pi_lr actor_lr lr_actor",
     "algo.lr algo.critic_lr algo.alpha algo.ppo.lr algo.vision.lr", ""),
    ("vf_lr lr_critic critic_learning_rate", "algo.critic_lr algo.lr", ""),
    ("batch_size minibatch_size sgd_minibatch_size per_rank_batch_size",
     "algo.batch_size algo.ppo.batch_size algo.vision.batch_size", ""),
    ("num_minibatches nminibatches", "algo.batch_size", "the rollout divided by their number"),
    ("demo_batch_size", "algo.discriminator.batch_size algo.batch_size", ""),
    ("discount discount_factor", "algo.gamma algo.ppo.gamma", ""),
    ("max_gradient_norm grad_clip max_norm clip_grad_norm", "algo.max_grad_norm", ""),
    ("policy_kwargs net_arch layers hidden_sizes hidden_size hid num_cells fcnet_hiddens "
     "hidden_dim", "network.hidden", "a list such as 'network.hidden=[64,64]'"),
    ("activation_fn nonlinearity", "network.activation", "relu or tanh"),
    ("policy policy_class policy_type model", "network", "mlp or nature_cnn"),
    ("optimizer optimizer_class optimizer_kwargs", "", "The optimiser is Adam"),
    # on-policy
    ("n_steps num_steps steps_per_epoch frames_per_batch rollout_steps train_batch_size nsteps "
     "timesteps_per_batch gen_replay_buffer_capacity rollout_fragment_length",
     "algo.rollout_env_steps algo.ppo.rollout_env_steps",
     "of all envs together: their steps times env.num_envs"),
    ("n_steps", "algo.n_step", ""),
    ("n_epochs num_epochs update_epochs num_sgd_iter noptepochs ppo_epoch",
     "algo.epochs algo.critic_updates algo.ppo.epochs algo.vision.epochs", ""),
    ("clip_range clip_coef clip_epsilon clip_ratio clip_param eps_clip cliprange", "algo.clip", ""),
    ("clip_range_vf clip_vloss vf_clip_param", "algo.value_clip", ""),
    ("ent_coef entropy_coeff entropy_coefficient ent_weight",
     "algo.entropy_coef algo.ppo.entropy_coef", ""),
    ("vf_coef critic_coef value_loss_coef vf_loss_coeff critic_coeff", "algo.value_coef", ""),
    ("lambda lam gae_lam lambda_ lmbda", "algo.gae_lambda algo.ppo.gae_lambda", ""),
    ("anneal_lr lr_decay decay_lr lr_scheduler", "algo.lr_schedule algo.kl_schedule", "linear"),
    ("norm_adv normalize_advantages", "algo.normalize_advantage", ""),
    ("normalize norm_obs vec_normalize vecnormalize normalize_observations",
     "algo.normalize_obs algo.ppo.normalize_obs", "rewards: algo.normalize_reward"),
    ("norm_reward rew_norm", "algo.normalize_reward algo.ppo.normalize_reward", ""),
    ("max_kl kl_target desired_kl", "algo.target_kl", ""),
    ("ortho_init", "algo.orthogonal_init", ""),
    ("use_sde sde", "algo.gsde", ""),
    ("sde_sample_freq", "algo.gsde_hold_steps", ""),
    ("cg_max_steps cg_iters", "algo.cg_iterations", ""),
    ("line_search_max_iter backtrack_iters", "algo.line_search_steps", ""),
    ("n_critic_updates train_v_iters vf_iters", "algo.critic_updates", ""),
    # off-policy
    ("buffer_size replay_size replay_buffer_size memory_size buffer_capacity buffer.size",
     "replay.capacity", ""),
    ("learning_starts start_steps init_random_frames warmup_steps update_after",
     "algo.learning_starts_env_steps", ""),
    ("train_freq train_frequency train_every update_every", "algo.train_every_env_steps", ""),
    ("utd_ratio replay_ratio updates_per_step", "algo.gradient_steps",
     "for each algo.train_every_env_steps"),
    ("target_update_interval target_network_frequency target_update_freq",
     "algo.target_every_env_steps", ""),
    ("polyak target_network_update_rate", "algo.tau", "the share that is new: 1 - polyak"),
    ("exploration_fraction epsilon epsilon_decay eps_decay", "algo.epsilon_fraction",
     "of the run, from algo.epsilon_start to algo.epsilon_final"),
    ("exploration_initial_eps start_e eps_start initial_epsilon", "algo.epsilon_start", ""),
    ("exploration_final_eps end_e eps_end eps_train final_epsilon", "algo.epsilon_final", ""),
    ("nstep multi_step", "algo.n_step", ""),
    ("double_q double_dqn ddqn is_double", "algo.double", ""),
    ("dueling_dqn duel", "algo.dueling", ""),
    ("prioritized_replay prioritized per_alpha", "", "replay=prioritized, with replay.alpha"),
    ("replay_buffer_class replay_buffer", "replay", "uniform or prioritized"),
    ("optimize_memory_usage", "", "The replay stores each observation once"),
    # imitation
    ("demo_path rollout_path expert_path expert_data demonstrations.path dataset_path",
     "algo.demonstrations.path", ""),
    ("n_expert_demos n_demos num_trajectories", "algo.demonstrations.trajectories", ""),
    ("n_disc_updates_per_round disc_updates", "algo.discriminator.updates", ""),
    ("gp_coef grad_penalty", "algo.discriminator.gradient_penalty", ""),
    # evaluation, logs, files
    ("eval_freq eval_every eval_interval evaluation_interval", "eval.every", ""),
    ("n_eval_episodes eval_episodes evaluation_duration", "eval.episodes", ""),
    ("n_eval_envs test_num", "eval.num_envs", ""),
    ("deterministic stochastic", "", "Evaluation is greedy. Sampled actions: "
     "rlzoo demos record RUN explore=true"),
    ("log_interval log_freq metric.log_every", "log_every", ""),
    ("save_freq checkpoint_freq checkpoint.every save_interval", "save_every", ""),
    ("checkpoint.keep_last keep_last", "keep_checkpoints", ""),
    ("log_dir log_folder log_path logdir save_path root_dir save_dir", "output_dir", ""),
    ("exp_name run_name experiment_name", "", "A directory for this run: run_dir=PATH"),
    ("exp", "experiment", "a preset; see rlzoo list experiment"),
    ("hyperparams hyperparameters params conf_file config config_file conf", "", "Settings are "
     "words key=value; presets: experiment=NAME"),
    ("tensorboard_log tb_log tensorboard", "logger.tensorboard", "on by default"),
    ("capture_video record_video save_video video render render_mode", "", "A film: rlzoo play "
     "RUN file=film.gif"),
    ("track wandb wandb_project_name wandb_project wandb_entity mlflow", "", "Logs are "
     "metrics.jsonl and TensorBoard files in the run directory"),
    ("verbose progress progress_bar p log_level", "", "A terminal shows a progress bar; log_every "
     "says how often metrics are written"),
    ("callback callbacks", "", "Evaluation, checkpoints and logs are part of every run"),
    ("save_model save upload_model", "", "A run is always saved; rlzoo export RUN to=DIR passes "
     "it on"),
    ("trained_agent load_path load_model load model_path checkpoint_path resume_from ckpt_path",
     "resume", "RUN or latest"),
    ("optimize optimize_hyperparameters n_trials sampler pruner", "", "There is no tuner. A "
     "sweep: rlzoo -m algo.lr=1e-3,3e-4 seed=0,1,2"),
    # options of one letter (rl-zoo)
    ("n", "total_env_steps", ""),
    ("f", "output_dir", ""),
    ("i", "resume", "RUN or latest"),
    ("tb", "logger.tensorboard", "on by default"),
)

_YET = "is not in rlzoo yet"
_CONTINUOUS = f"{_YET}; for continuous actions there are ppo and trpo"
_DISCRETE = (f"{_YET}; the nearest is dqn, with algo.double, algo.dueling, algo.n_step and "
             "replay=prioritized")
_MEMORY = f"{_YET}: networks have no memory"

# Their choices in a group: words that choose the same here, or why none does.
CHOICES = {
    "algo": (
        ("sac td3 ddpg tqc redq droq crossq sac_continuous_action td3_continuous_action",
         _CONTINUOUS),
        ("c51 qrdqn qr_dqn iqn rainbow fqf drqn", _DISCRETE),
        ("a2c a3c reinforce vpg pg acer acktr ppg ars impala", f"{_YET}; the nearest is ppo"),
        ("recurrentppo recurrent_ppo ppo_lstm ppo_recurrent", _MEMORY),
        ("maskableppo maskable_ppo", f"{_YET}: no algorithm masks actions"),
        ("cql iql bcq td3_bc awac dt", f"{_YET}; from data alone only bc learns"),
        ("dagger sqil", f"{_YET}; there are bc, gail and airl"),
        ("dreamer dreamer_v3 dreamerv3 dreamer_v2 planet", f"{_YET}; there is world_models"),
        ("her", f"{_YET}; replay memories are uniform and prioritized"),
        ("ppo_continuous_action ppo_atari ppo2 proximal_policy_optimization", "algo=ppo"),
        ("deepq dqn_atari deep_q_network", "algo=dqn"),
        ("ddqn double_dqn", "algo=dqn algo.double=true"),
        ("dueling_dqn", "algo=dqn algo.dueling=true"),
        ("qlearning tabular tabular_q_learning q_table", "algo=q_learning"),
        ("double_q_learning", "algo=q_learning algo.double=true"),
        ("expected_sarsa", "algo=q_learning algo.expected=true"),
        ("behavior_cloning behavioral_cloning behavioural_cloning", "algo=bc"),
        ("worldmodels wm", "algo=world_models"),
    ),
    "network": (
        ("mlppolicy mlp_policy multiinputpolicy dense", "network=mlp"),
        ("cnnpolicy cnn_policy cnn naturecnn", "network=nature_cnn"),
        ("mlplstmpolicy cnnlstmpolicy lstm rnn gru", _MEMORY),
        ("resnet impala impala_cnn", f"{_YET}; a plug-in can register it"),
    ),
    "replay": (
        ("per prioritised prioritizedreplaybuffer", "replay=prioritized"),
        ("replaybuffer fifo", "replay=uniform"),
    ),
    "logger": (
        ("tensorboard tb", "logger=default"),
        ("wandb mlflow comet neptune", f"{_YET}: logs are metrics.jsonl and TensorBoard files"),
        ("json csv", "logger=jsonl"),
    ),
    "debug": (("true small fast", "debug=tiny"),),
}

# Their values of settings here.
VALUES = (
    ("device", "gpu auto cuda:0 cuda:1", "cuda"),
    ("device", "mps metal tpu xpu", "cpu"),
    ("network.activation", "nn.relu torch.nn.relu elu leaky_relu gelu silu", "relu"),
    ("network.activation", "nn.tanh torch.nn.tanh", "tanh"),
    ("env.backend", "subproc subprocvecenv async asyncvectorenv", "process"),
    ("env.backend", "dummy dummyvecenv syncvectorenv", "sync"),
)

VERBS = (
    ("eval test benchmark", "evaluate RUN"),
    ("enjoy watch view render visualize visualise show", "play RUN"),
    ("plot plot_train", "compare RUN"),
    ("continue resume", "resume=latest"),
    ("learn fit run", "train"),
    ("record record_video", "play RUN file=film.gif"),
    ("optimize optimise tune hpo sweep", "-m algo.lr=1e-3,3e-4 seed=0,1,2"),
    ("algorithms algos envs presets", "list"),
    ("save push", "export RUN to=DIR"),
)
# Their options of a verb.
OPTIONS = (
    ("n_episodes num_episodes n_eval_episodes eval_episodes n_demos", "episodes"),
    ("output out save_path video video_path video_folder filename", "file"),
    ("load_best load_last best last weights load_checkpoint ckpt", "checkpoint"),
    ("episode_id idx index", "episode"),
    ("deterministic stochastic sample", "explore"),
    ("overwrite", "force"),
    ("output output_dir out", "to"),
)
# fmt: on

_NAMES = {word for row in SETTINGS for word in row[0].split()}


def plain(word: str) -> str:
    """A word as the tables have it: `--total-timesteps` is total_timesteps."""
    return re.sub(r"^_*(no_)?", "", word.lower().replace("-", "_"))


def meanings(key: str) -> list[Meaning]:
    """What a setting of another library may be here; of a dotted one, its last part counts too."""
    word = plain(key)
    for name in (word, word.rpartition(".")[2]):
        found = [row for row in SETTINGS if name in row[0].split()]
        if found:
            return [Meaning(tuple(settings.split()), remark) for _, settings, remark in found]
    return []


def setting_hint(key: str, siblings: Iterable[str], known: Collection[str], algo: str) -> str:
    """' Did you mean ...' for a key that is no setting, or ''.

    `siblings` are the names that could stand in its place, `known` the full names of all settings.
    """
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == plain(last)]
    near = difflib.get_close_matches(last.lower(), [*siblings, *_NAMES], n=1, cutoff=0.65)
    if meant := meanings(key):
        return _said(meant, known, algo)
    if same:
        return f" Did you mean '{same[0]}'?"
    if near and near[0] in _NAMES and near[0] not in siblings:
        return _said(meanings(near[0]), known, algo)
    return nearest(last, siblings)


def _said(meant: Iterable[Meaning], known: Collection[str], algo: str) -> str:
    for settings, remark in meant:
        for name in settings:
            if name in known:
                return f" Did you mean '{name}'?" + (f" ({remark})" if remark else "")
    settings, remark = next(iter(meant))
    return (
        f" Here it is '{settings[0]}', which algo={algo} does not have"
        if settings
        else f" {remark}"
    )


def as_word(option: str, value: str, known: Collection[str]) -> str:
    """What to write instead of `--option value`, or of a name with a dash; '' if nobody knows."""
    name = plain(option)
    value = "VALUE" if value.lower() in ("", "true", "false") else value
    if name == "env" and re.search(r"-v\d+$", value):
        return f"write env=gym env.id={value}"
    if name in known:
        return f"write {name}={value}"
    for settings, remark in meanings(name):
        if settings:
            return f"write {settings[0]}={value}" + (f" ({remark})" if remark else "")
        return remark[0].lower() + remark[1:]
    return ""


def choice_hint(group: str, option: str) -> str:
    """' Did you mean ...' for another library's name of a choice, why there is none, or ''."""
    for words, meant in CHOICES.get(group, ()):
        if plain(option) in words.split():
            is_choice = meant.startswith(f"{group}=")
            return f" Did you mean '{meant}'?" if is_choice else f" It {meant}."
    return ""


def value_hint(name: str, value: str) -> str:
    """' Did you mean ...' for another library's value of a setting, or ''."""
    if value.lower().startswith(("lin_", "linear_")):  # rl-zoo's falling rates
        return " A rate that falls to 0: algo.lr_schedule=linear"
    for setting, values, meant in VALUES:
        if setting == name and value.lower() in values.split():
            return f" Did you mean '{meant}'?"
    return ""


def option_hint(word: str, options: Collection[str]) -> str:
    """' ...' for a word that is no option of a verb, or ''."""
    name = plain(word.partition("=")[0])
    ours = [ours for theirs, ours in OPTIONS if name in theirs.split() and ours in options]
    if name in options or ours:
        return f" Did you mean '{[*ours, name][0]}='?"
    remarks = [remark for settings, remark in meanings(name) if not settings]
    return f" {remarks[0]}." if remarks else nearest(name, options)


def word_hint(word: str, words: list[str], groups: dict[str, list[str]]) -> str:
    """' ...' for a word of the command line that is neither key=value nor a verb, or ''."""
    before = words[: words.index(word)]
    open_word = next((w for w in before if has_open_bracket(w)), None)
    if open_word:
        return f" {quoted(open_word)}"
    after = words[len(before) + 1 :]
    if (before[-1:] and before[-1].endswith("=")) or (after[:1] and after[0].startswith("=")):
        return " Expected no spaces around '=', as in algo.lr=1e-3."
    if word.isdecimal() and before:
        return " Several values are a sweep: -m seed=0,1,2."
    if word and word[0] in "\u2013\u2014\u2212":
        return f" It begins with a typographic dash, expected '-': {word.replace(word[0], '-')}."
    key, colon, value = word.partition(":")
    if colon and "." in key:
        return f" Expected '=', not ':': {key}={value.strip() or 'VALUE'}."
    if re.search(r"-v\d+$", word):
        return f" Did you mean 'env=gym env.id={word}'?"
    for group in ("algo", "env", "experiment"):
        if plain(word) in groups[group]:
            return f" Did you mean '{group}={plain(word)}'?"
    for theirs, ours in VERBS:
        if plain(word) in theirs.split():
            return f" Did you mean '{ours}'?"
    return choice_hint("algo", word)


def has_open_bracket(word: str) -> bool:
    return any(word.count(a) > word.count(b) for a, b in ("[]", "{}", "()"))


def quoted(word: str) -> str:
    """What to say of a word in which a bracket stays open."""
    return f"In {word!r} a bracket stays open: quote spaces, as in 'network.hidden=[64, 64]'."
