"""A run that is killed between an evaluation and the next checkpoint shows nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lamp import small_vision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo.run.config import compose
from rlzoo.run.evaluate import never
from rlzoo.run.run import Run
from rlzoo.study.contract import begin

SMALL = ("experiment=none", "debug=tiny", "logger.videos=false", "save_every_seconds=null")
CASES = {
    "q_learning": ("algo=q_learning", "env=frozenlake", "total_env_steps=900"),
    "world_models": (
        *("algo=world_models", "env=gym", "env.id=lamp:Lamp-v0", "env.restore=replay"),
        *("env.num_envs=2", "log_every=1", "eval.every=10", "save_every=7"),
    ),
}


def shown(run: Path) -> dict[str, list[int]]:
    """The steps of each tag, as TensorBoard reads them."""
    reader = EventAccumulator(str(run / "tb"), {"scalars": 0, "images": 0}).Reload()
    tags = reader.Tags()
    steps = {tag: [e.step for e in reader.Scalars(tag)] for tag in tags["scalars"]}
    return steps | {tag: [e.step for e in reader.Images(tag)] for tag in tags["images"]}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_shown_twice_after_a_kill(case, tmp_path, monkeypatch):
    config = compose([*CASES[case], *SMALL])
    log, copies = Run.log, []

    def log_and_copy(self: Run, clock: int, metrics: dict[str, float]) -> None:
        log(self, clock, metrics)
        if "eval/return_mean" in metrics:
            copies.append(tmp_path / f"killed-{clock}")
            shutil.copytree(self.directory.path, copies[-1])

    with small_vision():
        with monkeypatch.context() as patch:
            patch.setattr(Run, "log", log_and_copy)
            straight, _ = begin(config, tmp_path / "straight")
        directory = straight.directory
        assert len(copies) > 1, "evaluations"
        for copy in copies[-2:]:
            run = Run(config, type(directory)(copy), never)
            assert run.train() == "finished"
            assert shown(copy) == shown(directory.path)
