"""What of langgraph needs more than the namespace that other modules have."""

from __future__ import annotations

from typing import Final

from ._namespace import Namespace
from ._primitives import PatientCondition

# By the names of the modules.
NAMESPACES_OF_LANGGRAPH: Final = {
    # Below Python 3.11 it takes a current task for one that cannot have been given a context. On trio it can.
    "langgraph.config": Namespace({"current_task": lambda: None}),
    # Its pump takes the lock of its condition again when it has been cancelled.
    "langgraph.stream.run_stream": Namespace({"Condition": PatientCondition}),
}
