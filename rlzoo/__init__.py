"""Reinforcement and imitation learning in PyTorch."""

import os

# Read once, when numpy is first imported. The matrices of a policy at work are small: a second
# BLAS thread costs more than it brings, and on a busy machine each waits for the other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
