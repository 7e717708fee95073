"""No connection leaves this machine: Python loads this file in the tests' process and in those they start."""

import socket
from ipaddress import ip_address
from typing import Any

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _refuse_elsewhere(own: socket.socket, address: Any) -> None:
    if own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0]
    try:
        here = ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here:
        raise ConnectionRefusedError(f"a test asked for the network: {address}")


def _local(self: socket.socket, address: Any) -> None:
    _refuse_elsewhere(self, address)
    _connect(self, address)


def _local_ex(self: socket.socket, address: Any) -> int:
    _refuse_elsewhere(self, address)
    return _connect_ex(self, address)


socket.socket.connect = _local  # type: ignore[method-assign]
socket.socket.connect_ex = _local_ex  # type: ignore[method-assign]
