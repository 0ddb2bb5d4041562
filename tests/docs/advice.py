"""Say of each error code what its reader does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentd.errors import ErrorCode

ADVICE: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.INTERNAL: ("a defect; report it with the log line"),
    ErrorCode.CONFIG_INVALID: (
        "a setting, data directory, socket or journal that cannot be used: the message "
        "names it and says what to do"
    ),
    ErrorCode.MONITOR_MISSING: (
        "install the monitor that `monitor.kind` names, or set where it is: "
        "`monitor.qemu_binary`, `monitor.firecracker_binary`, "
        "`monitor.cloud_hypervisor_binary`"
    ),
    ErrorCode.IMAGE_INVALID: ("image missing or damaged: build it again"),
    ErrorCode.PACKAGES_UNAVAILABLE: (
        "APT has no lists or no such package: `apt-get update`, check the name"
    ),
    ErrorCode.PERMISSION_DENIED: (
        "the message names path and right; a file in a guest that user code may not reach"
        " says the same"
    ),
    ErrorCode.PROVIDER_UNABLE: (
        "the node's sandboxer is not set up for it; the message names the setting of the sandboxer"
    ),
    ErrorCode.NAME_INVALID: (
        "template names are DNS labels; package and module names have their own rules"
    ),
    ErrorCode.REQUEST_INVALID: (
        "`GET /openapi.json` says what is expected; also for an unknown path (404), wrong"
        " method (405), missing length (411), too large a body (413)"
    ),
    ErrorCode.TEMPLATE_NOT_FOUND: ("`snapctl template list`"),
    ErrorCode.TEMPLATE_EXISTS: ("remove it first, also one that `failed`"),
    ErrorCode.TEMPLATE_IN_USE: ("end its sessions first"),
    ErrorCode.TEMPLATE_NOT_READY: ("wait until its state is `ready`"),
    ErrorCode.SESSION_NOT_FOUND: ("`snapctl session list`; the last 256 ended ones are remembered"),
    ErrorCode.SESSION_ENDED: ("the message has the reason; create another"),
    ErrorCode.EXECUTION_TIMEOUT: (
        "command line and client only: the API answers 200 with status `timeout`"
    ),
    ErrorCode.FILE_NOT_FOUND: ("no such file in the session"),
    ErrorCode.RESULT_TOO_LARGE: (
        "command line and client only: status `result_too_large`; raise `--max-result-bytes`"
    ),
    ErrorCode.OBJECT_NOT_FOUND: (
        "cluster commands only: the message names kind and namespace; see `-n`"
    ),
    ErrorCode.OBJECT_EXISTS: (
        "cluster commands only: an object of that name is there, or somebody changed it meanwhile"
    ),
    ErrorCode.GUEST_NOT_READY: (
        "the guest did not answer; the message ends with its console. Raise "
        "`deadlines.warm_s` if it is only slow"
    ),
    ErrorCode.GUEST_PROTOCOL: (
        "the guest broke the protocol; it cannot be trusted, its session is ended"
    ),
    ErrorCode.GUEST_CONTAMINATED: (
        "the build's guest is not clean; the message lists why, see [runtime "
        "authors](../runtime-authors.md#the-contamination-gate)"
    ),
    ErrorCode.GUEST_REJECTED: ("the guest refused; the message has its words"),
    ErrorCode.INTERPRETER_DIED: (
        "command line and client only: a signal or want of memory ended the interpreter; "
        "the session has a fresh one"
    ),
    ErrorCode.VMM_FAILED: (
        "QEMU ended or refused; the message ends with what QEMU printed. Or the page "
        "server does not serve the machine (any more), and says why"
    ),
    ErrorCode.VMM_PROTOCOL: (
        "QEMU said something that is not QMP; the page server, or a monitor to it, "
        "something that is not its protocol"
    ),
    ErrorCode.PROVIDER_FAILED: (
        "the sandboxer refused or failed; the message has its words, its log more"
    ),
    ErrorCode.PROVIDER_PROTOCOL: (
        "the sandboxer sent no reply, or none that can be read; what was asked may have "
        "been done all the same"
    ),
    ErrorCode.TEMPLATE_CORRUPT: (
        "what is on disk is not what was sealed: remove the template, build it again"
    ),
    ErrorCode.TEMPLATE_INCOMPATIBLE: (
        "made by another QEMU, accelerator, CPU or format: the message names each "
        "difference. Build it again"
    ),
    ErrorCode.TEMPLATE_BUILD_FAILED: (
        "the daemon ended during the build, or the frozen guest is not usable: remove, build again"
    ),
    ErrorCode.NODE_FULL: (
        "end sessions or raise the limits of `[admission]`; wait for `Retry-After`"
    ),
    ErrorCode.NO_MEMORY: ("the host has no memory left beyond its reserve"),
    ErrorCode.DISK_FULL: ("free space where the message says"),
    ErrorCode.AGENT_UNREACHABLE: ("client only: no daemon at this socket"),
    ErrorCode.SHUTTING_DOWN: ("the daemon stops; try again once it is back"),
    ErrorCode.DEADLINE_EXCEEDED: ("a step took longer than the caller or `[deadlines]` allows"),
    ErrorCode.CLUSTER_UNREACHABLE: (
        "cluster commands only: the API server does not answer; see `--kubeconfig`, `--context`"
    ),
    ErrorCode.PROVIDER_UNREACHABLE: (
        "nobody answers on the sandboxer's socket, or it was restarted and has not found "
        "its sandboxes yet"
    ),
}
