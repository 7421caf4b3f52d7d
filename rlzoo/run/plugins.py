"""Modules outside this package that register algorithms, networks and replay memories."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rlzoo.core.types import UsageError

# Folders with config groups that plug-ins brought along (a `conf` folder beside their module).
conf_dirs: list[Path] = []


def load_plugins(modules: Iterable[str]) -> None:
    """Import plug-in modules: those named, and those installed as entry points."""
    # A plug-in in the current directory is found also when rlzoo runs as a console script.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for module in (*_installed_plugins(), *modules):
        if not isinstance(module, str) or not all(p.isidentifier() for p in module.split(".")):
            raise UsageError(f"plugins: got {module!r}, expected a module such as my_package.algo")
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"plugins: cannot import '{module}': {error}") from error
        file = getattr(loaded, "__file__", None)  # a namespace package has none
        conf = Path(file or os.devnull).parent / "conf"
        if conf.is_dir() and conf not in conf_dirs:
            conf_dirs.append(conf)


@functools.cache
def _installed_plugins() -> tuple[str, ...]:
    return tuple(p.module for p in importlib.metadata.entry_points(group="rlzoo.plugins"))
