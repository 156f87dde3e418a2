"""A provider of a gigabyte and a program that wants it, in a process of their own, so that the
memory measured is the proxy's. Blocking sockets: what is slow here is not what is measured.

`python wire_peer.py PORT CREDENTIAL (length|chunked|paid|tunnel|upload) BYTES` prints what arrived.
"""

import json
import socket
import sys
import threading
import time

PIECE = bytes(1 << 20)
CHUNK = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise EOFError(data)
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def take(sock: socket.socket, size: int) -> int:
    buffer = bytearray(1 << 20)
    taken = 0
    while taken < size and (count := sock.recv_into(buffer)):
        taken += count
    return taken


def serve(listener: socket.socket, mode: str, size: int) -> None:
    sock, _ = listener.accept()
    while mode != "tunnel":
        head, rest = read_head(sock)
        if mode == "upload":
            got = len(rest) + take(sock, size - len(rest))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Got: %d\r\n\r\n" % got)
            return
        if mode != "paid" or b"PAYMENT-SIGNATURE" in head:
            break
        sock.sendall(b"HTTP/1.1 402 Pay\r\nContent-Length: 2\r\n\r\n{}")
    if mode == "chunked":
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    elif mode != "tunnel":
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(size // len(PIECE)):
        sock.sendall(CHUNK if mode == "chunked" else PIECE)
    if mode == "chunked":
        sock.sendall(b"0\r\n\r\n")
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)


def main() -> None:
    port, credential, mode, size = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    threading.Thread(target=serve, args=(listener, mode, size), daemon=True).start()
    began = time.monotonic()
    sock = socket.create_connection(("127.0.0.1", port))
    verb = {"tunnel": "CONNECT ", "upload": "PUT http://"}.get(mode, "GET http://")
    target = address if mode == "tunnel" else address + "/"
    length = f"Content-Length: {size}\r\n" if mode == "upload" else ""
    sock.sendall(
        f"{verb}{target} HTTP/1.1\r\nHost: {address}\r\n{credential}\r\n{length}\r\n".encode()
    )
    if mode == "upload":
        for _ in range(size // len(PIECE)):
            sock.sendall(PIECE)
    head, rest = read_head(sock)
    got = len(rest)
    if mode == "upload":
        got = int(head.rpartition(b"X-Got: ")[2])
    elif mode == "chunked":
        while not rest.endswith(b"0\r\n\r\n"):
            rest = rest[-10:] + sock.recv(1 << 20)
            got = size  # its framing is for other tests to check
    else:
        got += take(sock, size - got)
    print(json.dumps({"head": head.decode(), "got": got, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
