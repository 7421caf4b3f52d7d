"""Who may import whom: a walk over the source that holds the floors, and a few bans.

And what it costs to read an algorithm: its module and all that it imports from rlzoo.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "rlzoo"

# A room (a folder of the package) imports only from the floors to its left, and from itself.
FLOORS = (
    {"core"},
    {"losses", "nets", "envs", "io"},
    {"data", "demonstrations"},
    {"algos"},
    {"run"},
    {"study"},
    {"cli"},
    {"__init__", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
CONFIGURATION = {"hydra", "omegaconf"}  # known to run/config.py alone
FOREIGN_TO_ALGOS = {"tensorboard", "tensorboardX", "signal"}
# Modules that start without torch, so that the command line answers at once.
START_WITHOUT_TORCH = {"core", "cli/main.py", "run/config.py", "__init__.py", "__main__.py"}


class Import(NamedTuple):
    line: int
    module: str  # dotted and absolute, for `from a.b import c` a.b.c
    is_deferred: bool  # inside a function
    is_typing: bool  # for type checkers only


def imports(file: Path, package: Path) -> list[Import]:
    """All imports of a file, wherever they stand in it."""
    parts = (package.name, *file.relative_to(package).parent.parts)

    def names(node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        parent = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
        base = ".".join(filter(None, (parent, node.module)))
        return [f"{base}.{alias.name}" for alias in node.names]

    def walk(node: ast.AST, is_deferred: bool, is_typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in names(child):
                    yield Import(child.lineno, name, is_deferred, is_typing)
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from walk(child, is_deferred or in_function, is_typing or for_types)

    return list(walk(ast.parse(file.read_text()), False, False))


# ---------------------------------------------------------------- floors


def violations(package: Path) -> list[str]:
    """One line for each broken rule, in the files of a package."""
    found = []
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        room = name.split("/")[0].removesuffix(".py")
        if room not in FLOOR:
            found.append(f"{name}: '{room}' has no floor: give it one in test_layers.py")
            continue
        for item in imports(file, package):
            reason = objection(name, room, item, package.name)
            if reason:
                found.append(f"{name}:{item.line}: {item.module}: {reason}")
    return found


def objection(name: str, room: str, item: Import, package: str) -> str | None:
    first, *rest = item.module.split(".")
    if first == package:
        target = rest[0] if rest else "__init__"
        if target == room:
            return None
        if target not in FLOOR:
            return "no such room"
        return None if FLOOR[target] < FLOOR[room] else f"{target} is not to the left of {room}"
    if first in CONFIGURATION and name != "run/config.py":
        return "only run/config.py knows Hydra and OmegaConf"
    if room == "algos" and FOREIGN_TO_ALGOS & set(item.module.split(".")):
        return "an algorithm does not log, and hears no signals"
    starts_without = bool({room, name} & START_WITHOUT_TORCH)
    if first == "torch" and starts_without and not (item.is_deferred or item.is_typing):
        return f"{name} starts without torch: import it in the function that needs it"
    return None


def test_the_floors_hold() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 10
    assert violations(PACKAGE) == []


PLANTED = [
    ("core/types.py", "from rlzoo.envs import make", "envs is not to the left of core"),
    ("core/types.py", "import rlzoo", "__init__ is not to the left of core"),
    ("losses/td.py", "from rlzoo.nets.mlp import MLP", "nets is not to the left of losses"),
    ("nets/mlp.py", "from ..envs import make", "envs is not to the left of nets"),
    ("envs/make.py", "import rlzoo.data.replay as r", "data is not to the left of envs"),
    ("data/x/deep.py", "from ...algos.dqn import DQN", "algos is not to the left of data"),
    ("data/replay.py", "from rlzoo.demonstrations import fit", "demonstrations is not to the left"),
    ("algos/dqn.py", "def f():\n    import rlzoo.run.loop", "run is not to the left of algos"),
    ("algos/dqn.py", "if TYPE_CHECKING:\n    import rlzoo.run.config", "run is not to the left"),
    ("run/loop.py", "from rlzoo.cli.main import main", "cli is not to the left of run"),
    ("run/loop.py", "from rlzoo.study import sweep", "study is not to the left of run"),
    ("io/logger.py", "from rlzoo.envs.make import make_env", "envs is not to the left of io"),
    ("core/registry.py", "from rlzoo.data import replay", "data is not to the left of core"),
    ("run/run.py", "from omegaconf import OmegaConf", "only run/config.py knows"),
    ("cli/main.py", "def f():\n    import hydra.core.utils", "only run/config.py knows"),
    ("algos/dqn.py", "from torch.utils.tensorboard import SummaryWriter", "does not log"),
    ("algos/dqn.py", "class A:\n    import signal", "hears no signals"),
    ("algos/dqn.py", "import hydra", "only run/config.py knows"),
    ("cli/main.py", "import torch", "starts without torch"),
    ("run/config.py", "from torch.nn import Module", "starts without torch"),
    ("core/x.py", "try:\n    import torch\nexcept ImportError:\n    pass", "starts without torch"),
    ("helpers.py", "", "'helpers' has no floor"),
    ("cli/main.py", "from rlzoo import helpers", "no such room"),
]
HARMLESS = [
    ("core/settings.py", "from rlzoo.core.types import UsageError"),
    ("nets/cnn.py", "from rlzoo.nets.mlp import MLP\nfrom . import mlp\nimport torch"),
    ("data/replay.py", "from ..losses.td import td_loss\nimport rlzooish"),
    ("algos/dqn.py", "import torch\nfrom rlzoo.data.replay import Replay"),
    ("run/config.py", "import hydra\nfrom omegaconf import OmegaConf\nfrom rlzoo.core import x"),
    ("core/seeding.py", "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"),
    ("run/stop.py", "import signal"),
    ("cli/demos.py", "import torch"),
]


@pytest.mark.parametrize(("path", "source", "expected"), PLANTED)
def test_a_planted_violation_is_found(
    tmp_path: Path, path: str, source: str, expected: str
) -> None:
    found = violations(plant(tmp_path, {path: source}))
    assert len(found) == 1
    assert found[0].startswith(path)
    assert expected in found[0]


@pytest.mark.parametrize(("path", "source"), HARMLESS)
def test_what_is_allowed_is_not_reported(tmp_path: Path, path: str, source: str) -> None:
    assert violations(plant(tmp_path, {path: source})) == []


def plant(folder: Path, files: dict[str, str]) -> Path:
    for path, source in files.items():
        file = folder / "rlzoo" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return folder / "rlzoo"


def test_the_command_line_starts_without_torch() -> None:
    """Also through what the modules import in their turn."""
    names = [f"rlzoo.core.{file.stem}" for file in sorted((PACKAGE / "core").glob("[a-z]*.py"))]
    modules = ", ".join([*names, "rlzoo.cli.main", "rlzoo.run.config"])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
    control = code.replace("import sys,", "import sys, torch,")
    assert subprocess.run([sys.executable, "-c", control], cwd=PACKAGE.parent).returncode == 1


# ---------------------------------------------------------------- the graph of modules


def graph(package: Path, *, deferred: bool) -> dict[Path, set[Path]]:
    """Which files each file imports from the package; for type checkers alone does not count."""
    edges: dict[Path, set[Path]] = {}
    for file in sorted(package.rglob("*.py")):
        edges[file] = set()
        for item in imports(file, package):
            if item.is_typing or (item.is_deferred and not deferred):
                continue
            first, *rest = item.module.split(".")
            # `from a.b import c`: c is a module, or a name in the module b.
            for parts in (rest, rest[:-1]):
                target = package.joinpath(*parts).with_suffix(".py")
                if first == package.name and parts and target.is_file():
                    edges[file].add(target)
                    break
    return edges


def circle(edges: dict[Path, set[Path]]) -> list[str]:
    """The names of files that import each other in a circle, if there are any."""
    finished: set[Path] = set()

    def walk(file: Path, path: list[Path]) -> list[str]:
        if file in path:
            return [member.name for member in (*path[path.index(file) :], file)]
        if file in finished:
            return []
        for target in sorted(edges[file]):
            if found := walk(target, [*path, file]):
                return found
        finished.add(file)
        return []

    for file in edges:
        if found := walk(file, []):
            return found
    return []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert circle(graph(PACKAGE, deferred=True)) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    files = {
        "run/a.py": "from rlzoo.run.b import x",
        "run/b.py": "def f():\n    from rlzoo.run import c",
        "run/c.py": "import rlzoo.run.a",
    }
    package = plant(tmp_path, files)
    assert circle(graph(package, deferred=True)) == ["a.py", "b.py", "c.py", "a.py"]
    assert circle(graph(package, deferred=False)) == []


# ---------------------------------------------------------------- the cost of reading

# algorithm: modules to begin with, most lines, most files
READING = {
    "dqn": (("algos/dqn.py", "data/replay.py"), 1150, 9),
    "ppo": (("algos/ppo.py",), 1300, 12),
    "gail": (("algos/gail/gail.py",), 3620, 26),
    "world_models": (("algos/world_models/agent.py",), 4410, 22),
}
MAX_CORE_LINES = 900


def cost(package: Path, first: tuple[str, ...]) -> tuple[int, int]:
    """Lines and files of some modules and all that they import, transitively, without core/.

    What a function imports when it is called (a format, a backend) is not needed to read on.
    """
    edges = graph(package, deferred=False)
    seen: set[Path] = set()
    ahead = [package / name for name in first]
    while ahead:
        file = ahead.pop()
        if file not in seen and file.relative_to(package).parts[0] != "core":
            seen.add(file)
            ahead += edges[file]
    return sum(lines(file) for file in seen), len(seen)


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.mark.parametrize("algo", READING)
def test_the_cost_of_reading_an_algorithm(algo: str) -> None:
    first, most_lines, most_files = READING[algo]
    got_lines, got_files = cost(PACKAGE, first)
    print(f"{algo}: {got_lines} lines in {got_files} files")
    assert got_lines <= most_lines
    assert got_files <= most_files


def test_core_stays_small() -> None:
    total = sum(map(lines, (PACKAGE / "core").glob("*.py")))
    print(f"core: {total} lines")
    assert total <= MAX_CORE_LINES


def test_the_cost_counts_what_is_imported(tmp_path: Path) -> None:
    files = {
        "algos/a.py": "from rlzoo.data.b import x\nfrom rlzoo.core import words\n",
        "data/b.py": "import rlzoo.nets.c\ndef f():\n    import rlzoo.nets.d\n",
        "nets/c.py": "if TYPE_CHECKING:\n    import rlzoo.nets.d\n",
        "nets/d.py": "\n" * 100,
        "core/words.py": "\n" * 1000,
    }
    assert cost(plant(tmp_path, files), ("algos/a.py",)) == (7, 3)
