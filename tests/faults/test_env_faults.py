"""Envs that raise, lie, hang or die: who, where and when is named, and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlzoo.core import workers as workers_module
from rlzoo.core.seeding import TRAIN, episode_seed
from rlzoo.core.types import EnvError, NonFiniteError
from rlzoo.envs import checks
from rlzoo.envs import process as process_module
from rlzoo.envs.episodes import EpisodeEnv
from rlzoo.envs.process import ProcessVectorEnv
from rlzoo.envs.sync import SyncVectorEnv

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
DISCRETE = gymnasium.spaces.Discrete(4)
PAIR = gymnasium.spaces.MultiDiscrete([3, 3])
EPISODE_STEPS = 3
ALONE: dict[str, Any] = {"run_seed": 0, "purpose": TRAIN, "env_index": 3}
# The fault strikes env 3 in its episode 1, at step 2 of it: at the 5th step of all.
SEED = episode_seed(0, TRAIN, 3, 1)
PLACE = rf"env 3, episode 1 \(seed {SEED}\), step 2: "


class Panic(BaseException):
    """What envs in Rust raise: no Exception."""


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError("no words")


class FaultyEnv(gymnasium.Env):
    """Well-behaved but for one step under one seed, in which `fault` is returned or done."""

    def __init__(self, space=BOX, fault="none", at_seed=SEED, at_step=2, action_space=DISCRETE):
        self.observation_space, self.action_space = space, action_space
        self.fault, self.at_seed, self.at_step = fault, at_seed, at_step

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return self._do()[0], {}

    def step(self, action):
        self.t += 1
        obs, reward = self._do()
        flags = {"terminated": self.t == EPISODE_STEPS, "truncated": False}
        if self.fault[0] in flags and (self.seed, self.t) == (self.at_seed, self.at_step):
            flags[self.fault[0]] = self.fault[1]
        return obs, reward, flags["terminated"], flags["truncated"], {}

    def _do(self):
        space = self.observation_space
        obs = 0 if space == DISCRETE else np.zeros(space.shape, space.dtype)
        if (self.seed, self.t) != (self.at_seed, self.at_step):
            return obs, 0.0
        match self.fault:
            case "raise":
                raise ZeroDivisionError("not my\nday")
            case "exit":
                sys.exit(3)
            case "panic":
                raise Panic("index out\nof range")
            case "mute":
                raise Mute
            case "interrupt":
                raise KeyboardInterrupt
            case "hang":
                time.sleep(1000)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case ("reward", reward):
                return obs, reward
            case ("observation", wrong):
                return wrong, 0.0
        return obs, 0.0


def sync(num_envs: int = 4, **kwargs) -> SyncVectorEnv:
    make = partial(FaultyEnv, **kwargs)
    return SyncVectorEnv(
        [EpisodeEnv(make, run_seed=0, purpose=TRAIN, env_index=i) for i in range(num_envs)]
    )


def process(timeout_seconds: float = 60.0, **kwargs) -> ProcessVectorEnv:
    return ProcessVectorEnv(
        partial(FaultyEnv, **kwargs),
        num_envs=4,
        run_seed=0,
        purpose=TRAIN,
        workers=2,
        timeout_seconds=timeout_seconds,
    )


def play(vector, steps: int = 6) -> None:
    for _ in range(steps):
        vector.step(np.zeros(4, dtype=np.int64))


OBSERVATIONS = [
    (BOX, np.array([0, np.nan], np.float32), NonFiniteError, r"nan at index \[1\]"),
    (BOX, np.array([-np.inf, 0], np.float32), NonFiniteError, r"-inf at index \[0\]"),
    (BOX, np.zeros(1, np.float32), EnvError, r"float32 \(1,\), expected float32 \(2,\)"),
    (BOX, np.zeros((1, 2), np.float32), EnvError, r"\(1, 2\), expected float32 \(2,\)"),
    (BOX, np.float32(0), EnvError, r"expected float32 \(2,\)"),
    (BOX, np.zeros(2, np.float64), EnvError, r"float64 \(2,\), expected float32"),
    (BOX, [0.0, 0.0], EnvError, "expected float32"),
    (BOX, None, EnvError, "got None"),
    (DISCRETE, 4, EnvError, "got 4, expected an integer from 0 to 3"),
    (DISCRETE, -1, EnvError, "got -1"),
    (DISCRETE, 1.0, EnvError, "got 1.0"),
    (DISCRETE, float("nan"), EnvError, "got nan"),
    (PAIR, np.array([0, 3]), EnvError, r"got \[0, 3\]"),
    (PAIR, np.array([0.0, 1.0]), EnvError, "float64"),
]
REWARDS = [
    (float("nan"), NonFiniteError, "reward: got nan"),
    (np.float32("inf"), NonFiniteError, "reward: got inf"),
    (None, EnvError, "TypeError"),
    (np.zeros(2), EnvError, "TypeError"),
]


@pytest.mark.parametrize(("space", "obs", "kind", "text"), OBSERVATIONS)
def test_a_wrong_observation_stops_there(space, obs, kind, text: str) -> None:
    vector = sync(space=space, fault=("observation", obs))
    play(vector, 4)
    with pytest.raises(kind, match=PLACE + "observation: .*" + text) as caught:
        play(vector, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=PLACE + "observation: .*" + text):
        step_alone(space=space, fault=("observation", obs))


@pytest.mark.parametrize(("reward", "kind", "text"), REWARDS)
def test_a_wrong_reward_stops_there(reward, kind, text: str) -> None:
    with pytest.raises(kind, match=PLACE + text):
        play(sync(fault=("reward", reward)))
    with pytest.raises(kind, match=PLACE + text):
        step_alone(fault=("reward", reward))


RAISED = [
    ("raise", "ZeroDivisionError: not my day"),
    ("exit", "SystemExit: 3"),
    ("panic", "Panic: index out of range"),
    ("mute", r"Mute: \(no message: LookupError\)"),
]


@pytest.mark.parametrize(("fault", "text"), RAISED)
@pytest.mark.parametrize("at_step", [0, 2])
def test_whatever_an_env_raises_is_named(fault: str, text: str, at_step: int) -> None:
    place = PLACE if at_step else PLACE.replace("step 2", "step 0") + "reset: "
    for play_it in (lambda **env: play(sync(**env)), step_alone):
        with pytest.raises(EnvError, match=f"^{place}{text}$"):
            play_it(fault=fault, at_step=at_step)


@pytest.mark.parametrize("at_step", [0, 2])
def test_an_interrupt_passes(at_step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(sync(fault="interrupt", at_step=at_step))
    with pytest.raises(KeyboardInterrupt):
        EpisodeEnv(partial(MadeWrong, "make", "interrupt", always=True), **ALONE)
    with pytest.raises(KeyboardInterrupt):
        sync_of("close", "interrupt").close()


NO_FLAGS = [np.zeros(1, bool), np.array([True, False]), np.array(1), None, 1, "no", [True]]


@pytest.mark.parametrize("value", NO_FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_a_wrong_flag_stops_there(name: str, value: object) -> None:
    for play_it in (lambda **env: play(sync(**env)), step_alone):
        with pytest.raises(EnvError, match=PLACE + f"{name}: got .*, expected a bool"):
            play_it(fault=(name, value))


@pytest.mark.parametrize("value", [True, np.True_, np.array(True)], ids=repr)
def test_what_is_true_may_be_numpys(value: object) -> None:
    env = EpisodeEnv(partial(FaultyEnv, fault=("truncated", value)), **ALONE)
    ends = [env.step(0)[3] for _ in range(6)]
    assert ends == [False] * 4 + [True, False] and all(end.__class__ is bool for end in ends)


class Unspeakable:
    def __repr__(self) -> str:
        raise LookupError("no words")


def test_an_observation_without_a_repr_stops_there() -> None:
    with pytest.raises(EnvError, match=PLACE + "observation: LookupError: no words"):
        play(sync(fault=("observation", Unspeakable())))
    with pytest.raises(EnvError, match=PLACE + "TypeError"):
        play(sync(fault=("reward", Unspeakable())))
    with pytest.raises(EnvError, match=PLACE + "LookupError: no words"):
        play(sync(fault=("terminated", Unspeakable())))


class MadeWrong(FaultyEnv):
    """Its `at`-th instance in a process does the `fault` in its constructor, or as it is closed."""

    made = 0

    def __init__(self, place: str, fault: str, at: int = 1, always: bool = False) -> None:
        super().__init__()
        MadeWrong.made += 1
        self.place, self.what, self.wrong = place, fault, always or MadeWrong.made == at
        self._happen("make")

    def close(self) -> None:
        self.closed = True
        self._happen("close")

    def _happen(self, place: str) -> None:
        if self.wrong and place == self.place:
            FaultyEnv(fault=self.what, at_seed=0, at_step=0).reset(seed=0)


def sync_of(*words) -> SyncVectorEnv:
    MadeWrong.made = 0
    make = partial(MadeWrong, *words)
    return SyncVectorEnv(
        [EpisodeEnv(make, run_seed=0, purpose=TRAIN, env_index=i) for i in range(4)]
    )


@pytest.mark.parametrize(("fault", "text"), RAISED)
def test_whatever_a_constructor_raises_is_named(fault: str, text: str) -> None:
    with pytest.raises(EnvError, match=f"^env 2 cannot be made: {text}$"):
        sync_of("make", fault, 3)


@pytest.mark.parametrize(("fault", "text"), RAISED)
def test_whatever_close_raises_is_named_and_the_others_are_closed(fault: str, text: str) -> None:
    vector = sync_of("close", fault, 3)
    play(vector, 2)
    seed = episode_seed(0, TRAIN, 2, 0)
    place = rf"^env 2, episode 0 \(seed {seed}\), step 2: close: "
    with pytest.raises(EnvError, match=f"{place}{text}$"):
        vector.close()
    assert all(member.env.closed for member in vector.members)
    rebuilt = EpisodeEnv(
        partial(MadeWrong, "close", fault, always=True), restore="rebuild", **ALONE
    )
    with pytest.raises(EnvError, match=rf"^env 3, episode 0 .*: close: {text}$"):
        play_alone(rebuilt)


@pytest.mark.parametrize(("space", "obs", "kind", "text"), OBSERVATIONS)
def test_a_wrong_first_observation_stops_there(space, obs, kind, text: str) -> None:
    vector = sync(space=space, fault=("observation", obs), at_step=0)
    play(vector, 2)
    with pytest.raises(kind, match=PLACE.replace("step 2", "step 0") + "observation: .*" + text):
        play(vector, 1)


def step_alone(**kwargs) -> None:
    play_alone(EpisodeEnv(partial(FaultyEnv, **kwargs), **ALONE))


def play_alone(env: EpisodeEnv) -> None:
    for _ in range(6):
        env.step(0)


@pytest.mark.parametrize(
    "fault",
    [
        (BOX, np.array([0, np.nan], np.float32)),
        (BOX, np.zeros(1, np.float32)),
        (BOX, np.zeros(2, np.float64)),
        (DISCRETE, 4),
        (PAIR, np.array([0, 3])),
    ],
)
def test_without_the_guards_the_faults_pass_unseen(monkeypatch, fault) -> None:
    """The control: it is the checks that find them, not NumPy or the env."""
    monkeypatch.setattr(checks, "_form_test", lambda space: lambda value: True)
    monkeypatch.setattr(checks, "_values_test", lambda space, bounded: lambda value: True)
    play(sync(space=fault[0], fault=("observation", fault[1])))


@pytest.mark.parametrize(
    ("space", "action_B", "text"),
    [
        (DISCRETE, np.array([0, 1, 4, 0]), "env 2, .*step 0: action: got 4, expected an integer"),
        (DISCRETE, np.array([0, -1, 0, 0]), "env 1, .*got -1"),
        (DISCRETE, np.array([0.0, 1.0, 0.0, 0.0]), r"actions: got float64 \(4,\)"),
        (DISCRETE, np.array([0, 0, 0]), r"actions: got int64 \(3,\), expected int64 \(4,\)"),
        (DISCRETE, np.zeros((4, 1), np.int64), r"actions: got int64 \(4, 1\)"),
        (PAIR, np.full((4, 2), 3), r"env 0, .*got \[3, 3\]"),
        (gymnasium.spaces.Box(-1, 1, (1,)), np.full((4, 1), 1.01), "env 0, .*from -1 to 1"),
        (gymnasium.spaces.Box(-1, 1, (1,)), np.full((4, 1), np.nan), "env 0, .*nan at index"),
        (gymnasium.spaces.Box(-1, 1, (1,)), np.zeros(4), r"expected float32 \(4, 1\)"),
    ],
)
def test_an_action_outside_the_space_does_not_reach_the_env(space, action_B, text: str) -> None:
    vector = sync(action_space=space)
    with pytest.raises(EnvError, match=text):
        vector.step(action_B)
    assert [member.length for member in vector.members] == [0] * 4
    if len(action_B) == 4 and text.startswith("env"):
        with pytest.raises(EnvError, match="action: got"):
            for member, action in zip(vector.members, action_B, strict=True):
                member.step(action)


# Processes ---------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie only waits to be noticed


def pids(vector: ProcessVectorEnv) -> list[int]:
    return [int(worker.process.pid or 0) for worker in vector._crew.workers]


def assert_gone(workers: list[int], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, f"still there: {list(filter(alive, workers))}"
        time.sleep(0.02)


WORKER_FAULTS = [
    *RAISED,
    ("interrupt", "worker: KeyboardInterrupt"),
    ("die", r"the worker process died \(exit code -9\)"),
    ("hang", "no sign of life within 0.5 seconds"),
]


@pytest.mark.parametrize(("fault", "text"), WORKER_FAULTS)
def test_a_failing_worker_is_named_and_none_is_left(
    fault: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("core.workers", "envs.process"):  # who waits for a stuck worker waits for ever
        monkeypatch.setattr(f"rlzoo.{module}.LEAVE_SECONDS", 10_000.0)
    vector = process(timeout_seconds=0.5 if fault == "hang" else 60.0, fault=fault)
    workers = pids(vector)
    assert all(map(alive, workers))
    play(vector, 4)
    with pytest.raises(EnvError, match=PLACE + text):
        play(vector, 1)
    assert not any(map(alive, workers))
    with pytest.raises(EnvError, match="already closed"):
        play(vector, 1)


class DiesInWorkers(FaultyEnv):
    """Cannot even be made where it would be stepped."""

    def __init__(self):
        super().__init__()
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_as_it_starts_is_named() -> None:
    died = r"the worker process died \(exit code -9\)"
    with pytest.raises(EnvError, match=f"^env 0 cannot be made: {died}"):
        ProcessVectorEnv(DiesInWorkers, num_envs=2, run_seed=0, purpose=TRAIN, workers=1)
    with pytest.raises(EnvError, match=rf"^env 1, episode 0 \(seed \d+\), step 0: {died}"):
        process_of("make", "die", 2)


def process_of(*words) -> ProcessVectorEnv:
    make = partial(MadeWrong, *words)
    return ProcessVectorEnv(make, num_envs=4, run_seed=0, purpose=TRAIN, workers=2)


def of_env_1(text: str, step: int) -> str:
    """The second env of the first worker."""
    return rf"^env 1, episode 0 \(seed {episode_seed(0, TRAIN, 1, 0)}\), step {step}: {text}(\n|$)"


@pytest.mark.parametrize("at", [1, 2])
def test_a_constructor_that_hangs_is_named(monkeypatch, at: int) -> None:
    monkeypatch.setattr(workers_module, "START_SECONDS", 6.0)
    hangs = "no sign of life within 6 seconds"
    text = f"^env 0 cannot be made: {hangs}$" if at == 1 else of_env_1(hangs, 0)
    with pytest.raises(EnvError, match=text):
        process_of("make", "hang", at)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("at", "text"), [(1, "env 0"), (2, "env 1")])
def test_what_a_constructor_in_a_worker_raises_is_named(at: int, text: str) -> None:
    with pytest.raises(EnvError, match=f"^{text} cannot be made: ZeroDivisionError: not my day\n"):
        process_of("make", "raise", at)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("fault", "text"), [("mute", RAISED[-1][1]), ("hang", "no sign of life within 0.5 seconds")]
)
def test_close_says_what_went_wrong_in_a_worker(monkeypatch, fault: str, text: str) -> None:
    vector = process_of("close", fault, 2)
    play(vector, 2)
    workers = pids(vector)
    monkeypatch.setattr(process_module, "LEAVE_SECONDS", 0.5)
    with pytest.raises(EnvError, match=of_env_1("close: " + text, 2)):
        vector.close()
    assert not any(map(alive, workers))
    vector.close()


class OnlyHere(FaultyEnv):
    """Cannot be sent to a worker: what it unpickles to is not there."""

    def __reduce__(self):
        return (_only_here, ())


def _only_here() -> FaultyEnv:
    raise ModuleNotFoundError("No module named 'simulator'")


def test_a_worker_that_cannot_find_the_env_says_why() -> None:
    make = partial(same_env, OnlyHere())
    with pytest.raises(
        EnvError, match=r"^env 0 cannot be made: worker: ModuleNotFoundError: No mod"
    ):
        ProcessVectorEnv(make, num_envs=2, run_seed=0, purpose=TRAIN, workers=1)


def same_env(env: FaultyEnv) -> FaultyEnv:
    return env


def test_a_failing_worker_is_named_after_a_resume_too() -> None:
    before = sync(fault="die")
    play(before, 4)
    vector = process(fault="die")
    vector.load(before.state())
    with pytest.raises(EnvError, match=PLACE + "the worker process died"):
        play(vector, 1)


def test_an_error_in_a_worker_keeps_its_kind_and_its_traceback() -> None:
    vector = process(fault=("reward", float("nan")))
    with pytest.raises(NonFiniteError, match=PLACE + "reward: got nan") as caught:
        play(vector)
    assert "episodes.py" in "".join(caught.value.__notes__)


def test_close_leaves_nothing_and_can_be_repeated() -> None:
    vector = process()
    workers = pids(vector)
    descriptors = len(os.listdir("/proc/self/fd"))
    vector.close()
    vector.close()
    assert not any(map(alive, workers))
    assert len(os.listdir("/proc/self/fd")) < descriptors


PARENT = """
import sys, time
sys.path.insert(0, {here!r})
from test_env_faults import pids, play, process
if __name__ == "__main__":
    vector = process(fault={fault!r})
    print(*pids(vector), flush=True)
    play(vector, 4)
    if {end!r} == "exit":
        sys.exit(3)
    play(vector)
    time.sleep(1000)
"""


@pytest.mark.parametrize(("end", "fault"), [("kill", "hang"), ("kill", "none"), ("exit", "none")])
def test_workers_live_as_long_as_their_parent_whatever_happens(
    tmp_path, end: str, fault: str
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(here=str(Path(__file__).parent), end=end, fault=fault))
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    workers: list[int] = []
    try:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2
        if end == "kill":
            for pid in workers:  # as a terminal or a scheduler does, to the whole group
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.3)  # one worker is stuck in a step by now, if it is to be
            assert all(map(alive, workers))
            parent.kill()
        parent.wait(timeout=300)
        assert_gone(workers)
    finally:
        for pid in filter(alive, workers):  # if the test failed
            os.kill(pid, signal.SIGKILL)
        parent.kill()
        parent.wait()
        parent.stdout.close()
