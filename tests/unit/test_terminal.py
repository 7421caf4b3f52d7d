"""Progress: a bar at a terminal, and where nobody watches one a line now and then."""

from contextlib import closing

import pytest

from rlzoo.run import progress as terminal
from rlzoo.run.progress import EpisodesPlayed, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless it is set."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_line_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(total=1000, done=100) as progress:
        for seconds, step, updates in ((100.0, 101, 0), (159.0, 200, 2), (160.0, 220, 3)):
            clock[0] = seconds
            progress.show({"rollout/return_mean": 12.345678})
            progress.phase("vision", updates, 6, "updates")
            progress.update(step)
    assert capsys.readouterr().err == (
        "rlzoo: 220 of 1,000 steps, 2/s; vision 3 of 6 updates, 1 min left; return 12.35\n"
    )


def test_a_phase_without_a_length_of_its_own_ends_with_the_run(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(total=1000, done=100) as progress:
        for seconds, step, generations in ((100.0, 100, 0), (130.0, 250, 1), (160.0, 400, 2)):
            clock[0] = seconds
            progress.update(step)
            progress.phase("controller", generations, 0, "generations")
        for seconds in (220.0, 280.0, 400.0):  # in the third, which is late
            clock[0] = seconds
            progress.phase("controller", 2, 0, "generations")
            progress.update(400)
    assert capsys.readouterr().err.splitlines() == [
        "rlzoo: 400 of 1,000 steps, 5/s; controller 1 generations, 2 min left",
        "rlzoo: 400 of 1,000 steps; controller 2 generations, 1 min left",
        "rlzoo: 400 of 1,000 steps; controller 2 generations, 0 min left",
        "rlzoo: 400 of 1,000 steps; controller 2 generations, 0 min left",
    ]


def test_at_a_terminal_a_phase_with_a_length_of_its_own_has_a_bar_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    with Progress(total=1000, done=100) as progress:
        progress.phase("vision", 5, 20, "minibatches")  # resumed
        progress.show({"train/loss": 0.25})
        progress.phase("vision", 10, 20, "minibatches")
        progress.update(105)
        progress.bar.refresh()
        progress.phase("controller", 0, 0, "generations")
        progress.update(325)
        progress.bar.refresh()
    lines = capsys.readouterr().err.split("\r")[::-1]
    of_vision, of_controller = (
        next(line for line in lines if line.startswith(name)) for name in ("vision", "controller")
    )
    assert of_vision.startswith("vision:  50%") and "10/20 [" in of_vision
    assert "minibatches/s" in of_vision and "loss=0.25]" in of_vision
    assert of_controller.startswith("controller 0 generations:  32%")
    assert "325/1.00k [" in of_controller and "steps/s]" in of_controller, "nor vision's loss"


def test_a_short_run_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=10, done=0) as progress:
        for step in range(1, 11):
            clock[0] += 1
            progress.update(step)
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
