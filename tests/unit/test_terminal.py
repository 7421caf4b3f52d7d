"""Progress: a bar at a terminal, and where nobody watches one a line now and then."""

from contextlib import closing

import pytest

from rlzoo.core.algorithm import Progress
from rlzoo.run import progress as terminal
from rlzoo.run.progress import EpisodesPlayed, ProgressBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless it is set."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def steps(done: int) -> Progress:
    return Progress("train", done, 1000, "env steps")


def test_a_file_gets_a_line_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar(steps(100)) as bar:
        for seconds, done in ((101.0, 101), (159.0, 200), (160.0, 220)):
            clock[0] = seconds
            bar.show({"rollout/return_mean": 12.345678})
            bar.update(steps(done))
    assert capsys.readouterr().err == (
        "rlzoo: 220 of 1,000 env steps, 2/s, 6 min left; return 12.35\n"
    )


def test_a_phase_is_named_and_counts_its_own_units(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar(Progress("vision", 0, 6, "minibatches")) as bar:
        clock[0] = 160.0
        bar.update(Progress("vision", 3, 6, "minibatches"))
        clock[0] = 170.0
        bar.update(Progress("controller", 0, 8, "generations"))
        for seconds, done in ((230.0, 2), (290.0, 2), (530.0, 2)):  # the third one is late
            clock[0] = seconds
            bar.update(Progress("controller", done, 8, "generations"))
    assert capsys.readouterr().err.splitlines() == [
        "rlzoo: vision: 3 of 6 minibatches, 0.05/s, 1 min left",
        "rlzoo: controller: 2 of 8 generations, 0.0286/s, 3 min left",
        "rlzoo: controller: 2 of 8 generations, 2 min left",
        "rlzoo: controller: 2 of 8 generations, 0 min left",
    ]


def test_at_a_terminal_each_phase_has_a_bar_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    with ProgressBar(Progress("vision", 5, 20, "minibatches")) as bar:  # resumed
        bar.show({"train/loss": 0.25})
        bar.update(Progress("vision", 10, 20, "minibatches"))
        bar.bar.refresh()
        bar.update(Progress("controller", 325, 1000, "env steps"))
        bar.bar.refresh()
    lines = capsys.readouterr().err.split("\r")
    of_vision = [line for line in lines if line.startswith("vision")]
    of_controller = [line for line in lines if line.startswith("controller")]
    [half] = [line for line in of_vision if line.startswith("vision:  50%")]
    assert "10/20 [" in half and "minibatches/s" in half and "loss=0.25]" in half
    assert of_vision[-1].startswith("vision: 100%"), "a phase ends full"
    assert of_controller[-1].startswith("controller:  32%")
    assert "325/1.00k [" in of_controller[-1] and "loss" not in of_controller[-1]


def test_a_short_run_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(steps(0)) as bar:
        for done in range(1, 11):
            clock[0] += 1
            bar.update(steps(done))
    assert capsys.readouterr().err == ""


def test_an_evaluation_gets_a_line_a_minute_too(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(EpisodesPlayed(4)) as played:
        for seconds in (130.0, 160.0, 190.0, 280.0):
            clock[0] = seconds
            played.one_more()
    assert capsys.readouterr().err == "rlzoo: 2 of 4 episodes, 1 min left\n"


def test_at_a_terminal_it_has_a_bar_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    with closing(EpisodesPlayed(4)) as played:
        played.one_more()
        played.bar.refresh()
        assert "1/4 [" in capsys.readouterr().err
    assert capsys.readouterr().err.rstrip("\r").endswith(" ")
