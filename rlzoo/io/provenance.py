"""What ran, with which code and libraries, on which machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = {"rlzoo": "rlzoo-torch"} | {
    name: name for name in ("torch", "numpy", "gymnasium", "hydra-core")
}
_GIT_TIMEOUT_SECONDS = 5.0


def provenance() -> dict[str, Any]:
    """Command, code, versions, hardware and start time as plain JSON; no environment variables."""
    versions = {name: _version(of) for name, of in _DISTRIBUTIONS.items()}
    return {
        "command": shlex.join(["rlzoo", *sys.argv[1:]]),
        "git": git_state(Path(__file__)),
        "versions": {"python": platform.python_version(), **versions},
        "hardware": {
            "platform": platform.platform(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the repository that tracks `file`; None if none does."""
    # Installed code may lie inside somebody else's repository, which does not track it.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
