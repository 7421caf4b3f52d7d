"""Films of episodes: mp4 where the extra `video` is installed, animated GIF anywhere."""

from __future__ import annotations

import io
import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

_GIF_MAX_FPS = 50  # browsers slow down anything faster


def write_video(path: Path, frames_THWC: np.ndarray, fps: float) -> Path:
    """Write uint8 RGB frames as mp4, or as GIF without ffmpeg, whole or not at all.

    The suffix goes onto `path`, unless it ends in .gif or .mp4 to ask for one. Returns the path
    that was written. ValueError for frames of another shape or type, OSError where it can't be
    written, also for an .mp4 without ffmpeg.
    """
    _check(frames_THWC)
    stem = path.with_suffix("") if path.suffix in (".gif", ".mp4") else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    temporary = stem.with_name(f".{stem.name}.{os.getpid()}.tmp.mp4")
    suffix = ".gif"
    try:
        if path.suffix != ".gif":
            try:
                _write_mp4(temporary, frames_THWC, fps)
                suffix = ".mp4"
            except (ImportError, RuntimeError) as error:  # the extra or its ffmpeg is missing
                if path.suffix == ".mp4":
                    raise OSError(f"{path}: no film in mp4 can be made here: {error}") from error
        if suffix == ".gif":
            temporary.write_bytes(encode_gif(frames_THWC, fps))
        target = stem.with_name(stem.name + suffix)
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def _write_mp4(path: Path, frames_THWC: np.ndarray, fps: float) -> None:
    import imageio_ffmpeg

    # H.264 in yuv420p, which every player reads, wants even sides.
    height, width = (side - side % 2 for side in frames_THWC.shape[1:3])
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, macro_block_size=1, quality=8
    )
    writer.send(None)
    for frame_HWC in frames_THWC:
        writer.send(np.ascontiguousarray(frame_HWC[:height, :width]))
    writer.close()


def encode_gif(frames_THWC: np.ndarray, fps: float) -> bytes:
    """An endless animated GIF of uint8 RGB frames, thinned out to 50 frames per second at most."""
    _check(frames_THWC)
    stride = math.ceil(fps / _GIF_MAX_FPS)
    images = [Image.fromarray(frame) for frame in frames_THWC[::stride]]
    # One palette for the film: faster than one a frame, and colours do not flicker.
    samples = frames_THWC[:: math.ceil(len(frames_THWC) / 8)]
    palette = Image.fromarray(np.concatenate(list(samples))).quantize(256)
    first, *rest = (i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images)
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=round(100 * stride / fps) * 10,  # ms; GIF counts in hundredths of a second
        loop=0,
    )
    return buffer.getvalue()


def enlarged(frames_THWC: np.ndarray, min_side: int = 256) -> np.ndarray:
    """Small frames with each pixel as a square of pixels, at least `min_side` high."""
    _check(frames_THWC)
    factor = math.ceil(min_side / frames_THWC.shape[1])
    return frames_THWC.repeat(factor, axis=1).repeat(factor, axis=2)


def preview(
    frames_THWC: np.ndarray, fps: float, *, max_frames: int = 150, max_side: int = 320
) -> tuple[np.ndarray, float]:
    """A film of the same length in seconds with fewer and smaller frames, and its fps."""
    _check(frames_THWC)
    stride = math.ceil(len(frames_THWC) / max_frames)
    shrink = math.ceil(max(frames_THWC.shape[1:3]) / max_side)
    frames = [np.asarray(Image.fromarray(f).reduce(shrink)) for f in frames_THWC[::stride]]
    return np.stack(frames), fps / stride


def _check(frames_THWC: np.ndarray) -> None:
    shape, dtype = frames_THWC.shape, frames_THWC.dtype
    if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
        raise ValueError(f"frames: got {dtype} {shape}, expected uint8 (T, H, W, 3) with T >= 1")
