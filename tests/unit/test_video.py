from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlzoo.io import video


def moving_bar(length: int = 6, height: int = 21, width: int = 33) -> np.ndarray:
    frames = np.zeros((length, height, width, 3), np.uint8)
    for t in range(length):
        frames[t, :, 3 * t : 3 * t + 3] = (255, 20 * t, 0)
    return frames


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


def test_gif_without_ffmpeg(tmp_path: Path, no_ffmpeg: None) -> None:
    frames = moving_bar()
    path = video.write_video(tmp_path / "new" / "step_000010.v1", frames, fps=20)
    assert path == tmp_path / "new" / "step_000010.v1.gif"
    assert list(path.parent.iterdir()) == [path]
    film = Image.open(path)
    assert (film.format, film.n_frames, film.size) == ("GIF", 6, (33, 21))
    assert film.info["duration"] == 50
    for t, frame in enumerate(frames):
        film.seek(t)
        difference = np.abs(np.asarray(film.convert("RGB")).astype(int) - frame)
        assert difference.max() <= 8


def test_mp4_with_ffmpeg(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = video.write_video(tmp_path / "film", moving_bar(), fps=20)
    assert list(tmp_path.iterdir()) == [path]
    assert path.name == "film.mp4"
    about = next(ffmpeg.read_frames(str(path)))
    assert (about["size"], about["fps"], about["codec"]) == ((32, 20), 20.0, "h264")
    assert ffmpeg.count_frames_and_secs(str(path))[0] == 6


def test_suffix_of_the_path_is_not_doubled(tmp_path: Path) -> None:
    assert video.write_video(tmp_path / "film.gif", moving_bar(), fps=20).name == "film.gif"


def test_a_film_that_was_asked_for_as_mp4_is_not_written_under_another_name(
    tmp_path: Path, no_ffmpeg: None
) -> None:
    with pytest.raises(OSError, match=r"film\.mp4: no film in mp4 can be made here"):
        video.write_video(tmp_path / "film.mp4", moving_bar(), fps=20)
    assert not list(tmp_path.iterdir())


def test_broken_ffmpeg_falls_back_to_gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, frames: np.ndarray, fps: float) -> None:
        path.write_bytes(b"half an mp4")
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(video, "_write_mp4", broken)
    path = video.write_video(tmp_path / "film", moving_bar(), fps=20)
    assert list(tmp_path.iterdir()) == [path]
    assert Image.open(path).format == "GIF"


def test_failed_write_leaves_the_old_film_and_nothing_else(
    tmp_path: Path, no_ffmpeg: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video.write_video(tmp_path / "film", moving_bar(), fps=20)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        video.write_video(tmp_path / "film", moving_bar(3), fps=20)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_fast_film_is_thinned_out_but_not_slowed_down() -> None:
    film = Image.open(io.BytesIO(video.encode_gif(moving_bar(10), fps=100)))
    assert film.n_frames == 5
    assert film.info["duration"] == 20


def test_preview_keeps_the_length_in_seconds() -> None:
    small, fps = video.preview(np.zeros((400, 60, 700, 3), np.uint8), fps=30)
    assert small.shape[0] <= 150
    assert max(small.shape[1:3]) <= 320
    assert len(small) / fps == pytest.approx(400 / 30, rel=0.02)
    same, fps = video.preview(moving_bar(), fps=30)
    np.testing.assert_array_equal(same, moving_bar())
    assert fps == 30


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 4, 4, 4), np.uint8),
    ],
)
def test_wrong_frames(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames: got .* expected uint8"):
        video.write_video(tmp_path / "film", frames, 30)
    assert list(tmp_path.iterdir()) == []
