"""The log is read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from rlzoo.core.types import State
from rlzoo.io.logger import Logger, LoggerConfig


def make_logger(directory: Path, resume_at: State | None = None, **config: bool) -> Logger:
    def warn(line: str) -> None:
        raise AssertionError(f"unexpected warning: {line}")

    directory.mkdir(exist_ok=True)
    return Logger(directory, LoggerConfig(**config), resume_at=resume_at, warn=warn)


def read_record(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def read_events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory / "tb"), size_guidance={"images": 0}).Reload()


def read_tab(directory: Path, name: str) -> list[tuple[int, Any]]:
    """(step, value) as the TensorBoard server itself reads them: every kind is a tensor there."""
    guidance = {"tensors": 0}
    events = plugin_event_accumulator.EventAccumulator(str(directory / "tb"), guidance).Reload()
    return [(e.step, make_ndarray(e.tensor_proto).tolist()) for e in events.Tensors(name)]


def scalar_steps(directory: Path, name: str) -> list[int]:
    steps = [event.step for event in read_events(directory).Scalars(name)]
    assert [step for step, _ in read_tab(directory, name)] == steps
    return steps


def test_scalars_are_read_back_from_both(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.scalars(5, {"train/return": np.float32(1.5), "loss/td": np.array(2.0)})
    logger.scalars(10, {"train/return": 3})
    # Not closed: a killed process closes nothing.
    assert read_record(tmp_path) == [
        {"step": 5, "train/return": 1.5, "loss/td": 2.0},
        {"step": 10, "train/return": 3.0},
    ]
    events = read_events(tmp_path)
    returns = [(e.step, e.value) for e in events.Scalars("train/return")]
    assert returns == [(5, 1.5), (10, 3.0)]
    assert [e.value for e in events.Scalars("loss/td")] == [2.0]
    assert not logger.failures


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_is_null_and_left_out_of_tensorboard(tmp_path: Path, value: float) -> None:
    make_logger(tmp_path).scalars(1, {"loss/td": value, "loss/other": 1.0})
    assert read_record(tmp_path) == [{"step": 1, "loss/td": None, "loss/other": 1.0}]
    assert read_events(tmp_path).Tags()["scalars"] == ["loss/other"]


def test_histogram(tmp_path: Path) -> None:
    values = np.array([[0.0, 1.0, 1.0], [2.0, 4.0, np.nan]])
    make_logger(tmp_path).histogram(3, "values/q", values)
    [event] = read_events(tmp_path).Histograms("values/q")
    histogram = event.histogram_value
    assert event.step == 3
    assert (histogram.min, histogram.max, histogram.num) == (0.0, 4.0, 5)
    assert (histogram.sum, histogram.sum_squares) == (8.0, 22.0)
    assert sum(histogram.bucket) == 5
    # The two ones are in the bucket that ends after 1.
    ends = np.array(histogram.bucket_limit)
    assert histogram.bucket[int(np.searchsorted(ends, 1.0, side="right"))] == 2


def test_image_is_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    make_logger(tmp_path).image(7, "policy/map", pixels)
    [event] = read_events(tmp_path).Images("policy/map")
    assert (event.step, event.height, event.width) == (7, 2, 3)
    decoded = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    np.testing.assert_array_equal(decoded, pixels)


def test_video_is_an_animated_gif_of_the_same_duration(tmp_path: Path) -> None:
    frames = np.zeros((20, 40, 800, 3), dtype=np.uint8)
    frames[np.arange(20), :, np.arange(20) * 40] = 255  # a bar that wanders
    make_logger(tmp_path).video(7, "eval/episode", frames, fps=10)
    [event] = read_events(tmp_path).Images("eval/episode")
    film = Image.open(io.BytesIO(event.encoded_image_string))
    assert film.format == "GIF"
    assert film.n_frames == 20
    assert film.info["duration"] == 100
    assert (event.width, event.height) == film.size
    assert max(film.size) <= 320


def test_text(tmp_path: Path) -> None:
    make_logger(tmp_path).text("run/config", "**lr** 0.1")
    events = read_events(tmp_path)
    [event] = events.Tensors("run/config")
    assert event.tensor_proto.string_val == [b"**lr** 0.1"]
    assert events.SummaryMetadata("run/config").plugin_data.plugin_name == "text"


def test_hparams_are_in_the_runs_own_file_beside_its_scalars(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.hparams({"algo.lr": 1e-3, "algo.double": True, "env.id": "CartPole-v1", "x": None})
    logger.scalars(1, {"eval/return": 9.0})
    logger.session_end("success")
    events = read_events(tmp_path)
    assert events.Tags()["scalars"] == ["eval/return"]
    about = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    assert about.plugin_data.plugin_name == "hparams"
    start = metadata.parse_session_start_info_plugin_data(about.plugin_data.content)
    assert start.hparams["algo.lr"].number_value == 1e-3
    assert start.hparams["algo.double"].bool_value is True
    assert start.hparams["env.id"].string_value == "CartPole-v1"
    assert start.hparams["x"].string_value == "None"
    about = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG)
    end = metadata.parse_session_end_info_plugin_data(about.plugin_data.content)
    assert end.status == 1  # STATUS_SUCCESS


def hparams_in(directory: Path, name: str) -> float:
    about = read_events(directory).SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    start = metadata.parse_session_start_info_plugin_data(about.plugin_data.content)
    return start.hparams[name].number_value


def test_hparams_are_the_settings_in_force_after_a_resume(tmp_path: Path) -> None:
    first = make_logger(tmp_path)
    first.hparams({"algo.lr": 0.1})
    first.scalars(1, {"a": 1.0})
    saved = json.loads(json.dumps(first.state()))
    first.session_end("success")
    assert hparams_in(tmp_path, "algo.lr") == 0.1
    second = make_logger(tmp_path, resume_at=saved)
    second.hparams({"algo.lr": 0.2})
    second.scalars(2, {"a": 2.0})
    assert hparams_in(tmp_path, "algo.lr") == 0.2
    assert metadata.SESSION_END_INFO_TAG not in read_events(tmp_path).Tags()["tensors"]
    second.session_end("failure")
    about = read_events(tmp_path).SummaryMetadata(metadata.SESSION_END_INFO_TAG)
    end = metadata.parse_session_end_info_plugin_data(about.plugin_data.content)
    assert end.status == 2  # STATUS_FAILURE
    assert scalar_steps(tmp_path, "a") == [1, 2]


def test_hparams_tab_shows_first_what_differs_between_jobs(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    for lr in (0.1, 0.2):
        logger = make_logger(tmp_path / str(lr))
        logger.hparams({"algo.gamma": 0.9, "algo.lr": lr})
        logger.scalars(1, {"eval/return": lr})
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    experiment = context.experiment_from_metadata(
        request, "", True, context.hparams_metadata(request, ""), None
    )
    differs = {info.name: info.differs for info in experiment.hparam_infos}
    assert differs == {"algo.gamma": False, "algo.lr": True}
    assert [info.name.tag for info in experiment.metric_infos] == ["eval/return"]


def test_switches(tmp_path: Path) -> None:
    frames = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    logger = make_logger(tmp_path, histograms=False, videos=False)
    logger.histogram(1, "h", np.ones(3))
    logger.video(1, "v", frames, 10)
    logger.scalars(1, {"a": 1.0})
    tags = read_events(tmp_path).Tags()
    assert (tags["histograms"], tags["images"], tags["scalars"]) == ([], [], ["a"])
    quiet = make_logger(tmp_path / "quiet", tensorboard=False)
    quiet.scalars(1, {"a": 1.0})
    quiet.image(1, "i", frames[0])
    assert not (tmp_path / "quiet" / "tb").exists()
    assert read_record(tmp_path / "quiet") == [{"step": 1, "a": 1.0}]


def run_killed_and_resumed(directory: Path, *, forget: tuple[str, ...] = ()) -> None:
    """Steps 1..14 with a checkpoint at 10, a kill, then 11..20; `forget` plants a fault."""
    first = make_logger(directory)
    first.text("run/config", "first")
    for step in range(1, 15):
        first.scalars(step, {"train/return": float(step)})
        if step == 10:
            saved = json.loads(json.dumps(first.state()))
    if "metrics_bytes" in forget:
        saved["metrics_bytes"] = (directory / "metrics.jsonl").stat().st_size
    if "events_end" in forget:
        del saved["events_end"]
        saved["last_step"] = 99
    second = make_logger(directory, resume_at=saved)
    second.text("run/config", "second")
    for step in range(11, 21):
        second.scalars(step, {"train/return": float(step) + 100})


def test_killed_then_resumed_shows_each_step_once(tmp_path: Path) -> None:
    run_killed_and_resumed(tmp_path)
    values = [float(s) for s in range(1, 11)] + [float(s) + 100 for s in range(11, 21)]
    assert [line["train/return"] for line in read_record(tmp_path)] == values
    assert [line["step"] for line in read_record(tmp_path)] == list(range(1, 21))
    events = read_events(tmp_path).Scalars("train/return")
    assert [(e.step, e.value) for e in events] == list(zip(range(1, 21), values, strict=True))
    assert read_tab(tmp_path, "train/return") == [(e.step, e.value) for e in events]


def test_killed_then_resumed_would_show_duplicates_without_the_rewind(tmp_path: Path) -> None:
    """The negative control of the test above."""
    run_killed_and_resumed(tmp_path / "a", forget=("metrics_bytes",))
    assert len(read_record(tmp_path / "a")) == 24
    assert scalar_steps(tmp_path / "a", "train/return") == list(range(1, 21))
    run_killed_and_resumed(tmp_path / "b", forget=("events_end",))
    assert len(scalar_steps(tmp_path / "b", "train/return")) == 24


def test_killed_twice_at_the_same_checkpoint(tmp_path: Path) -> None:
    run_killed_and_resumed(tmp_path)
    size = sum(len(json.dumps(line)) + 1 for line in read_record(tmp_path)[:10])
    third = make_logger(tmp_path, resume_at={"metrics_bytes": size, "last_step": 10})
    third.text("run/config", "third")
    third.scalars(11, {"train/return": -1.0})
    assert [line["step"] for line in read_record(tmp_path)] == list(range(1, 12))
    assert scalar_steps(tmp_path, "train/return") == list(range(1, 12))
    assert read_tab(tmp_path, "run/config") == [(0, b"first"), (11, b"third")]


def test_killed_before_the_first_checkpoint_starts_over(tmp_path: Path) -> None:
    for _ in range(2):
        logger = make_logger(tmp_path)
        logger.scalars(0, {"a": 0.0})
        logger.scalars(1, {"a": 1.0})
    assert [line["step"] for line in read_record(tmp_path)] == [0, 1]
    assert scalar_steps(tmp_path, "a") == [0, 1]


def test_killed_within_a_record(tmp_path: Path) -> None:
    first = make_logger(tmp_path)
    first.scalars(1, {"a": 1.0})
    saved = first.state()
    first.scalars(2, {"a": 2.0})
    [events_file] = (tmp_path / "tb").iterdir()
    for file in (events_file, tmp_path / "metrics.jsonl"):
        file.write_bytes(file.read_bytes()[:-5])
    make_logger(tmp_path, resume_at=saved).scalars(2, {"a": 20.0})
    assert [line["a"] for line in read_record(tmp_path)] == [1.0, 20.0]
    assert [e.value for e in read_events(tmp_path).Scalars("a")] == [1.0, 20.0]


def test_state_of_a_fresh_log(tmp_path: Path) -> None:
    state = {"metrics_bytes": 0, "last_step": -1, "events_end": ["", 0]}
    assert make_logger(tmp_path).state() == state


def test_killed_after_a_second_line_of_the_same_step(tmp_path: Path) -> None:
    first = make_logger(tmp_path)
    first.scalars(1, {"a": 1.0})
    saved = json.loads(json.dumps(first.state()))
    first.scalars(1, {"eval/return_mean": 2.0})
    for value in (3.0, 4.0):
        make_logger(tmp_path, resume_at=saved).scalars(1, {"eval/return_mean": value})
    assert read_record(tmp_path) == [{"step": 1, "a": 1.0}, {"step": 1, "eval/return_mean": 4.0}]
    events = read_events(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(1, 1.0)]
    assert [(e.step, e.value) for e in events.Scalars("eval/return_mean")] == [(1, 4.0)]
    assert read_tab(tmp_path, "eval/return_mean") == [(1, 4.0)]


def test_an_event_file_that_is_a_link_is_not_cut(tmp_path: Path) -> None:
    first = make_logger(tmp_path)
    first.scalars(1, {"a": 1.0})
    saved = first.state()
    first.scalars(2, {"a": 2.0})
    [file] = (tmp_path / "tb").iterdir()
    elsewhere = file.rename(tmp_path / "elsewhere")
    file.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    make_logger(tmp_path, resume_at=saved).scalars(2, {"a": 3.0})
    assert elsewhere.read_bytes() == before
