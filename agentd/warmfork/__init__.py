"""The host side of the guest protocol."""

from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.stream import Stream

__all__ = ["GuestChannel", "Stream"]
