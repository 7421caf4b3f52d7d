"""Who may import whom: a walk over the source that holds the layers, and a few bans."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "rlzoo"

# A room (a module or folder of the package) imports only from the floors to its left.
FLOORS = (
    {"__init__", "types"},
    {"seeding", "settings"},
    {"statistics"},
    {"losses", "nets", "envs"},
    {"data", "executor"},
    {"algos", "io", "registry", "stop", "terminal"},
    {"loop", "evaluate", "plots"},
    {"config"},
    {"build", "compare"},
    {"run"},
    {"sweep", "show"},
    {"demos", "export"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WORDS = FLOORS[0] | FLOORS[1] | FLOORS[2]
KNOW_WORDS_ONLY = {"io", "registry"}  # wherever they stand
CONFIGURATION = {"hydra", "omegaconf"}  # known to config.py alone
FOREIGN_TO_ALGOS = {"tensorboard", "tensorboardX", "signal"}
START_WITHOUT_TORCH = {"cli", "config", "registry", "settings", "types", "seeding"}
MAX_LINES = 400


class Import(NamedTuple):
    line: int
    module: str  # dotted and absolute, for `from a.b import c` a.b.c
    is_deferred: bool  # inside a function, or for type checkers only


def imports(file: Path, package: Path) -> list[Import]:
    """All imports of a file, wherever they stand in it."""
    parts = (package.name, *file.relative_to(package).parent.parts)

    def names(node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        parent = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
        base = ".".join(filter(None, (parent, node.module)))
        return [f"{base}.{alias.name}" for alias in node.names]

    def walk(node: ast.AST, is_deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in names(child):
                    yield Import(child.lineno, name, is_deferred)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from walk(child, is_deferred or is_function or is_typing)

    return list(walk(ast.parse(file.read_text()), False))


def violations(package: Path) -> list[str]:
    """One line for each broken rule, in the files of a package."""
    found = []
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        room = name.split("/")[0].removesuffix(".py")
        if room not in FLOOR:
            found.append(f"{name}: '{room}' has no floor: give it one in test_layers.py")
            continue
        lines = len(file.read_text().splitlines())
        if lines > MAX_LINES:
            found.append(f"{name}: {lines} lines, at most {MAX_LINES}")
        for line, module, is_deferred in imports(file, package):
            reason = objection(room, module, package.name, is_deferred)
            if reason:
                found.append(f"{name}:{line}: {module}: {reason}")
    return found


def objection(room: str, module: str, package: str, is_deferred: bool) -> str | None:
    first, *rest = module.split(".")
    if first == package:
        target = rest[0] if rest else "__init__"
        if target == room:
            return None
        if target not in FLOOR:
            return "no such room"
        if room in KNOW_WORDS_ONLY and target not in WORDS:
            return f"{room} knows only {', '.join(sorted(WORDS))}"
        return None if FLOOR[target] < FLOOR[room] else f"{target} is not to the left of {room}"
    if first in CONFIGURATION and room != "config":
        return "only config.py knows Hydra and OmegaConf"
    if room == "algos" and FOREIGN_TO_ALGOS & set(module.split(".")):
        return "an algorithm does not log, and hears no signals"
    if first == "torch" and room in START_WITHOUT_TORCH and not is_deferred:
        return f"{room} starts without torch: import it in the function that needs it"
    return None


def test_the_layers_hold() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 10
    assert violations(PACKAGE) == []


PLANTED = [
    ("types.py", "from rlzoo import seeding", "seeding is not to the left of types"),
    ("seeding.py", "import rlzoo.settings", "settings is not to the left of seeding"),
    ("__init__.py", "from rlzoo.cli import main", "cli is not to the left of __init__"),
    ("losses/td.py", "from rlzoo.nets.mlp import MLP", "nets is not to the left of losses"),
    ("nets/mlp.py", "from ..envs import make", "envs is not to the left of nets"),
    ("envs/make.py", "import rlzoo.data.replay as r", "data is not to the left of envs"),
    ("data/x/deep.py", "from ...algos.dqn import DQN", "algos is not to the left of data"),
    ("algos/dqn.py", "from rlzoo.io import checkpoint", "io is not to the left of algos"),
    ("algos/dqn.py", "def f():\n    import rlzoo.loop", "loop is not to the left of algos"),
    ("algos/dqn.py", "if TYPE_CHECKING:\n    import rlzoo.config", "config is not to the left"),
    ("loop.py", "from rlzoo.cli import main", "cli is not to the left of loop"),
    ("io/logger.py", "from rlzoo.envs.make import make_env", "io knows only"),
    ("io/logger.py", "from rlzoo.nets import mlp", "io knows only"),
    ("registry.py", "from rlzoo.data import replay", "registry knows only"),
    ("run.py", "from omegaconf import OmegaConf", "only config.py knows"),
    ("cli.py", "def f():\n    import hydra.core.utils", "only config.py knows"),
    ("algos/dqn.py", "from torch.utils.tensorboard import SummaryWriter", "does not log"),
    ("algos/dqn.py", "class A:\n    import signal", "hears no signals"),
    ("algos/dqn.py", "import hydra", "only config.py knows"),
    ("cli.py", "import torch", "starts without torch"),
    ("config.py", "from torch.nn import Module", "starts without torch"),
    ("types.py", "try:\n    import torch\nexcept ImportError:\n    pass", "starts without torch"),
    ("loop.py", "x = 1\n" * 401, "401 lines, at most 400"),
    ("helpers.py", "", "'helpers' has no floor"),
    ("cli.py", "from rlzoo import helpers", "no such room"),
]
HARMLESS = [
    ("settings.py", "from rlzoo.types import UsageError"),
    ("nets/cnn.py", "from rlzoo.nets.mlp import MLP\nfrom . import mlp\nimport torch"),
    ("data/replay.py", "from ..losses.td import td_loss\nimport rlzooish"),
    ("algos/dqn.py", "import torch\nfrom rlzoo.data.replay import Replay"),
    ("config.py", "import hydra\nfrom omegaconf import OmegaConf\nfrom rlzoo import registry"),
    ("seeding.py", "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"),
    ("stop.py", "import signal"),
    ("loop.py", "x = 1\n" * 400),
]


@pytest.mark.parametrize(("path", "source", "expected"), PLANTED)
def test_a_planted_violation_is_found(
    tmp_path: Path, path: str, source: str, expected: str
) -> None:
    found = violations(plant(tmp_path, path, source))
    assert len(found) == 1
    assert found[0].startswith(path)
    assert expected in found[0]


@pytest.mark.parametrize(("path", "source"), HARMLESS)
def test_what_is_allowed_is_not_reported(tmp_path: Path, path: str, source: str) -> None:
    assert violations(plant(tmp_path, path, source)) == []


def plant(folder: Path, path: str, source: str) -> Path:
    file = folder / "rlzoo" / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    return folder / "rlzoo"


def test_the_command_line_starts_without_torch() -> None:
    """Also through what the modules import in their turn."""
    modules = ", ".join(f"rlzoo.{name}" for name in sorted(START_WITHOUT_TORCH))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
    control = code.replace("import sys,", "import sys, torch,")
    assert subprocess.run([sys.executable, "-c", control], cwd=PACKAGE.parent).returncode == 1
