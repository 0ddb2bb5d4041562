"""Tell build Sandboxes, and what an agent says of a build that failed."""

from __future__ import annotations

from typing import Final

from controlplane.api import names
from controlplane.api.meta import ObjectMeta

# A task's message that begins with one of these says more than that the attempt failed.
# No later attempt can go better: the guest does not speak the readiness protocol.
PROTOCOL_NOT_SUPPORTED: Final = "ProtocolNotSupported"
# The guest held user state; also the reason of the event.
CONTAMINATED: Final = "SnapshotContaminationDetected"


def is_marked_build(meta: ObjectMeta) -> bool:
    """The object carries the mark of a build Sandbox, as a label or as an annotation."""
    mark = names.TEMPLATE_SANDBOX
    return "true" in (meta.label(mark), meta.annotation(mark))
