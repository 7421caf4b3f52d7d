"""What a built wheel carries: every package of ours, and conf/ with all its files."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_package_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "rlzoo").rglob("__init__.py")
    }
    assert listed == found | {"rlzoo.conf"}


def test_conf_holds_nothing_but_yaml():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert patterns["package-data"]["rlzoo.conf"] == ["**/*.yaml"]
    assert all(file.suffix == ".yaml" for file in (ROOT / "conf").rglob("*") if file.is_file())
