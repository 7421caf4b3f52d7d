"""Does an algorithm keep the contract? For the tests here, and for who writes one of their own.

import rlzoo
rlzoo.check_algorithm("plugins=[my_algos.reinforce]", "algo=reinforce", "env=cartpole")
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from rlzoo.core.algorithm import Algorithm
from rlzoo.core.types import RlzooError
from rlzoo.io import checkpoint
from rlzoo.io.run_dir import RunDir
from rlzoo.run import config as configuration
from rlzoo.run.build import build, close
from rlzoo.run.config import RunConfig
from rlzoo.run.evaluate import never
from rlzoo.run.library import compose
from rlzoo.run.run import Run

NEVER = 10**9  # more polls than a run has
SMALL = ("experiment=none", "debug=tiny", "logger=jsonl", "logger.videos=false")


def check_algorithm(*words: str, **settings: Any) -> None:
    """`check` for the words of a command line, made small with `debug=tiny`."""
    named = {word.partition("=")[0] for word in words}
    small = [word for word in SMALL if word.partition("=")[0] not in named]
    check(compose(*words, *small, **settings))


class ContractError(RlzooError, AssertionError):
    """What an algorithm does not keep."""


def check(config: RunConfig) -> None:
    """ContractError for the first promise that a short run of these settings breaks.

    Checked: the same seed gives the same run and another one another; a run that is stopped and
    resumed, at several points, equals one that never stopped; greedy actions draw no random
    numbers and belong to the action space; the policy of a saved state acts as the one it was.
    """
    _check_acting(config)
    with TemporaryDirectory(prefix="rlzoo-") as folder:
        root = Path(folder)
        polled = StopAt(NEVER)
        straight = outcome(begin(config, root / "straight", polled)[0])
        if outcome(begin(config, root / "again")[0]) != straight:
            raise ContractError("the same seed: got two different runs, expected equal ones")
        other = begin(replace(config, seed=config.seed + 1), root / "other")[0]
        if outcome(other)[0] == straight[0]:
            raise ContractError("another seed: got the same run, expected another one")
        if stopped_and_resumed(config, root / "stopped", polled.asked) != straight:
            raise ContractError(
                "stopped and resumed: got another run than a straight one; is everything that "
                "`step` changes in `parts`?"
            )


def _check_acting(config: RunConfig) -> None:
    trained, fresh = build(config), build(config)
    while trained.policy is None or trained.counters.clock < 200:
        if trained.done():
            break
        trained.step()
    if trained.policy is None:
        raise ContractError("policy: got None at the end of the run, expected what acts")
    obs_B = trained.env.obs_B.copy()
    before = fingerprint(trained.state())
    action_B = greedy(trained, obs_B)
    if len(action_B) != len(obs_B):
        raise ContractError(f"act: got {len(action_B)} actions for {len(obs_B)} observations")
    if fingerprint(trained.state()) != before:
        raise ContractError("greedy actions: got a changed state, expected no random numbers")
    for action in action_B:
        if action not in trained.env.action_space:
            raise ContractError(f"act: got {action!r}, expected one of {trained.env.action_space}")
    fresh.load_policy(trained.policy_state())
    if not np.array_equal(greedy(fresh, obs_B), action_B):
        raise ContractError("load_policy: got other actions; are all parts in `policy_parts`?")
    for algorithm in (trained, fresh):
        close(algorithm)


def greedy(algorithm: Algorithm, obs_B: np.ndarray, *, explore: bool = False) -> np.ndarray:
    """The actions of an episode's first step."""
    policy = algorithm.policy
    assert policy is not None
    return policy.act(obs_B, policy.initial(len(obs_B)), explore=explore)[0]


class StopAt:
    """Asks a run to stop at its n-th poll, wherever that is (training or evaluation).

    With NEVER it counts the polls of a run.
    """

    def __init__(self, polls: int) -> None:
        self.polls, self.left = polls, polls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0

    @property
    def asked(self) -> int:
        return self.polls - self.left


def begin(config: RunConfig, path: Path, stop: Callable[[], bool] = never) -> tuple[Run, str]:
    """A run in a directory, and its status."""
    directory = RunDir.claim_at(path)
    directory.write_text("config.yaml", configuration.to_yaml(config))
    run = Run(config, directory, stop)
    return run, run.train()


def stopped_and_resumed(config: RunConfig, path: Path, polls: int) -> tuple[Any, ...]:
    """The outcome of a run that is stopped three times, and resumed each time.

    `polls` is what a straight run has. The stops are in training, and in evaluations too.
    """
    run, status = begin(config, path, StopAt(max(2, polls // 10)))
    for stop in (StopAt(max(2, polls // 3)), StopAt(max(2, polls // 3)), never):
        assert status == "stopped", "it was not stopped"
        run = Run(config, run.directory, stop)
        status = run.train()
    return outcome(run)


def outcome(run: Run) -> tuple[Any, ...]:
    """What equal runs have in common: last state, loop, metrics without times, test results."""
    found = checkpoint.newest(run.directory.checkpoints, _refuse)
    assert found is not None
    state = found[1]
    loop = {name: part for name, part in state["loop"].items() if name != "elapsed_seconds"}
    lines = run.directory.metrics.read_text().splitlines()
    metrics = [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time/")}
        for line in lines
    ]
    result = json.loads((run.directory.path / "result.json").read_text())
    last = fingerprint(state["algorithm"])
    return last, fingerprint([loop, state["best_return"]]), metrics, result["test"]


def _refuse(line: str) -> None:
    raise ContractError(line)


def fingerprint(tree: Any) -> str:
    """sha256 of a state: every array's bytes, dtype and shape, every number, every key."""
    digest = hashlib.sha256()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key in sorted(node):
                digest.update(f"<{key}>".encode())
                walk(node[key])
        elif isinstance(node, list | tuple):
            for item in node:
                walk(item)
        elif isinstance(node, torch.Tensor):
            walk(node.detach().cpu().numpy())
        elif isinstance(node, np.ndarray | np.generic):
            array = np.asarray(node)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(node).encode())

    walk(tree)
    return digest.hexdigest()
