"""Every preset passes through the whole program within seconds under debug=tiny."""

from __future__ import annotations

import resource
from importlib.util import find_spec
from pathlib import Path

import pytest
from experts import with_demonstrations

from rlzoo.io.run_dir import RunDir
from rlzoo.run import config as configuration
from rlzoo.run.run import Run

PRESETS = configuration.groups()["experiment"]
HEAVIEST = "world_models_car_racing"
MAX_SECONDS = 20  # of processor time, whatever else the machine does
PACKAGES = {"mujoco": "mujoco", "takecover": "vizdoom"}


def processor_seconds() -> float:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def words(preset: str) -> list[str]:
    envs = ["env=car_racing_fast"] if "car_racing" in preset and not find_spec("envpool") else []
    return [f"experiment={preset}", "debug=tiny", *envs]


def run_tiny(preset: str, folder: Path, *more: str) -> float:
    """Processor time of a whole run, with its final test."""
    config = with_demonstrations(configuration.compose([*words(preset), *more]))
    claimed = RunDir.claim_at(folder)
    claimed.write_text("config.yaml", configuration.to_yaml(config))
    begun = processor_seconds()
    assert Run(config, claimed, lambda: False).train() == "finished"
    assert (folder / "result.json").exists()
    return processor_seconds() - begun


def test_the_heaviest_preset_takes_seconds(tmp_path: Path) -> None:
    assert run_tiny(HEAVIEST, tmp_path / "run") < MAX_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_seconds(tmp_path: Path, preset: str) -> None:
    for part, package in PACKAGES.items():
        if part in preset and not find_spec(package):
            pytest.skip(f"{package} is not installed")
    source = []
    if preset.endswith("_iterative"):  # it starts from an agent
        run_tiny(HEAVIEST, tmp_path / "source")
        source = [f"algo.source={tmp_path / 'source'}"]
    took = run_tiny(preset, tmp_path / "run", *source)
    print(f"{preset}: {took:.1f} s")
    assert took < MAX_SECONDS
