"""A finished run to hand on: its record and its policy, without what only training needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlzoo.cli.options import Option, flag, parse, text
from rlzoo.cli.show import CHECKPOINT
from rlzoo.core.types import CantCreateError, DataError, StorageError, UsageError
from rlzoo.io import checkpoint as checkpoints
from rlzoo.run.build import close
from rlzoo.run.saved import SavedRun, with_policy

RECORD = ("config.yaml", "overrides.json", "provenance.json", "status.json", "metrics.jsonl", "tb")
MAX_RECORD_BYTES = 1 << 30  # event files with films are the most of it
HALVED_FROM = 1024  # numbers in an array; smaller ones stay as they are


def export_run(words: list[str]) -> int:
    """Copy a run to `to` with one checkpoint, which can act, be shown and be built on.

    With `half` its weights are stored with 16 bits and read back as 32.
    """
    options = {
        "to": Option("", text),
        "checkpoint": CHECKPOINT,
        "half": Option(False, flag),
    }
    [path], given = parse("export", words, options)
    if not given["to"]:
        raise UsageError("export: got no to=, expected a new directory")
    run = SavedRun(path, checkpoint=given["checkpoint"])
    directory, (source, state) = run.directory, run.checkpoint()
    algorithm = with_policy(run.config(), source, state)
    record = [directory.path / name for name in RECORD]
    for pattern in ("result*.json", "evaluation_*.json"):
        record += sorted(directory.path.glob(pattern))
    size = sum(_size(file) for file in record)
    if size > MAX_RECORD_BYTES:
        raise DataError(f"{run.path}: its record has {size} bytes, more than {MAX_RECORD_BYTES}")
    target = Path(given["to"])
    try:
        target.mkdir(parents=True)
    except FileExistsError as error:
        raise CantCreateError(f"{target}: exists already; expected a new directory") from error
    except OSError as error:
        raise CantCreateError(f"{target}: cannot be created: {error.strerror}") from error
    try:
        for file in record:
            _copy(file, target / file.name)
        policy = algorithm.policy_state()
        step = int(source.name.removesuffix(".old").removeprefix("step_"))
        folder = target / "checkpoints"
        kept = {
            checkpoints.POLICY_ONLY: True,
            "algorithm": halved(policy) if given["half"] else policy,
        }
        checkpoints.save(folder, step, kept)
        if source == checkpoints.best(directory.checkpoints):
            checkpoints.mark_best(folder, checkpoints.step_name(step))
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise StorageError(f"{target}: cannot be written: {error.strerror}") from error
        raise
    close(algorithm)
    print(f"{target}: {_size(target) / 1e6:.1f} MB")
    return 0


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copyfile(source, target)


def halved(state: Any) -> Any:
    """A state whose large float32 arrays have become float16."""
    if isinstance(state, dict):
        return {name: halved(part) for name, part in state.items()}
    if isinstance(state, np.ndarray) and state.dtype == np.float32 and state.size >= HALVED_FROM:
        return state.astype(np.float16)
    if isinstance(state, torch.Tensor) and state.dtype == torch.float32:
        return state.half() if state.numel() >= HALVED_FROM else state
    return state
