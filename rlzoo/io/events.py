"""TensorBoard event files: what torch's SummaryWriter does, without torch and without a thread.

Every call writes whole records at once, so an error is raised where it happens, nothing is lost
in a queue when the process dies, and a full disk leaves no torn record (one would hide all later
ones). TensorFlow is not needed.
"""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from rlzoo.io import files
from rlzoo.io.append import AppendFile

_STATUS = {"success": api_pb2.STATUS_SUCCESS, "failure": api_pb2.STATUS_FAILURE}


PATTERN = "events.out.tfevents.*"
HPARAMS = "events.out.tfevents.0-hparams"  # comes before the numbered files


def write_hparams(directory: Path, settings: Mapping[str, Any]) -> None:
    """Put the settings in force into a file of their own: TensorBoard keeps a run's first ones."""
    event = Event(wall_time=time.time(), step=-1, summary=Summary(value=[session_start(settings)]))
    version = Event(wall_time=time.time(), file_version="brain.Event:2")
    files.write_atomic(directory / HPARAMS, _record(version) + _record(event))


class EventFile:
    """One event file of a run; `purge_step` hides events of earlier files from that step on.

    Files are numbered, not named after the clock, because TensorBoard reads them in the order of
    their names and a resume may follow within the same second.
    """

    def __init__(self, directory: Path, purge_step: int) -> None:
        directory.mkdir(exist_ok=True)  # not its parents: the run's directory may be gone
        earlier = list(directory.glob(PATTERN))
        paths = (directory / f"events.out.tfevents.{n:06d}" for n in count(len(earlier)))
        self._file = AppendFile(next(path for path in paths if not path.exists()))
        now = time.time()
        version = Event(wall_time=now, file_version="brain.Event:2")
        # TensorBoard takes the first START of a run for its beginning and only later ones for a
        # restart that purges: so every file needs one, the first file too.
        start = SessionLog(status=SessionLog.START)
        purge = Event(wall_time=now, step=purge_step, session_log=start)
        self._head = _record(version) + _record(purge)

    @property
    def end(self) -> tuple[str, int]:
        """Its name and size, for `rewind`."""
        return self._file.path.name, self._file.size

    def write(self, step: int, values: Iterable[Summary.Value]) -> None:
        """Append one event; raises OSError and leaves the file as it was."""
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._file.append((b"" if self._file.size else self._head) + _record(event))

    def close(self) -> None:
        self._file.close()


def rewind(directory: Path, name: str, size: int) -> None:
    """Take back what was written after `EventFile.end` had these values ('': everything).

    `purge_step` cannot: an evaluation has the step of a line that was logged before it.
    """
    for path in directory.glob(PATTERN):
        if path.name > name:
            path.unlink()
        elif path.name == name and not path.is_symlink() and path.stat().st_size > size:
            os.truncate(path, size)


def _record(event: Event) -> bytes:
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]


def scalar(name: str, value: float) -> Summary.Value:
    return Summary.Value(tag=name, simple_value=value)


def histogram(name: str, array: np.ndarray, bins: int = 50) -> Summary.Value:
    """A histogram of the finite values of an array of any shape."""
    values = np.asarray(array, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise ValueError(f"histogram '{name}': got no finite value")
    counts, edges = np.histogram(values, bins=bins)
    proto = HistogramProto(
        min=values.min(),
        max=values.max(),
        num=values.size,
        sum=values.sum(),
        sum_squares=np.square(values).sum(),
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return Summary.Value(tag=name, histo=proto)


def image(name: str, pixels_HWC: np.ndarray) -> Summary.Value:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="PNG")
    return encoded_image(name, buffer.getvalue(), pixels_HWC.shape)


def encoded_image(name: str, data: bytes, shape_HWC: tuple[int, ...]) -> Summary.Value:
    """An image file of any format a browser shows, also an animated GIF."""
    height, width, channels = shape_HWC
    proto = Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=data
    )
    return Summary.Value(tag=name, image=proto)


def text(name: str, markdown: str) -> Summary.Value:
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    tensor.tensor_shape.SetInParent()  # a scalar: anything else would be shown as a table
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    return Summary.Value(tag=name, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)


def session_start(settings: Mapping[str, Any]) -> Summary.Value:
    """The settings of this run for the HPARAMS tab.

    No experiment summary goes with it: TensorBoard takes the first one it finds for all runs,
    while without one it collects the settings of all runs and puts those that differ first.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = str(value)
    data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    return _hparams(metadata.SESSION_START_INFO_TAG, data)


def session_end(status: Literal["success", "failure"]) -> Summary.Value:
    info = plugin_data_pb2.SessionEndInfo(status=_STATUS[status], end_time_secs=time.time())
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    return _hparams(metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary.Value:
    about = metadata.create_summary_metadata(data)
    return Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
