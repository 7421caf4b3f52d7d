"""The loop: when it logs, evaluates and saves; what a stop and a resume leave as they were."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.core.types import FINISHED, Counters, NonFiniteError, passed
from rlzoo.run.loop import Hooks, Loop, MetricWindow, Stopwatch, check_finite


class Counting:
    """An algorithm that only counts; `step` makes as many env steps as it is told."""

    def __init__(self, total: int, stride: int) -> None:
        self.counters = Counters()
        self.total, self.stride = total, stride
        self.env: Any = SimpleNamespace(gauges=dict)

    def step(self) -> dict[str, float]:
        self.counters.env_steps += self.stride
        return {"train/env_steps": float(self.counters.env_steps)}

    def gauges(self) -> dict[str, float]:
        return {"train/epsilon": 0.5}

    def done(self) -> bool:
        return self.counters.env_steps >= self.total


class CountingInTurns(Counting):
    """Learns minibatches of stored data and makes env steps in turns."""

    def step(self) -> dict[str, float]:
        if self.counters.clock // self.stride % 2:
            return super().step()
        self.counters.offline_units += self.stride
        return {}

    def done(self) -> bool:
        return self.counters.clock >= self.total


class Diary:
    """Hooks that write down what happens; `stop_at` is the number of the poll that says stop."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.events: list[Any] = []
        self.polls, self.stop_at = 0, stop_at

    def stop(self) -> bool:
        self.polls += 1
        return self.polls >= self.stop_at

    def log(self, now: int, metrics: dict[str, float]) -> None:
        untimed = {k: v for k, v in metrics.items() if not k.startswith("time/")}
        self.events.append(("log", now, untimed))

    def evaluate(self, now: int) -> bool:
        self.events.append(("evaluate", now))
        return True

    def save(self, now: int) -> None:
        self.events.append(("save", now))

    def hooks(self) -> Hooks:
        return Hooks(self.log, self.evaluate, self.save, self.stop, lambda now: None)

    def at(self, kind: str) -> list[int]:
        return [event[1] for event in self.events if event[0] == kind]


def run(algorithm: Any, diary: Diary, loop: Loop | None = None) -> tuple[str, Loop]:
    loop = loop or Loop(log_every=20, evaluate_every=50, save_every=70)
    return loop.run(algorithm, diary.hooks()), loop


def test_order_of_events():
    diary = Diary()
    status, _ = run(Counting(total=100, stride=10), diary)
    assert status == "finished"
    assert diary.at("log") == [20, 40, 60, 80, 100]
    assert diary.at("evaluate") == [50, 100], "also one that is due with the last step"
    assert diary.at("save") == [70, 100], "the last safe point is saved"
    kinds = [event[0] for event in diary.events if event[1] == 100]
    assert kinds == ["log", "evaluate", "save"]


def test_stored_data_and_env_steps_are_timed_by_one_clock():
    diary, algorithm = Diary(), CountingInTurns(total=100, stride=10)
    reached: list[int] = []
    hooks = diary.hooks()
    hooks.progress = reached.append
    loop = Loop(log_every=20, evaluate_every=50, save_every=70)
    assert loop.run(algorithm, hooks) == "finished"
    assert (algorithm.counters.env_steps, algorithm.counters.offline_units) == (50, 50)
    assert reached == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert diary.at("log") == [20, 40, 60, 80, 100]
    assert diary.at("evaluate") == [50, 100]
    assert diary.at("save") == [70, 100]


class InPhases(Counting):
    """Goes through phases of 30 env steps."""

    def __init__(self, total: int, stride: int) -> None:
        super().__init__(total, stride)
        self.counters.phase = "0"

    def step(self) -> dict[str, float]:
        metrics = super().step()
        self.counters.phase = str(self.counters.env_steps // 30)
        if self.done():
            self.counters.phase = FINISHED
        return metrics


def test_a_phase_is_logged_up_to_its_end_and_a_run_too():
    diary = Diary()
    run(InPhases(total=70, stride=10), diary)
    assert diary.at("log") == [20, 30, 40, 60, 70]
    means = [event[2]["train/env_steps"] for event in diary.events if event[0] == "log"]
    assert means == [15.0, 30.0, 40.0, 55.0, 70.0]
    kinds = [event[0] for event in diary.events if event[1] == 70]
    assert kinds == ["save", "save", "log"], "the last one counts once the run is over"


def test_counters_of_an_old_checkpoint_load():
    counters = Counters()
    counters.load({"env_steps": 70, "updates": 3, "episodes": 2, "phase": "train"})
    assert (counters.clock, counters.offline_units) == (70, 0)
    again = Counters()
    again.load(Counters(env_steps=7, offline_units=5).state())
    assert again.clock == 12


def test_logs_hold_means_since_the_last_one_and_values_of_the_moment():
    diary = Diary()
    run(Counting(total=40, stride=10), diary)
    logs = [event[2] for event in diary.events if event[0] == "log"]
    assert logs == [
        {"train/env_steps": 15.0, "train/epsilon": 0.5},
        {"train/env_steps": 35.0, "train/epsilon": 0.5},
    ]


@given(period=st.integers(1, 50), strides=st.lists(st.integers(1, 120), min_size=1, max_size=60))
def test_passed_is_true_once_for_each_multiple_or_several_at_once(period, strides):
    before, hits = 0, 0
    for stride in strides:
        now = before + stride
        multiples = [m for m in range(before + 1, now + 1) if m % period == 0]
        assert passed(period, before, now) == bool(multiples)
        hits += passed(period, before, now)
        before = now
    assert hits <= before // period


@given(
    stride=st.integers(1, 40),
    stop_at=st.integers(1, 60),
    periods=st.tuples(*[st.integers(1, 90)] * 3),
)
def test_stopped_and_resumed_equals_straight(stride, stop_at, periods):
    straight = Diary()
    run(Counting(300, stride), straight, Loop(*periods))

    algorithm, first, second = Counting(300, stride), Diary(stop_at), Diary()
    status, loop = run(algorithm, first, Loop(*periods))
    if status == "stopped":
        assert first.events[-1] == ("save", algorithm.counters.env_steps)
        again = Loop(*periods)
        again.load(loop.state())
        run(algorithm, second, again)
        del first.events[-1]  # the save of the stop itself
    assert first.events + second.events == straight.events


def test_interrupted_evaluation_comes_again_after_a_resume():
    algorithm, diary = Counting(total=100, stride=10), Diary()
    hooks = diary.hooks()
    hooks.evaluate = lambda now: False  # told to stop in the middle of it
    hooks.stop = lambda: algorithm.counters.env_steps >= 50 and loop.evaluation_pending and tried()
    tries: list[int] = []

    def tried() -> bool:
        tries.append(1)
        return len(tries) > 1

    loop = Loop(20, 50, 70)
    assert loop.run(algorithm, hooks) == "stopped"
    again = Loop(20, 50, 70)
    again.load(loop.state())
    resumed = Diary()
    run(algorithm, resumed, again)
    assert resumed.at("evaluate") == [50, 100]


def test_another_period_takes_effect_at_once():
    algorithm, diary = Counting(total=100, stride=10), Diary(stop_at=4)
    _, loop = run(algorithm, diary, Loop(1000, 1000, 1000))
    again = Loop(20, 1000, 1000)
    again.load(loop.state())
    resumed = Diary()
    run(algorithm, resumed, again)
    assert resumed.at("log") == [40, 60, 80, 100]


class Slow(Counting):
    """Each step takes a second of a clock that tests set; every other one does not count."""

    def __init__(self, total: int, seconds: list[float]) -> None:
        super().__init__(total, stride=1)
        self.seconds = seconds

    def step(self) -> dict[str, float]:
        self.seconds[0] += 1
        return super().step() if self.seconds[0] % 2 else {}


def test_work_without_many_steps_is_saved_by_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def saved(save_every: int, seconds: float | None) -> list[int]:
        now[0] = 0.0
        diary = Diary()
        run(Slow(30, now), diary, Loop(1000, 1000, save_every, seconds))
        return diary.at("save")

    assert saved(1000, 10) == [5, 10, 15, 20, 25, 30]
    assert saved(1000, 0.5) == [*range(1, 31), 30], "never the same twice, but at the end"
    assert saved(10, 15) == [8, 10, 17, 20, 27, 30, 30], "counted from the last save of any kind"
    assert saved(1000, None) == [30]


def test_nan_is_neither_logged_nor_saved():
    class Broken(Counting):
        def step(self) -> dict[str, float]:
            return {**super().step(), "train/loss": float("nan")}

    diary = Diary()
    with pytest.raises(NonFiniteError, match="train/loss is nan"):
        run(Broken(total=100, stride=10), diary)
    assert diary.events == []


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_check_finite(value):
    assert check_finite({"a": 1.0}) == {"a": 1.0}
    with pytest.raises(NonFiniteError, match="metric b"):
        check_finite({"a": 1.0, "b": value})


def test_window_of_tensors_survives_a_save_bit_for_bit():
    torch = pytest.importorskip("torch")
    values = [torch.tensor(0.1) * i for i in range(1, 8)]
    straight, saved, resumed = MetricWindow(), MetricWindow(), MetricWindow()
    for value in values:
        straight.add({"loss": value})
    for value in values[:3]:
        saved.add({"loss": value})
    resumed.load(saved.state())
    for value in values[3:]:
        resumed.add({"loss": value})
    assert resumed.take() == straight.take()
    assert resumed.take() == {}


def test_stopwatch_goes_on_where_the_last_session_ended(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    stopwatch, counters = Stopwatch(), Counters(env_steps=1000)
    stopwatch.start(50.0, counters)
    now[0] += 4
    counters.env_steps = 3000
    metrics = stopwatch.metrics(counters)
    assert metrics == {"time/env_steps_per_second": 500.0, "time/elapsed_seconds": 54.0}
    now[0] += 1
    assert stopwatch.elapsed_seconds == 55.0
    counters.offline_units = 80
    metrics = stopwatch.metrics(counters)
    assert metrics == {"time/offline_units_per_second": 80.0, "time/elapsed_seconds": 55.0}
