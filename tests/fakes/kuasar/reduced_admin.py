"""A stand-in for the admin socket that a sandboxer of the gRPC form has beside.

Marks as in `sandboxer`, deviations as in `admin_server`.
"""

from __future__ import annotations

from .admin_server import AdminServer, Members
from .sandboxer import ENVIRONMENT


class ReducedAdmin(AdminServer):
    """Lists templates, tells the pool's status, removes bare machines alone."""

    async def _collect(self, request: Members) -> Members:
        """Kind is ignored. (R)"""
        self.sandboxer.remove(self.in_pool(request, ENVIRONMENT))
        return {"removed": 1, "remaining": len(self.sandboxer.templates)}
