"""Write one line about each call."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from agentd.proxy.requests import CreateTemplate, DeleteTemplate, Request

_EVENT = "proxy.call"


@dataclass
class Call:
    """What is told of a call; nothing of it comes from a body that was not checked.

    began_s: monotonic. subject: of the caller's certificate. detail: why a provider failed.
    """

    caller: str
    subject: str
    began_s: float
    action: str = ""
    key: str = ""
    template_id: str = ""
    sandbox_id: str = ""
    status: int = 0
    result: str = ""
    detail: str = ""

    def about(self, request: Request) -> None:
        """Note what is asked for."""
        self.action = request.action.value
        match request:
            case CreateTemplate():
                self.key, self.sandbox_id = request.key, request.sandbox_id
            case DeleteTemplate():
                self.template_id = request.template_id

    def write(self, now_s: float) -> None:
        """Once, when it is over; what failed here or at the provider is a warning."""
        log = structlog.get_logger()
        emit = log.warning if self.status >= 500 else log.info
        details = {"detail": self.detail} if self.detail else {}
        emit(
            _EVENT,
            caller=self.caller,
            subject=self.subject,
            action=self.action,
            key=self.key,
            template_id=self.template_id,
            sandbox_id=self.sandbox_id,
            status=self.status,
            result=self.result,
            elapsed_ms=round((now_s - self.began_s) * 1000, 1),
            **details,
        )
