"""Ask a fork who it is."""

from __future__ import annotations

import json
import time

from agentd.client import Sandbox
from agentd.errors import ErrorCode, PeerError
from agentd.wire.demo import Identity

# Everything that must differ between two forks, read by the fork's own code.
QUESTION = """
import json as _json, os as _os, random as _random, socket as _socket, time as _time, uuid as _uuid
import numpy as _numpy
print(_json.dumps({
    "urandom": _os.urandom(16).hex(),
    "random": repr(_random.random()),
    "numpy": repr(float(_numpy.random.random())),
    "uuid4": str(_uuid.uuid4()),
    "uuid1": str(_uuid.uuid1()),
    "hostname": _socket.gethostname(),
    "machine_id": open("/etc/machine-id").read().strip(),
    "boot_id": open("/proc/sys/kernel/random/boot_id").read().strip(),
    "guest_clock_ns": _time.time_ns(),
}))
"""


def read_identity(sandbox: Sandbox) -> Identity:
    """The values as the fork reads them, with the host's clock around the question.

    Raises: PeerError when the fork cannot answer.
    """
    sent_ns = time.time_ns()
    execution = sandbox.run_code(QUESTION, timeout=60)
    received_ns = time.time_ns()
    if execution.error is not None:
        raise PeerError(
            ErrorCode.GUEST_PROTOCOL, f"asking {sandbox!r} who it is: {execution.error.value}"
        )
    answer = json.loads("".join(execution.logs.stdout))
    return Identity(**answer, host_send_ns=sent_ns, host_receive_ns=received_ns)
