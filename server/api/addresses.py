"""Ports are taken before anything slow happens, and one that is in use is a clear error."""

import socket


def bind_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Take a TCP port, without listening yet.

    Args:
        host: Name or address; of several addresses the first.
        port: 0 takes a free one.
        shared: Whether other processes of this user may take it, too, if they say the same.

    Raises:
        OSError: It cannot be taken; the message says which and why.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(f"cannot listen on {join_address(host, port)}: {error.strerror}") from error
    try:
        # A port whose last connections still time out is free; one that somebody listens on is not.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {join_address(host, port)}: {error.strerror}") from error
    bound.setblocking(False)
    return bound


def join_address(host: str, port: int) -> str:
    """`host:port`, or `[host]:port` for an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
