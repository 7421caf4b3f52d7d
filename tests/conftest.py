"""Makes the helpers in this folder importable from all tests."""

import signal

import rlzoo  # noqa: F401 - before numpy: as many BLAS threads here as in a test's own processes

# Whoever starts the tests with `nohup` or `&` has signals ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
