"""Classic BPF programs for sockets: the kernel drops what nobody wants before a process is woken for it.

struct sock_filter { __u16 code; __u8 jt, jf; __u32 k; };                include/uapi/linux/filter.h, 8 bytes
struct sock_fprog  { unsigned short len; struct sock_filter *filter; };
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

__all__ = ["ALL", "JUMP_IF_ANY", "JUMP_IF_EQUAL", "LOAD_BYTE", "LOAD_HALF", "RETURN", "Instruction", "attach"]

SO_ATTACH_FILTER: Final = 26
_FILTER: Final = struct.Struct("=HBBI")

LOAD_HALF: Final = 0x28
"""Two bytes at an absolute offset, in network byte order; beyond the end of the message it is dropped."""
LOAD_BYTE: Final = 0x30
JUMP_IF_EQUAL: Final = 0x15
JUMP_IF_ANY: Final = 0x45
"""Where a bit of the constant is set."""
RETURN: Final = 0x06
ALL: Final = 0xFFFF_FFFF
"""To be returned for a message that is taken whole."""

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip where a condition holds, where it does not, constant."""


def attach(opened: socket.socket, program: Sequence[Instruction]) -> None:
    """Have the kernel drop what the program returns 0 for. Raises OSError."""
    code = b"".join(_FILTER.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
