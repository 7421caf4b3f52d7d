"""Run directories of earlier versions, as this version reads them.

Delete an entry, and a test's old run with it, when nobody has such runs any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlzoo.core.types import State

# Settings that have another name now. The periods count what the progress bar counts, which is
# not env steps for every algorithm.
RENAMED = {
    "log_every_env_steps": "log_every",
    "save_every_env_steps": "save_every",
    "eval.every_env_steps": "eval.every",
}
MODULES = {  # of envs that an id names
    f"rlzoo.envs.{name}": f"rlzoo.envs.zoo.{name}"
    for name in ("bullet", "car_racing", "hopper", "takecover")
}


def env_id(text: str) -> str:
    """An env's id, with the module that it has now."""
    module, colon, name = text.rpartition(":")
    return MODULES.get(module, module) + colon + name


def settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.yaml, in the names of this version."""
    values: dict[str, Any] = {**saved}
    for old, new in RENAMED.items():
        *parents, last = old.split(".")
        node: Any = values
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                break
            node[parent] = {**node[parent]}
            node = node[parent]
        else:
            if last in node:
                node[new.rpartition(".")[2]] = node.pop(last)
    env, algo, replay = values.get("env"), values.get("algo"), values.get("replay")
    if isinstance(env, dict) and isinstance(env.get("id"), str):
        values["env"] = {**env, "id": env_id(env["id"])}
    if isinstance(algo, dict) and algo.get("name") == "bc" and "updates" not in algo:
        values["algo"] = {**algo, "updates": values.get("total_env_steps")}
    if isinstance(replay, dict) and replay.get("name") == "uniform":  # had prioritized's as well
        foreign = ("alpha", "beta0", "eps")
        values["replay"] = {key: value for key, value in replay.items() if key not in foreign}
    return values


def schema_1(state: State) -> State:
    """A checkpoint of schema 1 as one of schema 2."""
    algorithm = state.get("algorithm")
    if not isinstance(algorithm, dict):
        return state
    agent = {"agent": algorithm["imitated"]} if algorithm.get("imitated") else {}  # world_models
    return {**state, **agent, "algorithm": _algorithm(algorithm)}


def _algorithm(state: State) -> State:
    state = {**state}
    for name in ("counters", "before"):
        if isinstance(state.get(name), dict) and "offline_updates" in state[name]:
            counters = {**state[name]}
            counters["offline_units"] = counters.pop("offline_updates")
            state[name] = counters
    if "best_heldout_loss" in state:  # bc
        names = ("best_heldout_loss", "measurements_since_best")
        state["early_stop"] = {name: state.pop(name) for name in names}
    if "generator" in state:  # gail, airl
        state["generator"] = _algorithm(state["generator"])
        if "counters" in state["generator"]:
            state.setdefault("counters", state["generator"]["counters"])
        if "cloning" in state:
            state["cloning"] = _algorithm(state["cloning"])
        if "absorbing_value" in state:  # nothing replaces it: a rollout finds out
            del state["absorbing_value"]
            state["absorbing"] = {}
        state["demonstrations_sha256"] = ""  # rows of absorbing states were among them
    if "rollouts" in state and "returns" in state:  # gail_as_printed
        return_, last_return = state.pop("returns")
        rollouts = state.pop("rollouts")
        state["tally"] = {"rollouts": rollouts, "return_": return_, "last_return": last_return}
    if isinstance(about := state.get("artefacts", {}).get("about"), dict):  # world_models
        about = {**about, "env": str(about.get("env")).rpartition(":")[2]}
        state["artefacts"] = {**state["artefacts"], "about": about}
    return state
