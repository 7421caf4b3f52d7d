"""The .npz formats of demonstrations: arrays of a file to fields of `Demonstrations`, and back.

imitation   (HumanCompatibleAI/imitation, `data/serialize.py`) flat over time. obs [N + E, ...] has
            the observation after each trajectory's last step too; acts [N, ...], rews [N],
            terminal [E], indices [E - 1]: where trajectories 1, 2, ... begin. `infos` stays unread.
flat        the same, but obs is [N, ...] and the last observations stand apart, as final_obs
            [E, ...]: large files can then be mapped instead of read.
baselines   (openai/baselines, `gail/dataset/mujoco_dset.py`) obs and acs [E, T, ...], rews [E, T],
            padded with zeros, ep_rets [E]. ep_lens and terminal [E] are ours; without them,
            steps at the end that are all zero are padding.

Ours, and ignored by other readers, are also env_id, a text, and seeds [E], with which the env was
reset. N steps, E trajectories, T the longest of them.
"""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlzoo.core.messages import warn
from rlzoo.core.types import DataError, UsageError
from rlzoo.demonstrations.npz import Npz

if TYPE_CHECKING:
    from rlzoo.demonstrations.trajectories import Demonstrations

Format = Literal["imitation", "flat", "baselines"]
_OURS = {"env_id", "seeds"}
_KEYS = {  # required, optional
    "imitation": ({"obs", "acts", "terminal", "indices"}, {"infos", "rews"} | _OURS),
    "flat": ({"obs", "final_obs", "acts", "terminal", "indices"}, {"rews"} | _OURS),
    "baselines": ({"obs", "acs", "rews", "ep_rets"}, {"ep_lens", "terminal"} | _OURS),
}
_NUMBERS = {"b": "bool", "i": "integers", "u": "integers", "f": "float32 or float64", "U": "text"}
_ENV_ID = re.compile(r"[\w:./-]{1,200}", re.ASCII)


def recognised(names: list[str], path: Path) -> Format:
    """The format that a file with these members has; DataError for a missing or foreign one."""
    found = set(names)
    format: Format = "imitation"
    if found & {"acs", "ep_rets"}:
        format = "baselines"
    elif "final_obs" in found:
        format = "flat"
    required, optional = _KEYS[format]
    got, keys = ", ".join(sorted(found)) or "nothing", ", ".join(sorted(required))
    if missing := sorted(required - found):
        raise DataError(
            f"{path}: {missing[0]}: missing; got {got:.200}, expected {keys} (format {format})"
        )
    if foreign := sorted(found - required - optional):
        raise DataError(f"{path}: {foreign[0]}: unknown key, expected {keys} (format {format})")
    return format


def read(path: Path) -> dict[str, Any]:
    """The fields of `Demonstrations` from an .npz file of any of the formats."""
    with Npz(path, skip={"infos"}) as file:
        format = recognised(file.names, path)
        columns = _Columns(file)
        fields = _read_baselines(columns) if format == "baselines" else _read_flat(columns, format)
        seed = columns.optional("seeds", "iu", len(fields["start"]) - 1)
        return {**fields, "seed": seed, "env_id": columns.text("env_id")}


class _Columns:
    """The members of a file, held to kinds and shapes by their headers before they are read."""

    def __init__(self, file: Npz) -> None:
        self.file = file

    def __contains__(self, name: str) -> bool:
        return name in self.file.headers

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file.headers[name].shape

    def require(self, name: str, kinds: str, shape: tuple[int | None, ...], why: str = "") -> None:
        """DataError unless the dtype is of these kinds and the shape begins so (None: any)."""
        header = self.file.headers[name]
        if header.dtype.kind not in kinds or header.dtype == np.float16:
            words = " or ".join(dict.fromkeys(_NUMBERS[kind] for kind in kinds))
            raise self.file.error(name, f"got {header.dtype}, expected {words}")
        begins = header.shape[: len(shape)]
        same = len(begins) == len(shape) and all(
            want in (None, have) for have, want in zip(begins, shape, strict=True)
        )
        if not same or (name in _VECTORS and len(header.shape) > len(shape)):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            wanted += "" if name in _VECTORS else ", ..."
            raise self.file.error(name, f"got the shape {header.shape}, expected ({wanted}){why}")

    def array(self, name: str) -> np.ndarray:
        return self.file.array(name)

    def integers(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.int64, copy=False) if array.dtype.kind in "iu" else array

    def optional(self, name: str, kinds: str, count: int) -> np.ndarray | None:
        """A vector of so many numbers, or None where the file has none of that name."""
        if name not in self:
            return None
        self.require(name, kinds, (count,))
        return self.integers(self.array(name))

    def text(self, name: str) -> str | None:
        if name not in self:
            return None
        self.require(name, "U", ())
        # Not by str(): in a file there can be code points that no text has.
        code = self.array(name).tobytes()
        text = code.decode(f"utf-32-{sys.byteorder[0]}e", "replace").rstrip("\0")
        if not _ENV_ID.fullmatch(text):
            raise self.file.error(name, f"got {text!r:.60}, expected a gymnasium id")
        return text


_VECTORS = {"rews", "terminal", "indices", "ep_rets", "ep_lens", "env_id", "seeds"}


def _read_flat(columns: _Columns, format: Format) -> dict[str, Any]:
    columns.require("acts", "iuf", (None,))
    num_steps = columns.shape("acts")[0]
    if num_steps == 0:
        raise columns.file.error("acts", "empty: got 0 steps, expected at least one")
    columns.require("indices", "iu", (None,))
    num_trajectories = columns.shape("indices")[0] + 1
    many = f"; {num_steps} actions in {num_trajectories} trajectories"
    finals = 0 if format == "flat" else num_trajectories
    columns.require("obs", "biuf", (num_steps + finals,), many)
    reward = columns.optional("rews", "iuf", num_steps)
    if reward is None:  # nothing learns from them
        warn(f"{columns.file.path}: has no rewards (rews), which are taken for 0")
        reward = np.zeros(num_steps)
    columns.require("terminal", "b", (num_trajectories,), many)
    indices = columns.array("indices").astype(np.int64)
    start = np.concatenate([[0], indices, [num_steps]])
    if (np.diff(start) < 1).any():
        raise columns.file.error(
            "indices", f"expected steps that rise from 1 to {num_steps - 1}, one a new trajectory"
        )
    obs = columns.array("obs")
    if format == "flat":
        columns.require("final_obs", obs.dtype.kind, (num_trajectories, *obs.shape[1:]))
        final_obs = columns.array("final_obs")
    else:
        is_final = np.zeros(len(obs), bool)
        is_final[start[1:] + np.arange(num_trajectories)] = True
        obs, final_obs = obs[~is_final], obs[is_final]
    return {
        "obs": obs,
        "action": columns.integers(columns.array("acts")),
        "reward": reward.astype(np.float64, copy=False),
        "start": start,
        "terminated": columns.array("terminal"),
        "final_obs": final_obs,
    }


def _read_baselines(columns: _Columns) -> dict[str, Any]:
    columns.require("obs", "biuf", (None, None))
    trajectories, longest = columns.shape("obs")[:2]
    if trajectories * longest == 0:
        raise columns.file.error("obs", "empty: got 0 steps, expected at least one")
    columns.require("acs", "iuf", (trajectories, longest), " as obs")
    columns.require("rews", "iuf", (trajectories, longest), " as obs")
    columns.require("ep_rets", "iuf", (trajectories,), " as obs")
    obs, action = columns.array("obs"), columns.integers(columns.array("acs"))
    reward = columns.array("rews").astype(np.float64, copy=False)
    length = columns.optional("ep_lens", "iu", trajectories)
    if length is None:
        length = _lengths(obs, action, reward)
    elif ((length < 1) | (length > longest)).any():
        raise columns.file.error("ep_lens", f"got {length}, expected 1 to {longest}")
    return_ = reward.sum(1)
    ep_rets = columns.array("ep_rets")
    wrong = ~np.isclose(return_, ep_rets, rtol=1e-3, atol=1e-3)
    if wrong.any():
        e = int(wrong.argmax())
        raise columns.file.error(
            "ep_rets",
            f"got {ep_rets[e]} for trajectory {e}, expected {return_[e]}: its rewards",
        )
    terminated = columns.optional("terminal", "b", trajectories)
    if terminated is None:
        terminated = length < longest
    is_step = np.arange(longest) < length[:, None]
    # Where nothing is padded this is a view, which leaves a mapped file mapped.
    flat = [
        x.reshape(-1, *x.shape[2:]) if is_step.all() else x[is_step] for x in (obs, action, reward)
    ]
    return {
        "obs": flat[0],
        "action": flat[1],
        "reward": flat[2],
        "start": np.concatenate([[0], np.cumsum(length)]),
        "terminated": terminated,
        "final_obs": None,
    }


def _lengths(*columns_ET: np.ndarray) -> np.ndarray:
    """Steps of each trajectory: up to the last one at which anything is not zero, at least one."""
    trajectories, longest = columns_ET[0].shape[:2]
    length = np.ones(trajectories, np.int64)
    for e in range(trajectories):
        for column_ET in columns_ET:
            is_used = column_ET[e].reshape(longest, -1).any(1)
            length[e] = max(
                length[e], longest - int(is_used[::-1].argmax()) if is_used.any() else 1
            )
    return length


def arrays(demonstrations: Demonstrations, format: str) -> dict[str, np.ndarray]:
    """What a file of that format holds, ready for `np.savez`. UsageError where it cannot."""
    d = demonstrations
    ours = {} if d.env_id is None else {"env_id": np.array(d.env_id)}
    if d.seed is not None:
        ours["seeds"] = d.seed
    if format == "baselines":
        longest = int(d.lengths.max())
        padded = {
            name: _padded(column, d.start, longest)
            for name, column in (("obs", d.obs), ("acs", d.action), ("rews", d.reward))
        }
        ends = {"ep_rets": d.returns, "ep_lens": d.lengths, "terminal": d.terminated}
        return {**padded, **ends, **ours}
    if format not in ("imitation", "flat"):
        raise UsageError(f"format: got '{format}', expected imitation, flat or baselines")
    if d.final_obs is None:
        raise UsageError(
            f"format={format} holds the observation after each last step, which {d.source} "
            "does not have; expected format=baselines"
        )
    common = {
        "acts": d.action,
        "rews": d.reward,
        "terminal": d.terminated,
        "indices": d.start[1:-1],
        **ours,
    }
    if format == "flat":
        return {"obs": d.obs, "final_obs": d.final_obs, **common}
    # imitation's own reader wants infos. Empty dicts would have to be pickled; zeros do.
    obs = np.insert(d.obs, d.start[1:], d.final_obs, axis=0)
    return {"obs": obs, "infos": np.zeros(d.num_steps, np.uint8), **common}


def _padded(column: np.ndarray, start: np.ndarray, longest: int) -> np.ndarray:
    padded = np.zeros((len(start) - 1, longest, *column.shape[1:]), column.dtype)
    for e, (begin, end) in enumerate(pairwise(start)):
        padded[e, : end - begin] = column[begin:end]
    return padded
