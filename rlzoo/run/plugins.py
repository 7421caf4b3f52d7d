"""Modules outside this package: imported only where the user has named or installed them."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rlzoo.core.messages import cause
from rlzoo.core.types import UsageError
from rlzoo.io.run_dir import is_run_dir

# Folders with config groups that plug-ins brought along (a `conf` folder beside their module).
conf_dirs: list[Path] = []


def load_plugins(modules: Iterable[str]) -> None:
    """Import what the user names, and the plug-ins that are installed as entry points.

    Never called for names that a saved file gives: those go to `require`.
    """
    for module in _installed_plugins():
        _add_conf_dir(importlib.import_module(module))
    for module in modules:
        if not isinstance(module, str) or not all(p.isidentifier() for p in module.split(".")):
            raise UsageError(f"plugins: got {module!r}, expected a module such as my_package.algo")
        # A plug-in in the current directory is found also when rlzoo runs as a console script.
        here = str(Path.cwd())
        if here not in sys.path and not _run_dir_around(here):
            sys.path.append(here)
        try:
            _add_conf_dir(_import(module))
        except (KeyboardInterrupt, UsageError):
            raise
        except ImportError as error:
            raise UsageError(f"plugins: cannot import '{module}': {error}") from error
        except BaseException as error:
            raise UsageError(f"plugins: cannot import '{module}': {cause(error)}") from error


def require(modules: Iterable[str], where: str) -> None:
    """UsageError where a saved file names modules that nobody else has named so far."""
    load_plugins(())
    missing = [module for module in modules if module not in sys.modules]
    if missing:
        raise UsageError(
            f"{where}: names {' and '.join(missing)}, and a saved file imports nothing by itself. "
            f"If you trust this code, add {option(missing)} (in Python: import it first)"
        )


def option(modules: Iterable[str]) -> str:
    """The word of a command line that names modules."""
    return f"plugins=[{','.join(modules)}]"


def listed(text: str) -> list[str]:
    """The modules that the text of that option names."""
    return [name.strip(" '\"") for name in text.strip("[]").split(",") if name.strip()]


def _import(module: str) -> object:
    """Import a module, one package after the other, each of them looked up first.

    Every folder below the current one is a package to Python, so a name could lead into a run
    directory, which may be anybody's.
    """
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None:
            places = [spec.origin] if spec.has_location else spec.submodule_search_locations
            for place in filter(None, places or ()):
                if run_dir := _run_dir_around(place):
                    raise UsageError(
                        f"plugins: '{module}' is inside the run directory {run_dir}, and nothing "
                        "is imported from there. If you trust it, copy it out"
                    )
        importlib.import_module(name)
    return sys.modules[module]


def _run_dir_around(place: str) -> Path | None:
    path = Path(os.path.realpath(place))
    return next(filter(is_run_dir, (path, *path.parents)), None)


def _add_conf_dir(module: object) -> None:
    file = getattr(module, "__file__", None)  # a namespace package has none
    conf = Path(file or os.devnull).parent / "conf"
    if conf.is_dir() and conf not in conf_dirs:
        conf_dirs.append(conf)


@functools.cache
def _installed_plugins() -> tuple[str, ...]:
    return tuple(p.module for p in importlib.metadata.entry_points(group="rlzoo.plugins"))
