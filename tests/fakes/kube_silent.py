"""A server that reads one request over TLS, then neither answers nor hears a good-bye."""

from __future__ import annotations

import socket
import ssl
import threading
from types import TracebackType

from tests.kube.pki import KeyPair


class SilentTls:
    """Serves one connection, in a thread of its own, until the end of the block."""

    def __init__(self, pair: KeyPair) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.was_asked = threading.Event()
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> SilentTls:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._may_end.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # ends an accept(2) that nobody answered
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        try:
            plain, _ = self._listener.accept()
        except OSError:
            return
        with plain, self._context.wrap_socket(plain, server_side=True) as sock:
            sock.recv(65536)
            self.was_asked.set()
            self._may_end.wait()
