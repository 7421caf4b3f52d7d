"""One job of a sweep, in a process of its own: `python -m rlzoo.cli.job words`.

It stops, saved as after a signal, when its sweep is gone, however that ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from rlzoo.cli.main import main


def _stop_with_sweep() -> None:
    os.read(0, 1)  # the sweep has the other end, and writes nothing
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_sweep, daemon=True).start()
    sys.exit(main())
