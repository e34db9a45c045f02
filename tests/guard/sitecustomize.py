"""Put on PYTHONPATH by the pipeline's tests: every Python process writes down what it calls but loopback."""

import os
import socket

LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0", None, "", socket.gethostname())
_connect, _look_up = socket.socket.connect, socket.getaddrinfo


def _refuse(host):
    with open(os.environ["SOCKET_LOG"], "a") as file:
        file.write(f"{host}\n")
    raise ConnectionRefusedError(f"a test called out to {host}")


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
        _refuse(address[0])
    return _connect(self, address)


def getaddrinfo(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in LOOPBACK:
        _refuse(name)
    return _look_up(host, *args, **kwargs)


if "SOCKET_LOG" in os.environ:
    socket.socket.connect = connect
    socket.getaddrinfo = getaddrinfo
