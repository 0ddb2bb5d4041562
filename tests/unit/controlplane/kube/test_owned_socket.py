"""A descriptor that was closed behind a socket's back is not closed again."""

from __future__ import annotations

import os
import socket

import pytest

from controlplane.kube.owned_socket import OwnedSocket


def close_behind_its_back(sock: socket.socket) -> socket.socket:
    """As an event loop does that took the descriptor over. Returns: who has the number now."""
    number = sock.fileno()
    os.close(number)
    stranger = socket.socket()
    if stranger.fileno() != number:
        os.dup2(stranger.fileno(), number, inheritable=False)
        stranger.close()
        stranger = socket.socket(fileno=number)
    return stranger


def test_an_ordinary_socket_closes_the_descriptor_of_a_stranger() -> None:
    sock = socket.socket()
    with close_behind_its_back(sock) as stranger:
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(stranger.fileno())
        stranger.detach()


@pytest.mark.parametrize("ends", ["closed", "forgotten"])
def test_an_owned_socket_lets_go_of_a_strangers_descriptor(ends: str) -> None:
    sock: OwnedSocket | None = OwnedSocket()
    assert sock is not None
    with close_behind_its_back(sock) as stranger:
        if ends == "closed":
            sock.close()
            assert sock.fileno() == -1
        sock = None
        os.fstat(stranger.fileno())


def test_it_lets_go_of_a_number_that_nobody_has() -> None:
    sock = OwnedSocket()
    os.close(sock.fileno())
    sock.close()
    assert sock.fileno() == -1


def test_its_own_descriptor_is_closed() -> None:
    sock = OwnedSocket()
    number = sock.fileno()
    sock.close()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_forgotten_one_is_closed_with_a_warning() -> None:
    sock: OwnedSocket | None = OwnedSocket()
    assert sock is not None
    number = sock.fileno()
    with pytest.warns(ResourceWarning):
        sock = None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
