"""What all tests share: one torch thread, as a site's worker has; more only fight over small arrays."""

from __future__ import annotations

import os

# Read once, when torch is first imported; processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
