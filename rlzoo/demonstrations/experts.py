"""The trained policies that the `pybullet` wheel brings along as Python source (zlib licence).

Its `pybullet_envs/examples/enjoy_TF_<env>_2017may.py` hold the weights of small networks (three
layers, ReLU) as literals. The text is parsed and its literals are evaluated; the modules, which
import the old gym, are never imported.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import numpy as np

from rlzoo.core.settings import nearest
from rlzoo.core.types import DataError, UsageError
from rlzoo.envs.packages import needs

_LAYERS = ("dense1", "dense2", "final")
_FILE = re.compile(r"enjoy_TF_(\w+?)_v(\d)_\d{4}\w{3}\.py")


class Expert:
    """A policy from weights W [in, out] and biases of its layers; actions are cut to [-1, 1]."""

    def __init__(self, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.layers = layers
        self.num_obs, self.num_actions = len(layers[0][0]), len(layers[-1][1])

    def act(self, obs_B: np.ndarray, *, explore: bool) -> np.ndarray:
        """Observations [B, num_obs] to actions [B, num_actions] float32; it does not explore."""
        *hidden, (weight, bias) = self.layers
        x_B = obs_B.astype(np.float64)
        for hidden_weight, hidden_bias in hidden:
            x_B = np.maximum(x_B @ hidden_weight + hidden_bias, 0)
        # The simulator cuts torques too, but charges for what was asked.
        return np.clip(x_B @ weight + bias, -1, 1).astype(np.float32)


def available() -> dict[str, Path]:
    """The files with an expert, by gymnasium id; UsageError where `pybullet` is not installed."""
    spec = importlib.util.find_spec("pybullet_envs")  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"expert: {needs('bullet')}")
    folder = Path(spec.submodule_search_locations[0]) / "examples"
    matches = ((_FILE.fullmatch(file.name), file) for file in sorted(folder.glob("enjoy_TF_*.py")))
    return {f"{match[1]}-v{match[2]}": file for match, file in matches if match}


def load_expert(env_id: str) -> Expert:
    """The expert for a gymnasium id such as HopperBulletEnv-v0; UsageError names the known ones."""
    files = available()
    if env_id not in files:
        raise UsageError(
            f"expert: got '{env_id}', expected one of {', '.join(files)}.{nearest(env_id, files)}"
        )
    return parse(files[env_id].read_text(), str(files[env_id]))


def parse(source: str, where: str) -> Expert:
    """The expert in the text of such a file; nothing in it is run."""
    arrays: dict[str, np.ndarray] = {}
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[literal])) if (
                name.startswith("weights_")
            ):
                try:
                    arrays[name] = np.array(ast.literal_eval(literal), np.float64)
                except ValueError as error:
                    raise DataError(f"{where}: {name}: expected rows of numbers") from error
    names = [(f"weights_{layer}_w", f"weights_{layer}_b") for layer in _LAYERS]
    if missing := [name for pair in names for name in pair if name not in arrays]:
        raise DataError(f"{where}: {missing[0]}: missing")
    layers = [(arrays[weight], arrays[bias]) for weight, bias in names]
    inputs = None
    for (weight, bias), (name, _) in zip(layers, names, strict=True):
        if weight.ndim != 2 or bias.shape != weight.shape[1:] or inputs not in (None, len(weight)):
            raise DataError(f"{where}: {name}: got the shape {weight.shape}, which does not fit")
        inputs = weight.shape[1]
    return Expert(layers)
