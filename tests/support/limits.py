"""After how many seconds a test that hangs fails.

What a test waits for comes in much less; on a busy machine, or under a tracer, set the environment
variable `HANGS_AFTER`.
"""

from __future__ import annotations

import os

HANGS = float(os.environ.get("HANGS_AFTER", "60"))
