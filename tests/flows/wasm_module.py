"""A WebAssembly module for Envoy, written by hand: it answers every request itself with 418 and a word.

The smallest plugin of the Proxy-Wasm ABI 0.2.1: memory, malloc, and the hook for request headers, which sends a local
response. So no compiler is needed for the tests.
"""

from __future__ import annotations

from pathlib import Path

BODY = b"from wasm"
STATUS = 418
_I32 = 0x7F
_AT = 16


def _number(value: int) -> bytes:
    """Signed LEB128."""
    found = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            return bytes([*found, byte])
        found.append(byte | 0x80)


def _section(kind: int, *items: bytes) -> bytes:
    body = bytes([len(items)]) + b"".join(items)
    return bytes([kind]) + _size(len(body)) + body


def _size(value: int) -> bytes:
    """Unsigned LEB128."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _named(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _type(parameters: int, results: int) -> bytes:
    return bytes([0x60, parameters, *[_I32] * parameters, results, *[_I32] * results])


def _code(*instructions: bytes) -> bytes:
    body = b"\x00" + b"".join(instructions) + b"\x0b"
    return _size(len(body)) + body


def module() -> bytes:
    """The module's bytes."""
    constants = [STATUS, 0, 0, _AT, len(BODY), 0, 0, -1]
    answer = [b"\x41" + _number(value) for value in constants] + [b"\x10\x00\x1a", b"\x41" + _number(1)]
    functions = [("proxy_abi_version_0_2_1", 1), ("malloc", 2), ("proxy_on_request_headers", 3)]
    return b"".join(
        (
            b"\x00asm\x01\x00\x00\x00",
            _section(1, _type(0, 0), _type(1, 1), _type(3, 1), _type(8, 1)),
            _section(2, _named("env") + _named("proxy_send_local_response") + b"\x00\x03"),
            _section(3, b"\x00", b"\x01", b"\x02"),
            _section(5, b"\x00\x01"),
            _section(
                7, _named("memory") + b"\x02\x00", *(_named(name) + b"\x00" + bytes([at]) for name, at in functions)
            ),
            _section(10, _code(), _code(b"\x41" + _number(1024)), _code(*answer)),
            _section(11, b"\x00\x41" + _number(_AT) + b"\x0b" + bytes([len(BODY)]) + BODY),
        )
    )


def write(directory: Path) -> Path:
    """The module as a file in `directory`."""
    path = directory / "teapot.wasm"
    path.write_bytes(module())
    return path
