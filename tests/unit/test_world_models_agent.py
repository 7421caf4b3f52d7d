"""World Models as one algorithm: phases in order, exact resume, artefacts of other runs, acting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from lamp import Lamp, small_vision

from rlzoo.algos.world_models.agent import WorldModels
from rlzoo.algos.world_models.config import PHASES, WorldModelsConfig
from rlzoo.algos.world_models.executor import finished
from rlzoo.algos.world_models.population import Share
from rlzoo.algos.world_models.search import Recipe, make_player
from rlzoo.core.algorithm import Algorithm, Setup, Source, Sources
from rlzoo.core.types import DataError, State, UsageError
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.make import EnvConfig, MoreEnvs, make_env, make_episode_batch
from rlzoo.envs.sync import SyncVectorEnv
from rlzoo.io import checkpoint
from rlzoo.run.strict import read

LAMP = EnvConfig(id="lamp:Lamp-v0", restore="replay")


class OtherEnvs(MoreEnvs):
    id = "lamp:Other-v0"


@pytest.fixture(autouse=True, scope="module")
def fast() -> Iterator[None]:
    with small_vision():
        yield


TINY: dict[str, Any] = {
    "collect": {"episodes": 6, "max_episode_steps": 8, "policy": "held"},
    "vision": {"latent_size": 3, "epochs": 1, "batch_size": 8, "block_updates": 2},
    "memory": {"hidden_size": 4, "epochs": 2, "batch_size": 2, "block_updates": 1},
    "imitate": {},
    "controller": {"population": 4, "evaluate_every_generations": 2, "evaluate_episodes": 2},
}


def settings(**changes: Any) -> WorldModelsConfig:
    """TINY, with single settings of its groups changed, such as controller={"inputs": "z"}."""
    merged = {group: {**TINY[group], **changes.pop(group, {})} for group in TINY}
    return read(WorldModelsConfig, {**merged, **changes})


def agent(
    directory: Path | None = None,
    *,
    seed: int = 0,
    total: int = 250,
    source: Source | None = None,
    envs: MoreEnvs | None = None,
    imitated: Callable[[], Algorithm] | None = None,
    **changes: Any,
) -> WorldModels:
    torch.set_num_threads(1)
    members = [
        EpisodeEnv(
            partial(make_env, LAMP), run_seed=seed, purpose="train", env_index=i, restore="replay"
        )
        for i in range(3)
    ]
    setup = Setup(
        env=SyncVectorEnv(members),
        seed=seed,
        total_env_steps=total,
        envs=envs or MoreEnvs(LAMP),
        directory=directory,
        source=source,
        agent=imitated,
    )
    config = settings(source=str(source.directory) if source else "", **changes)
    return WorldModels(config, setup)


def fingerprint(tree: Any) -> str:
    if isinstance(tree, dict):
        return str({key: fingerprint(tree[key]) for key in sorted(tree)})
    if hasattr(tree, "shape"):
        return hashlib.sha256(np.asarray(tree).tobytes()).hexdigest()[:12]
    return repr(tree)


def run(algorithm: WorldModels) -> list[tuple[str, dict[str, float]]]:
    """Until it is done: phase and metrics of each step that has some."""
    rows = []
    while not algorithm.done():
        phase, metrics = algorithm.counters.phase, algorithm.step()
        if metrics:
            rows.append((phase, {name: float(value) for name, value in metrics.items()}))
    return rows


# Phases ------------------------------------------------------------------------------------------


def test_phases_come_in_order_and_each_moves_its_own_clock(tmp_path):
    it = agent(tmp_path)
    assert isinstance(it, Algorithm)
    seen, clocks = [], {}
    while not it.done():
        before = (it.counters.env_steps, it.counters.offline_units)
        phase = it.counters.phase
        it.step()
        moved = (it.counters.env_steps - before[0], it.counters.offline_units - before[1])
        seen += [phase] if phase not in seen else []
        clocks[phase] = tuple(np.add(clocks.get(phase, (0, 0)), moved).tolist())
    assert tuple(seen) == PHASES
    collected = it.artefacts.store("collect").num_steps
    assert clocks["collect"] == (collected, 0)
    assert clocks["vision"] == (0, collected // 8)
    assert clocks["encode"] == (0, 6)
    assert clocks["memory"][0] == 0 < clocks["memory"][1]
    assert clocks["controller"][0] > 0 == clocks["controller"][1]
    assert it.counters.env_steps >= 250 > it.counters.env_steps - 4 * 9
    assert it.actor.params_N.any()


def test_a_phase_can_be_the_last(tmp_path):
    it = agent(tmp_path, total=10**6, phases=["collect", "vision"])
    rows = run(it)
    assert {phase for phase, _ in rows} == {"collect", "vision"}
    assert it.counters.phase == "finished"
    it = agent(total=10**6, phases=["controller"], controller={"generations": 3})
    run(it)
    assert it.counters.phase == "finished" and it.counters.updates == 3


def test_same_seed_same_everything_other_seed_other():
    one, two, other = agent(), agent(), agent(seed=1)
    assert run(one) == run(two) != run(other)
    assert fingerprint(one.state()["current"]) == fingerprint(two.state()["current"])


def test_stopped_anywhere_and_resumed_equals_straight(tmp_path):
    straight = agent(tmp_path / "straight")
    rows, steps = [], 0
    while not straight.done():
        rows.append(straight.step())
        steps += 1
    wanted = fingerprint(straight.state())
    for share in (0.02, 0.25, 0.45, 0.7, 0.95):
        directory = tmp_path / str(share)
        stopped = agent(directory)
        for _ in range(int(share * steps)):
            stopped.step()
        path = checkpoint.save(directory / "checkpoints", 1, stopped.state(), keep_last=1)
        for _ in range(3):  # what comes after the checkpoint leaves no trace
            stopped.step()
        stopped.close()
        resumed = agent(directory)
        resumed.load(checkpoint.load(path))
        run(resumed)
        assert fingerprint(resumed.state()) == wanted, share


def test_counters_stand_still_within_a_unit():
    """So a stop in the middle of one leaves no log line that a resumed run would write again."""
    it = agent()
    while not it.done():
        before = (it.counters.clock, it.counters.updates, it.counters.episodes)
        is_silent = it.counters.phase == "encode"
        if not it.step() and not is_silent:
            assert (it.counters.clock, it.counters.updates, it.counters.episodes) == before


@pytest.mark.parametrize(
    ("plan", "few", "many"),
    [
        (PHASES, {"controller": {"generations": 2}}, {"controller": {"generations": 5}}),
        (PHASES[:4], {"memory": {"epochs": 1}}, {"memory": {"epochs": 3}}),
        (PHASES[:2], {"vision": {"epochs": 1}}, {"vision": {"epochs": 3}}),
        (PHASES[:1], {"collect": {"episodes": 3}}, {"collect": {"episodes": 9}}),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_finished_run_told_to_do_more_equals_a_longer_one(tmp_path, plan, few, many):
    """Of its last phase, with the counters, and also after it was saved and found finished."""
    straight = agent(tmp_path / "straight", total=10**6, phases=plan, **many)
    run(straight)
    short = agent(tmp_path / "short", total=10**6, phases=plan, **few)
    run(short)
    assert short.done()
    path = checkpoint.save(tmp_path / "checkpoints", 1, short.state(), keep_last=1)
    same = agent(tmp_path / "short", total=10**6, phases=plan, **few)
    same.load(checkpoint.load(path))
    assert same.done() and f"raise algo.{plan[-1]}." in same.how_to_continue()
    longer = agent(tmp_path / "short", total=10**6, phases=plan, **many)
    longer.load(same.state())
    assert not longer.done() and longer.counters.phase == plan[-1]
    run(longer)
    assert fingerprint(longer.state()) == fingerprint(straight.state())


def test_a_finished_run_says_how_to_go_on(tmp_path):
    it = agent(tmp_path, total=10**6, controller={"generations": 1})
    run(it)
    new = (
        "train vision or memory or controller further in a new run: "
        f"rlzoo from={tmp_path} algo.phases=[vision] algo.continued=true"
    )
    assert it.how_to_continue() == f"raise algo.controller.generations to go on, or {new}"
    old = agent(tmp_path, total=10**6, controller={"generations": 9})
    old.load({**it.state(), "current": None})  # a checkpoint of older code
    assert old.done() and old.how_to_continue() == new
    ended = agent(total=20)
    run(ended)
    assert ended.how_to_continue() == "raise total_env_steps to go on"


# Artefacts of other runs -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Source:
    directory = tmp_path_factory.mktemp("source")
    it = agent(directory, controller={"generations": 2}, total=10**6)
    run(it)
    path = checkpoint.save(directory / "checkpoints", 1, it.state(), keep_last=1)
    return Source(directory, checkpoint.load(path))


def network(state: State, phase: str) -> str:
    return fingerprint(state["artefacts"]["left"][phase])


def test_one_phase_on_anothers_artefacts_anew_and_continued(finished_run, tmp_path):
    left = finished_run.state["artefacts"]["left"]
    assert set(left) == set(PHASES)
    anew = agent(tmp_path / "anew", source=finished_run, total=10**6, phases=["vision"])
    assert set(anew.artefacts.state()["left"]) == {"collect"}, "what V made is worth nothing now"
    run(anew)
    assert network(anew.state(), "vision") == network(finished_run.state, "vision")  # same seed
    more = agent(
        tmp_path / "more", source=finished_run, total=10**6, phases=["vision"], continued=True
    )
    torch.testing.assert_close(
        more.vae.mu.weight, torch.as_tensor(left["vision"]["network"]["mu.weight"])
    )
    run(more)
    assert network(more.state(), "vision") != network(finished_run.state, "vision")


def test_a_chain_of_runs_of_one_phase_each_equals_one_run(finished_run, tmp_path):
    source = None
    for phase in PHASES:
        directory = tmp_path / phase
        it = agent(
            directory, source=source, phases=[phase], total=10**6, controller={"generations": 2}
        )
        run(it)
        it.close()
        source = Source(directory, it.state())
    assert set(source.state["artefacts"]["left"]) == set(PHASES)
    for phase in ("vision", "memory"):
        assert network(source.state, phase) == network(finished_run.state, phase)
    params = [s.state["artefacts"]["left"]["controller"]["mean"] for s in (source, finished_run)]
    np.testing.assert_array_equal(*params)


def test_a_continued_search_goes_on_and_counts_its_own_steps(finished_run, tmp_path):
    settings = {"phases": ["controller"], "controller": {"generations": 3}, "continued": True}
    it, resumed = (
        agent(tmp_path / name, source=finished_run, total=10**6, **settings)
        for name in ("it", "resumed")
    )
    it.step()
    resumed.load(it.state())
    run(it)
    run(resumed)
    assert fingerprint(resumed.state()) == fingerprint(it.state())
    assert it.progress() == ("controller", 3, 3, "generations")
    assert it.counters.updates == 3 and 0 < it.counters.env_steps <= 3 * 4 * 9
    straight = agent(tmp_path / "straight", total=10**6, controller={"generations": 5})
    run(straight)
    np.testing.assert_array_equal(it.actor.params_N, straight.actor.params_N)


def test_from_an_export_a_new_search_begins_around_its_mean(finished_run, tmp_path):
    old = agent(total=10**6)
    old.load(finished_run.state)
    export = Source(tmp_path, old.policy_state())
    assert "es" not in export.state["artefacts"]["left"]["controller"]
    settings = {"phases": ["controller"], "continued": True}

    def further(generations: int, sigma0: float = 1e-6) -> WorldModels:
        controller = {"generations": generations, "sigma0": sigma0}
        return agent(source=export, total=10**6, controller=controller, **settings)

    near = further(1)
    run(near)
    assert near.counters.updates == 1 and (near.actor.params_N != old.actor.params_N).any()
    np.testing.assert_allclose(near.actor.params_N, old.actor.params_N, atol=1e-4)

    straight, stopped, resumed = (further(4, sigma0=0.1) for _ in range(3))
    run(straight)
    while stopped.counters.updates < 2:
        stopped.step()
    resumed.load(stopped.state())
    run(resumed)
    np.testing.assert_array_equal(resumed.actor.params_N, straight.actor.params_N)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"envs": OtherEnvs(LAMP)},
            r"made with \{'env': 'Lamp-v0'\}, expected \{'env': 'Other-v0'\}",
        ),
        ({"vision": {"latent_size": 5}, "phases": ["controller"]}, r"algo\.vision: network state"),
        ({"memory": {"hidden_size": 8}, "phases": ["controller"]}, r"algo\.memory: network state"),
    ],
)
def test_artefacts_that_do_not_fit_are_refused(finished_run, changes, text):
    with pytest.raises(DataError, match=text):
        agent(source=finished_run, **changes)


def test_a_source_that_is_not_there_yet_is_refused(finished_run, tmp_path):
    young = agent(tmp_path)
    young.step()
    for state, text in [
        (young.state(), "its phase 'collect' is not finished"),
        ({"network": {}}, "not a run of world_models"),
    ]:
        with pytest.raises(DataError, match=text):
            agent(source=Source(tmp_path, state), phases=["vision"])
    state = {"artefacts": {**finished_run.state["artefacts"], "left": {}}}
    with pytest.raises(DataError, match="its phase 'controller' is not finished"):
        agent(source=Source(tmp_path, state), phases=["controller"], continued=True)


def test_of_a_source_only_what_is_borrowed_stands_in(finished_run):
    new = agent(phases=["controller"])
    only_v = agent(source=finished_run, phases=["controller"], borrowed=["collect", "vision"])
    assert set(only_v.artefacts.state()["left"]) == {"collect", "vision"}
    assert not torch.equal(only_v.vae.mu.weight, new.vae.mu.weight)
    assert torch.equal(only_v.rnn.head.weight, new.rnn.head.weight)
    with pytest.raises(UsageError, match="borrowed: got 'encode' without 'vision', with which it"):
        settings(borrowed=["collect", "encode"])
    with pytest.raises(UsageError, match=r"borrowed: got \['vision'\], expected 'collect' among"):
        agent(source=finished_run, phases=["vision"], borrowed=["vision"])


def test_the_sources_controller_collects(finished_run, tmp_path):
    play = {"policy": "controller", "disturbance_rate": 0.0, "episodes": 3}
    it = agent(tmp_path, source=finished_run, phases=["collect"], collect=play, total=10**6)
    run(it)
    assert it.policy is None, "what it plays with is the source's, tested there"
    left = it.artefacts.store("collect").episode(0)
    memory = it.actor.initial(1)
    for frame_HWC, action_A in zip(left["frame"], left["action"], strict=True):
        own_BA, memory = it.actor.act(frame_HWC[None].copy(), memory, explore=False)
        np.testing.assert_allclose(own_BA[0], action_A, atol=1e-6)
    assert set(it.artefacts.state()["left"]) >= {"collect", "vision", "memory", "controller"}
    # The paper's turn: C drives in its own M, and that learns on from what is seen.
    plan = ["collect", "encode", "memory"]
    turn = agent(tmp_path / "turn", source=finished_run, phases=plan, collect=play, continued=True)
    turn.step()
    np.testing.assert_array_equal(turn.actor.params_N, it.actor.params_N)
    assert torch.equal(turn.rnn.head.weight, it.rnn.head.weight)
    run(turn)
    old = agent(source=finished_run, phases=["controller"]).artefacts.store("encode")
    new = turn.artefacts.store("collect")
    lengths = turn.artefacts.store("encode").length_E.tolist()
    assert lengths == [*new.length_E.tolist(), *old.length_E.tolist()], "M learns from both"
    assert list(turn.report()), "also of an M whose latents are not all of these frames"
    ends = {"source": finished_run, "phases": ["collect", "encode"], "continued": True}
    ended, resumed = (
        agent(tmp_path / "ended", collect=play, total=10**6, **ends) for _ in range(2)
    )
    run(ended)
    resumed.load(ended.state())
    assert resumed.done(), "a finished run does not add its own latents to themselves"
    for other in (["encode", "memory"], ["collect", "vision", "encode", "memory"]):
        again = agent(tmp_path / "again", source=finished_run, phases=other, continued=True)
        assert again.artefacts.earlier_latents(again.config) is None
    with pytest.raises(UsageError, match=r"V or M is made anew, C is gone: algo\.continued=true"):
        agent(tmp_path / "anew", source=finished_run, phases=plan, collect=play).step()
    nobody = Source(tmp_path, agent(phases=["collect"]).state())
    with pytest.raises(UsageError, match="policy=controller: needs what the phase 'controller'"):
        run(agent(source=nobody, phases=["collect"], collect=play))


def test_c_begins_as_the_sources_on_a_new_v_and_m(finished_run, tmp_path):
    """And a search goes on from there; V and M can be of other sizes, and so can the agent's be."""
    opened = []

    def imitated() -> WorldModels:
        opened.append(agent())
        opened[-1].load_policy(finished_run.state)
        return opened[-1]

    plan = ["vision", "encode", "memory", "imitate", "controller"]
    changes = {"phases": plan, "vision": {"latent_size": 5}, "memory": {"hidden_size": 6}}

    def new(directory: Path) -> WorldModels:
        few = {"generations": 1, "sigma0": 1e-6}
        return agent(
            directory,
            source=finished_run,
            imitated=imitated,
            total=10**6,
            controller=few,
            **changes,
        )

    it = new(tmp_path / "straight")
    assert set(it.artefacts.state()["left"]) == {"collect"}, "of the source's C nothing is borrowed"
    while it.counters.phase != "imitate":
        it.step()
    assert not opened and not it.actor.params_N.any() and it.policy is None
    offline = it.counters.offline_units
    it.step()
    stopped = it.state()
    while it.counters.phase == "imitate":
        it.step()
    assert it.counters.offline_units == offline + 6, "an episode each"
    assert len(opened) == 1 and it.policy is it.actor
    imitated_N = it.actor.params_N
    assert imitated_N.any() and set(it.artefacts["controller"]) == {"mean", "best"}
    run(it)
    np.testing.assert_allclose(it.actor.params_N, imitated_N, atol=1e-4)
    assert (it.actor.params_N != imitated_N).any()
    resumed = new(tmp_path / "straight")
    resumed.load(stopped)
    run(resumed)
    assert fingerprint(resumed.state()) == fingerprint(it.state())


def test_imitation_alone_makes_an_agent(finished_run, tmp_path):
    """Of another run; the source's own C does not stand in."""
    other = trained()
    it = agent(
        tmp_path,
        source=finished_run,
        imitated=lambda: other,
        phases=["imitate"],
        imitate={"agent": "elsewhere", "episodes": 2},
    )
    assert it.sources(it.config) == Sources(str(finished_run.directory), "elsewhere")
    assert it.policy is None
    run(it)
    assert (
        it.counters.phase == "finished" and it.counters.offline_units == 2 and it.policy is not None
    )
    same = agent(
        tmp_path,
        phases=["imitate"],
        imitate={"agent": "elsewhere", "episodes": 2},
        source=finished_run,
        imitated=lambda: other,
    )
    same.load(it.state())
    assert same.done()
    np.testing.assert_array_equal(same.actor.params_N, it.actor.params_N)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"phases": ["collect", "imitate"]}, r"got no agent, expected algo\.imitate\.agent=RUN"),
        (
            {"phases": ["imitate"], "imitate": {"agent": "run"}},
            r"'imitate' needs what 'collect' leaves",
        ),
        (
            {
                "phases": ["collect", "imitate"],
                "imitate": {"agent": "run"},
                "controller": {"hidden": 3},
            },
            r"algo\.controller\.hidden: got 3, expected 0",
        ),
        ({"phases": ["controller", "imitate"]}, r"memory, imitate, controller, in this order"),
        ({"phases": ["imitat"]}, r"unknown phase 'imitat'. Did you mean 'imitate'"),
        ({"borrowed": ["imitate"]}, r"borrowed: unknown phase 'imitate'"),
    ],
)
def test_what_cannot_be_imitated_is_refused(changes, text):
    with pytest.raises(UsageError, match=text):
        settings(**changes)


def test_an_agent_without_a_c_is_refused(finished_run):
    for nobody in (agent(), Algorithm()):
        with pytest.raises(
            UsageError, match=r"algo\.imitate\.agent: .* has no C, expected a run of"
        ):
            WorldModels.check_agent(settings(source="here", phases=["imitate"]), "Lamp-v0", nobody)
    with pytest.raises(UsageError, match="here acts in Lamp-v0, expected Other-v0"):
        WorldModels.check_agent(settings(source="here", phases=["imitate"]), "Other-v0", trained())


def test_a_source_whose_frames_are_gone_is_refused(tmp_path):
    it = agent(tmp_path / "one", phases=["collect"], total=10**6)
    run(it)
    next((tmp_path / "one").rglob("shard_00000.bin")).unlink()
    later = agent(
        tmp_path / "two", source=Source(tmp_path / "one", it.state()), phases=["vision"], total=99
    )
    with pytest.raises(DataError, match=r"shard_00000\.bin: missing"):
        later.step()


# Ablations ---------------------------------------------------------------------------------------


def test_what_is_left_out_has_taught_nothing():
    new = agent()
    untrained = agent(phases=["controller"])
    run(untrained)
    only_v = agent(phases=["collect", "vision", "controller"])
    run(only_v)
    for it, same_v in ((untrained, True), (only_v, False)):
        assert torch.equal(it.vae.mu.weight, new.vae.mu.weight) == same_v
        assert torch.equal(it.rnn.head.weight, new.rnn.head.weight)
        assert it.actor.params_N.any()


def test_v_alone_and_with_a_hidden_layer():
    assert agent(controller={"inputs": "z"}).actor.controller.num_params == 3 * 2 + 2
    hidden = agent(controller={"inputs": "z", "hidden": 4})
    assert hidden.actor.controller.num_params == 3 * 4 + 4 + 4 * 2 + 2
    assert hidden.actor.initial(5)[0].shape == (5, 0), "nothing but the time is carried"


# Acting ------------------------------------------------------------------------------------------


def trained(**changes: Any) -> WorldModels:
    it = agent(phases=["controller"], **changes)
    rng = np.random.default_rng(0)
    it.actor.params_N = rng.standard_normal(it.actor.controller.num_params)
    return it


def test_greedy_acting_is_repeatable_and_remembers():
    it = trained()
    obs_B = it.env.obs_B
    memory = it.actor.initial(3)
    before = fingerprint(it.state())
    first, following = it.actor.act(obs_B, memory, explore=False)
    again, _ = it.actor.act(obs_B, memory, explore=False)
    later, _ = it.actor.act(obs_B, following, explore=False)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, later)
    assert following[1].tolist() == [1, 1, 1]
    assert fingerprint(it.state()) == before
    assert all(it.env.action_space.contains(action) for action in first)
    explored, _ = it.actor.act(obs_B, memory, explore=True)
    assert not np.allclose(explored, first) and fingerprint(it.state()) != before


def test_acting_for_a_run_is_what_the_population_does():
    """The same policy by two ways, where no noise tells them apart."""
    it = trained(controller={"latent": "mean"})
    recipe = Recipe(
        vision=it.config.vision,
        memory=it.config.memory,
        controller=it.config.controller,
        make_episodes=partial(make_episode_batch, LAMP),
        action_space=it.env.action_space,
        vae={k: v.numpy() for k, v in it.vae.state_dict().items()},
        rnn={k: v.numpy() for k, v in it.rnn.state_dict().items()},
        beginnings=None,
        threads=1,
        device="cpu",
    )
    outcome = finished(
        make_player(recipe)(Share(it.actor.params_N[None], np.array([[5, 6]]), None))
    )
    for e, seed in enumerate((5, 6)):
        env, return_, over = make_env(LAMP), 0.0, False
        obs, _ = env.reset(seed=seed)
        memory, length = it.actor.initial(1), 0
        while not over:
            action_BA, memory = it.actor.act(obs[None], memory, explore=False)
            obs, reward, terminated, truncated, _ = env.step(action_BA[0])
            return_, length, over = return_ + reward, length + 1, terminated or truncated
        assert outcome.length_PE[0, e] == length
        assert outcome.return_PE[0, e] == pytest.approx(return_, abs=1e-4)


def test_the_policy_of_a_state_acts_the_same():
    it = agent()
    run(it)
    fresh = agent()
    fresh.load_policy(it.state())
    got, wanted = (
        policy.act(it.env.obs_B, policy.initial(3), explore=False)[0]
        for policy in (fresh.policy, it.policy)
    )
    np.testing.assert_array_equal(got, wanted)


def test_what_it_learns_in_a_dream():
    it = agent(
        total=10**6,
        memory={"done_head": True, "reward_head": True},
        controller={"train_in": "dream", "max_dream_steps": 6, "generations": 4, "num_envs": 4},
    )
    run(it)
    controller = it.artefacts["controller"]
    assert controller["env_steps"] == 0 < controller["dream_steps"] <= 4 * 4 * 6
    assert it.counters.env_steps == it.artefacts.store("collect").num_steps
    assert it.actor.params_N.any()
    frames_THWC, return_ = it.dream(0, None)
    assert len(frames_THWC) <= 7 and isinstance(return_, float), "known to an M with heads"


def test_pictures_beside_the_real_ones(finished_run):
    it = agent(source=finished_run, phases=["controller"])
    obs_B, memory = it.env.obs_B, it.actor.initial(3)
    now = it.beside(obs_B, memory)
    assert now.shape == (3, 64, 3 * 64, 3) and now.dtype == np.uint8
    np.testing.assert_array_equal(now[:, :, :64], obs_B)
    _, following = it.actor.act(obs_B, memory, explore=False)
    later = it.beside(obs_B, following)
    np.testing.assert_array_equal(now[:, :, :128], later[:, :, :128])
    assert not np.array_equal(now[:, :, 128:], later[:, :, 128:]), "M expects something else"


def test_a_dream_can_be_watched_without_the_stores(finished_run, tmp_path):
    it = agent(tmp_path, controller={"max_dream_steps": 12})
    it.load_policy(finished_run.state)
    frames_THWC, return_ = it.dream(1, None)
    assert frames_THWC.shape == (13, 64, 64, 3) and return_ is None
    warmer, _ = it.dream(1, 3.0)
    np.testing.assert_array_equal(warmer[0], frames_THWC[0])
    assert not np.array_equal(warmer[-1], frames_THWC[-1])
    assert not np.array_equal(it.dream(2, None)[0][0], frames_THWC[0]), "another beginning"


def test_a_dream_needs_m_and_a_beginning(finished_run):
    it, left = agent(), finished_run.state["artefacts"]["left"]
    for missing in ("encode", "memory"):
        it.artefacts.load({"left": {name: left[name] for name in PHASES if name != missing}})
        text = f"dream=true: needs what the phase '{missing}' leaves, .* are: collect, vision, "
        with pytest.raises(UsageError, match=text):
            it.dream(0, None)


def test_beside_shows_only_what_has_learnt(finished_run):
    left = finished_run.state["artefacts"]["left"]
    unused_m, untrained_m = agent(controller={"inputs": "z"}), agent()
    for it, names in ((unused_m, PHASES), (untrained_m, ["vision"])):
        it.artefacts.load({"left": {name: left[name] for name in names}})
        assert it.beside(it.env.obs_B, it.actor.initial(3)).shape == (3, 64, 2 * 64, 3)
    with pytest.raises(UsageError, match="beside=true: needs what the phase 'vision' leaves"):
        agent().beside(untrained_m.env.obs_B, untrained_m.actor.initial(3))


def test_a_phase_is_shown_while_it_runs_and_once_when_it_has_ended(tmp_path):
    it = agent(tmp_path, phases=["collect", "vision"], total=10**6)
    seen = []
    while not it.done():
        it.step()
        seen.append({report.name for report in it.report()})
    collect, vision = {"collect/frames"}, {"vision/samples", "vision/latent_walk"}
    assert collect in seen and seen.index(collect) == 0
    assert vision <= seen[-1], "its last pictures, after its end"
    assert not list(it.report())


def test_workers_end_with_the_phase():
    it = agent(phases=["controller"], controller={"workers": 1, "generations": 1}, total=10**6)
    it._phase = it._begin("controller")
    processes = [worker.process for worker in it._phase.executor._workers]
    assert len(processes) == 1
    it.close()
    assert all(process._closed for process in processes)


def test_without_a_directory_it_cleans_up():
    it = agent(phases=["collect"])
    it.step()
    directory = it._directory
    assert directory.exists()
    it.close()
    assert not directory.exists()


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"phases": ["vison"]}, "unknown phase 'vison'. Did you mean 'vision'?"),
        ({"phases": []}, "expected one or more"),
        ({"phases": ["vision", "collect"]}, "in this order"),
        ({"phases": ["vision"]}, "'vision' needs what 'collect' leaves"),
        ({"phases": ["collect", "vision", "memory"]}, "'memory' needs what 'encode' leaves"),
        ({"continued": True}, "got no algo.source"),
        ({"borrowed": ["visoin"]}, "algo.borrowed: unknown phase 'visoin'. Did you mean 'vision'?"),
        ({"collect": {"policy": "controller"}}, "policy=controller: got no algo.source"),
        (
            {"controller": {"population": 8, "groups": 5}},
            "algo.controller.groups: got 5, expected at",
        ),
        (
            {"controller": {"population": 8, "groups": 4, "replayed_groups": 4}},
            "algo.controller.replayed_groups: got 4, expected fewer than",
        ),
        ({"controller": {"train_in": "dream"}}, "all episodes would be equal"),
        (
            {"controller": {"train_in": "dream"}, "memory": {"done_head": True}},
            "algo.controller.generations: got null, expected a number",
        ),
        (
            {
                "controller": {"train_in": "dream", "generations": 1},
                "memory": {"done_head": True},
                "phases": ["controller"],
            },
            "'controller' needs what 'encode' leaves",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes, text):
    with pytest.raises(UsageError) as caught:
        settings(**changes)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("space", "actions", "text"),
    [
        (spaces.Box(0, 1, (4,)), Lamp.action_space, "expected pictures"),
        (spaces.Box(0, 255, (50, 50, 3), np.uint8), Lamp.action_space, "expected pictures"),
        (Lamp.observation_space, spaces.Discrete(3), "expected a bounded Box"),
    ],
)
def test_other_spaces_are_refused(space, actions, text):
    with pytest.raises(UsageError, match=text):
        WorldModels.check_spaces(settings(), space, actions)


def test_what_is_for_cars_is_refused_elsewhere():
    forced = settings(collect={"forced_start_steps": 5})
    with pytest.raises(UsageError, match="are for CarRacing"):
        WorldModels.check_spaces(forced, Lamp.observation_space, Lamp.action_space)


def test_random_play_holds_actions_as_long_as_it_is_told(tmp_path: Path) -> None:
    frames = []
    for steps in (1, 8):
        it = agent(tmp_path / str(steps), collect={"held_steps": steps}, phases=["collect"])
        while not it.done():
            it.step()
        frames.append(it.artefacts.store("collect").episode(0)["action"])
        it.close()
    changes = [(np.diff(action_TA, axis=0) != 0).any(axis=1) for action_TA in frames]
    assert changes[0].all() and not changes[1].all()
