"""Notice the end of a session's machine, or of the channel to its guest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from agentd.engine.session import EndReason, Machine, Session
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, SnapStartError
from agentd.vmm.vmm import Vm
from agentd.warmfork.channel import GuestChannel

_DYING_S: Final = 0.5  # between the end of a machine's channel and that of its process


@dataclass(frozen=True)
class Loss:
    """Why a session is over, though nobody ended it."""

    reason: EndReason
    detail: str


async def watch(session: Session, tracer: Tracer, *, adopt_s: float) -> Loss | None:
    """Connect again whenever the channel alone was lost, until the machine is.

    Args: adopt_s: seconds that the guest has to answer on another channel.
    Returns: None when the session gave its machine away. Cancellation: leaves the machine alone.
    """
    while (machine := session.machine) is not None:
        loss = await _first_loss(machine) or await _reconnect(session, machine, adopt_s)
        if loss is not None:
            return loss
        tracer.step("session.reconnected", session=session.id)
    return None


async def _first_loss(machine: Machine) -> Loss | None:
    """Wait for either end. Returns: None when it is worth another channel."""
    death: asyncio.Future[Any] = asyncio.ensure_future(machine.vm.wait())
    lost: asyncio.Future[Any] = machine.channel.closed
    try:
        await asyncio.wait((death, lost), return_when=asyncio.FIRST_COMPLETED)
        words: str = death.result() if death.done() else await last_words(machine.vm)
    finally:
        death.cancel()
        lost.cancel()
    if words:
        return Loss(EndReason.VM_DIED, words)
    problem = machine.channel.closed.result()
    if problem.code is ErrorCode.GUEST_PROTOCOL:
        return Loss(EndReason.GUEST_BROKEN, problem.message)
    return None


async def _reconnect(session: Session, machine: Machine, adopt_s: float) -> Loss | None:
    await machine.channel.close()
    try:
        channel = await GuestChannel.connect(
            machine.vm.channel_path, deadline_s=adopt_s, prelude=machine.vm.channel_prelude
        )
    except SnapStartError as exc:
        return Loss(EndReason.GUEST_BROKEN, str(exc))
    session.machine = Machine(machine.vm, channel)
    session.note_change()
    return None


async def last_words(vm: Vm) -> str:
    """How a machine ended, empty when it still runs; its channel goes just before it does."""
    try:
        async with asyncio.timeout(_DYING_S):
            return await vm.wait() or "ended"
    except TimeoutError:
        return ""
