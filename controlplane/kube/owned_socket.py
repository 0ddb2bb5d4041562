"""A socket that never closes a descriptor which has become somebody else's.

An event loop that takes over a socket (uvloop's `create_connection(sock=...)`) closes its
descriptor by itself. When the peer resets the connection before the loop has noted down the socket
object, nothing tells the object; its finalizer then closes the number a second time. By then the
number may be that of another connection or of a listener: that one goes deaf, or libuv aborts.
"""

from __future__ import annotations

import os
import socket


class OwnedSocket(socket.socket):
    """As `socket.socket`; a descriptor that was closed behind its back is let go of instead.

    Which socket a number stands for is told by its inode, which is new for each socket.
    """

    def __init__(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        fileno: int | None = None,
    ) -> None:
        super().__init__(family, type, proto, fileno)
        self._inode = os.fstat(self.fileno()).st_ino

    def close(self) -> None:
        """Close it unless that has been done."""
        self._let_go_of_a_strangers()
        super().close()

    def __del__(self) -> None:
        self._let_go_of_a_strangers()
        super().__del__()  # type: ignore[misc]

    def _let_go_of_a_strangers(self) -> None:
        try:
            is_own = os.fstat(self.fileno()).st_ino == self._inode
        except (OSError, AttributeError):  # closed; or never opened
            is_own = False
        if not is_own:
            self.detach()
