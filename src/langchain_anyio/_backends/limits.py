"""Time limits of cleanups, in seconds; read where they are used, so that tests can set them."""

from __future__ import annotations

CLEANUP_SECONDS: float = 5.0
"""The longest cleanup of a run, of the HTTP clients of a loop, or of abandoned nurseries, and how
long a cancelled caller waits for a write that a thread has begun."""

MODEL_SECONDS: float = 3.0
"""The part of a model run's cleanup that its model has to return; the rest is for callbacks."""

OWN_SECONDS: float = 4.75
"""The time after which a task that cleans up a run gives up by itself, before it is abandoned."""

CALL_CLEANUP_SECONDS: float = 5.0
"""The longest that what a call has started on trio may go on after the call has ended."""
