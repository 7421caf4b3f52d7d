"""Demonstrations as Minari datasets: a folder with data/main_data.hdf5 and data/metadata.json.

They are read with h5py alone, after a look at every size. Minari itself would make the env that
the metadata name, whose entry point can be any code, where they do not describe the spaces.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.core.types import DataError, StorageError, UsageError
from rlzoo.demonstrations.npz import MAX_EXPANDED_BYTES, MAX_EXPANSION
from rlzoo.demonstrations.trajectories import Demonstrations
from rlzoo.envs.make import EnvConfig, find_spec, make_env
from rlzoo.envs.packages import missing

_KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
_MAX_METADATA_BYTES = 1 << 20
_ENV_ID = re.compile(r"[\w./-]{1,200}", re.ASCII)


def read(path: Path) -> Demonstrations:
    """The trajectories of a dataset folder; DataError where they are not plain arrays."""
    try:
        import h5py
    except ImportError as error:
        raise UsageError(f"{path}: a Minari dataset {missing(error)}") from error
    metadata, file = path / "data" / "metadata.json", path / "data" / "main_data.hdf5"
    for part in (path, path / "data"):
        if part.is_symlink():
            raise DataError(f"{path}: {part} is a symbolic link, expected the folder itself")
    for part in (metadata, file):
        if part.is_symlink() or not part.is_file():
            raise DataError(f"{path}: expected a Minari dataset in HDF5, with {part}")
    episodes: list[dict[str, np.ndarray]] = []
    seeds: list[int | None] = []
    try:
        with h5py.File(file, "r") as content:
            _check(content, file, h5py)
            for k in range(len(content)):
                group = content[f"episode_{k}"]
                episodes.append({key: group[key][()] for key in _KEYS})
                seeds.append(_seed(group.attrs.get("seed")))
    except DataError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{file}: {' '.join(str(error).split()):.200}") from error
    for k, episode in enumerate(episodes):
        steps = len(episode["actions"])
        for key in _KEYS:
            expected = steps + (key == "observations")
            if len(episode[key]) != expected or steps == 0:
                got = len(episode[key])
                raise DataError(f"{file}: episode_{k}/{key}: got {got} rows, expected {expected}")
    action = np.concatenate([episode["actions"] for episode in episodes])
    return Demonstrations(
        obs=np.concatenate([episode["observations"][:-1] for episode in episodes]),
        action=action.astype(np.int64) if action.dtype.kind in "iu" else action,
        reward=np.concatenate([episode["rewards"] for episode in episodes]).astype(np.float64),
        start=np.cumsum([0, *(len(episode["actions"]) for episode in episodes)]),
        terminated=np.array([bool(episode["terminations"][-1]) for episode in episodes]),
        final_obs=np.stack([episode["observations"][-1] for episode in episodes]),
        source=str(path),
        env_id=_env_id(metadata),
        seed=None if None in seeds else np.array(seeds),
    )


def _check(content: Any, file: Path, h5py: Any) -> None:
    """Every dataset is a plain array in this very file, of a size that the file can hold."""
    limit = max(MAX_EXPANDED_BYTES, MAX_EXPANSION * file.stat().st_size)
    total, shapes = 0, set()
    if len(content) == 0:
        raise DataError(f"{file}: empty: 0 episodes, expected at least one")
    for k in range(len(content)):
        for key in _KEYS:
            name = f"episode_{k}/{key}"
            link = content.get(name, getlink=True)
            array = content.get(name) if isinstance(link, h5py.HardLink) else None
            if not isinstance(array, h5py.Dataset):
                raise DataError(f"{file}: {name}: missing, expected an array")
            if array.is_virtual or array.external:
                raise DataError(f"{file}: {name}: its content is in another file")
            is_number = array.dtype.kind in "biu" or array.dtype.str[1:] in ("f4", "f8")
            if not is_number or array.ndim == 0:
                raise DataError(f"{file}: {name}: got {array.dtype}, expected an array of numbers")
            total += array.nbytes
            chunk = math.prod(array.chunks or ()) * array.dtype.itemsize  # is read as a whole
            if max(total, chunk) > limit:
                expanded = max(total, chunk)
                raise DataError(
                    f"{file}: {name}: expands to {expanded} bytes, expected at most {limit}"
                )
            if key in ("observations", "actions"):
                shapes.add((key, array.dtype, array.shape[1:]))
            elif array.ndim != 1:
                raise DataError(f"{file}: {name}: got the shape {array.shape}, expected one axis")
    if len(shapes) != 2:
        raise DataError(f"{file}: observations or actions change their shape or dtype: {shapes}")


def _seed(value: Any) -> int | None:
    return int(value) if isinstance(value, int | np.integer) else None


def _env_id(metadata: Path) -> str | None:
    if metadata.stat().st_size > _MAX_METADATA_BYTES:
        raise DataError(f"{metadata}: larger than {_MAX_METADATA_BYTES} bytes")
    try:
        env_id = json.loads(json.loads(metadata.read_bytes())["env_spec"])["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return env_id if isinstance(env_id, str) and _ENV_ID.fullmatch(env_id) else None


def write(demonstrations: Demonstrations, path: Path, env_config: EnvConfig | None) -> None:
    """Make a dataset folder that Minari can load, whole or not at all.

    `path` ends in the dataset's name with its version, such as hopper-v0; the env gives the
    spaces. UsageError without one, or where the last observations are not known.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise UsageError(f"format=minari {missing(error)}") from error
    d = demonstrations
    if env_config is None:
        raise UsageError("format=minari: expected an env too, such as env=hopper_bullet")
    if d.final_obs is None:
        raise UsageError(f"format=minari holds the last observations, which {d.source} has not")
    if not re.fullmatch(r"[\w-]+-v\d+", path.name):
        raise UsageError(f"file: got '{path}', expected a folder named as in hopper-v0")
    env = make_env(env_config)
    env.close()
    # Absolute: Minari puts a relative one behind itself.
    temporary = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        (temporary / "data").mkdir(parents=True)
        storage = MinariStorage.new(
            temporary / "data",
            env.observation_space,
            env.action_space,
            find_spec(env_config.id),
            jpeg_encoding=False,
        )
        storage.update_episodes(EpisodeBuffer(**_episode(d, e)) for e in range(d.num_trajectories))
        storage.update_metadata({"dataset_id": path.name, "minari_version": minari.__version__})
        os.rename(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)


def _episode(d: Demonstrations, e: int) -> dict[str, Any]:
    assert d.final_obs is not None
    steps = slice(d.start[e], d.start[e + 1])
    is_last = np.arange(d.lengths[e]) == d.lengths[e] - 1
    return {
        "seed": None if d.seed is None else int(d.seed[e]),
        "observations": np.concatenate([d.obs[steps], d.final_obs[e][None]]),
        "actions": d.action[steps],
        "rewards": d.reward[steps],
        "terminations": is_last & bool(d.terminated[e]),
        "truncations": is_last & ~bool(d.terminated[e]),
    }
