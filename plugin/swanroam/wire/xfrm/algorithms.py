"""Algorithms of a state and their keys (XFRMA_ALG_*)."""

from dataclasses import dataclass
from typing import Final, Self

from swanroam.errors import WireError
from swanroam.wire.xfrm.structs import Layout

__all__ = ["Algorithm", "Key"]

_ALGO: Final = Layout("xfrm_algo", "=64sI")
_ALGO_ICV: Final = Layout("xfrm_algo_auth", "=64sII")


@dataclass(frozen=True, slots=True)
class Key:
    """Key material. Its repr shows the length only, so that it cannot get into a log."""

    material: bytes

    def __repr__(self) -> str:
        return f"<key of {len(self.material)} bytes>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """An algorithm by its kernel name, `rfc4106(gcm(aes))`, with its key (and salt, for those that have one).

    struct xfrm_algo      { char alg_name[64]; unsigned int alg_key_len; char alg_key[]; };               length in bits
    struct xfrm_algo_auth { char alg_name[64]; unsigned int alg_key_len, alg_trunc_len; char alg_key[]; };
    struct xfrm_algo_aead { char alg_name[64]; unsigned int alg_key_len, alg_icv_len; char alg_key[]; };
    """

    name: str
    key: Key
    icv_bits: int = 0
    """Bits of the integrity value; 0 for encryption and compression, and for the algorithm's own length."""

    @property
    def icv_bytes(self) -> int:
        """Octets of the integrity value."""
        return self.icv_bits // 8

    def pack(self, *, with_icv: bool) -> bytes:
        """The struct: xfrm_algo, or `with_icv` one of the two others."""
        name, bits, material = self.name.encode(), 8 * len(self.key.material), self.key.material
        return (_ALGO_ICV.pack(name, bits, self.icv_bits) if with_icv else _ALGO.pack(name, bits)) + material

    @classmethod
    def unpack(cls, what: str, data: bytes, offset: int, *, with_icv: bool) -> Self:
        """From an attribute's value, which is at `offset` in the payload."""
        layout = _ALGO_ICV if with_icv else _ALGO
        if len(data) < layout.size:
            raise WireError(what, offset, f"{len(data)} bytes where {layout.size} are needed")
        raw_name, bits, *icv_bits = layout.unpack(data)
        try:
            name = raw_name.split(b"\0", 1)[0].decode("ascii")
        except UnicodeDecodeError:
            raise WireError(f"{what}.alg_name", offset, "not ASCII") from None
        there = 8 * (len(data) - layout.size)
        if bits % 8 or bits > there:
            problem = f"{bits} bits where {there} are there" if bits > there else f"{bits} bits are no whole bytes"
            raise WireError(f"{what}.alg_key_len", offset + 64, problem)
        material = data[layout.size : layout.size + bits // 8]
        return cls(name=name, key=Key(material), icv_bits=icv_bits[0] if icv_bits else 0)
