"""Reject connections to other machines. Python loads this file in the test process and in its child processes."""

import socket
from ipaddress import ip_address
from typing import Any

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _reject_remote(connection: socket.socket, address: Any) -> None:
    """Raise ConnectionRefusedError if the address is on another machine."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0]
    try:
        is_local = ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        raise ConnectionRefusedError(f"tests must not use the network: {address}")


def _connect_local(self: socket.socket, address: Any) -> None:
    _reject_remote(self, address)
    _connect(self, address)


def _connect_ex_local(self: socket.socket, address: Any) -> int:
    _reject_remote(self, address)
    return _connect_ex(self, address)


socket.socket.connect = _connect_local  # type: ignore[method-assign]
socket.socket.connect_ex = _connect_ex_local  # type: ignore[method-assign]
