"""Makes the helpers in this folder importable from all tests."""

import rlzoo  # noqa: F401 - before numpy: as many BLAS threads here as in a test's own processes
