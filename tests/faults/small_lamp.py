"""A lamp for commands in processes of their own: in who imports it, each new V is small."""

from lamp import small_vision

SMALL = small_vision()
SMALL.__enter__()
