"""ESP packets of a Linux 6.1 kernel, one for each algorithm without and with ESN, with the states that they belong to.

Keys are the bytes 1, 2, 3... Each packet is from 10.9.0.1 to 10.1.0.1, UDP with the payload `captured`. Without ESN it
is the first of its state; with ESN it is number 0x200000000, and the state had received 0x1fffffffe before.
"""

from dataclasses import dataclass

from swanroam.wire.esp import Algorithm, EspState, ReplayWindow

__all__ = ["CAPTURES", "Capture", "key"]


def key(size: int) -> bytes:
    """The key of `size` bytes, salt included."""
    return bytes(range(1, size + 1))


@dataclass(frozen=True, slots=True)
class Capture:
    """A packet and its state; `sequence` has 64 bits with ESN."""

    name: str
    state: EspState
    sequence: int
    data: bytes


def _combined(name: str, size: int, bits: int) -> EspState:
    return EspState(combined=Algorithm(name, key(size), bits))


def _separate(cipher: str, size: int, mac: str, mac_size: int, bits: int) -> EspState:
    return EspState(encryption=Algorithm(cipher, key(size)), authentication=Algorithm(mac, key(mac_size), bits))


def _with_esn(state: EspState) -> EspState:
    window = ReplayWindow(highest=0x1_FFFF_FFFE, size=64, ring=True)
    return EspState(
        combined=state.combined,
        encryption=state.encryption,
        authentication=state.authentication,
        esn=True,
        window=window,
    )


_STATES = (
    _combined("rfc4106(gcm(aes))", 20, 64),
    _combined("rfc4106(gcm(aes))", 28, 96),
    _combined("rfc4106(gcm(aes))", 36, 128),
    _combined("rfc4309(ccm(aes))", 19, 64),
    _combined("rfc4309(ccm(aes))", 35, 128),
    _combined("rfc4543(gcm(aes))", 20, 128),
    _combined("rfc7539esp(chacha20,poly1305)", 36, 128),
    _separate("cbc(aes)", 16, "hmac(sha1)", 20, 96),
    _separate("cbc(aes)", 32, "hmac(sha256)", 32, 128),
    _separate("cbc(aes)", 16, "hmac(sha256)", 32, 96),
    _separate("cbc(aes)", 24, "hmac(sha384)", 48, 192),
    _separate("cbc(aes)", 32, "hmac(sha512)", 64, 256),
    _separate("rfc3686(ctr(aes))", 20, "hmac(sha256)", 32, 128),
    _separate("ecb(cipher_null)", 0, "hmac(sha256)", 32, 128),
)
# Between empty lines, for each state the one without ESN, then the one with it, in hexadecimal.
_PACKETS = """
c000000100000001fa64856280f18c4d760f1cf1faf06e3eb76b405141f661b446ba8e8982b52e7fca1ced9203831403792be5674006c77f
364a355012548cba

c000000100000000e8f1ec89d15a6ba8bf0d8f24753781f44565519ba764f8c9c6f4943b95c60255d52da7ded5b0cc0ad17ca32a94a0e4ab
308d650998d58118

c0000001000000015bde21ca3535d5f95f5a3c8c11670cf817d31353c843f9d87b445d78a313fcb8849ec6ef618efd5c6544839eaff0801e
442e80fce4feb089b6933a35

c00000010000000048d2f616bd5747fec10e61ed2c4cee338bbc27082743400333f05f88e05386bb0cfb8d3528530a36d77b6400c2dc2fa8
8e0c9f5434b75ec747569bd5

c000000100000001a9b6be6b4c63d3e6d58e685c9848ea67a0e6cfd6e56db56090519b79a93ad7ffdb429e39f68485d4cebf959f47f6d053
f4614482285d77dbcf46808e80e4b35a

c0000001000000007f3d6dc6c0058ab9ba1fe8ce0e158abdddbee960c65d375ae2e0d6ca341a27a8c65365b8b9c6e9dc127c6b64230fa0b1
c6343789045a5439b2150af5e06f3686

c0000001000000016550c0d0cf083bda4bd53937c117d44d963e9f4f68da02ee9e27d4b08f94eb297d4e57affd4840469df2e422fee8090a
c14eb15f4d253804

c000000100000000b77a535ac9c238a335cdc51fdd74583780ad9c7c5d0f657b4b2ede10dce6456913c4bee0ed0b81b8c136cb122f20e12a
944c79f30b2ca095

c0000001000000014269c7529777ddaaa7a489328be0aad9fe96ee38c90244a36c02e61ccbe1677079de239a454f1365b84360614c3327a7
a3bfd28231027885aef718d9af614dff

c0000001000000003964bf0f4863adb61966e08a81d63df6038e4eaefd5a782a31a1d56c56b62a9835ede09615c0c801cd66c6b3b0cfed00
108bd84dad75b84ac7cfa92a9a3d3610

c00000010000000115a8e334f136030645000024643240004011c28b0a0900010a010001af9d1e6100106f17636170747572656401020204
71c1c532aaa23326fe8aad21f3a26e69

c000000100000000058afa991e76db384500002464b440004011c2090a0900010a0100019f311e6100107f83636170747572656401020204
6ea33a6be9424298e559ab5ce83236a7

c00000010000000173a09744e6cb6129b9d2cc4bbc14b2c177d2a7473876b8419873ca5c97b1b6cd42caf99321c1294c49ecb0f08211f531
d3c8cb45ff962ac15a60ace2c83eec8e

c0000001000000004f6a97a3548af2282e27f11d75b77211d0ae635a256c36bcd7e277507d45f760a1c0bdc10f5d23104325b5affb9d885a
a9fb004f34677bf25966194f1417646e

c00000010000000121f71ef5e2d8ddba6fc45f59846de42743e0f3d50702b827142d8284a759ce699eac1f69ca95a307c79b8308d4fcdeb6
4324568fa55feb2e572658963f24b3c8c2797e8c6618b392b4188543

c0000001000000005ce98a1bbcd482baa49a2da5e6f3635ad5b0c259f605cab9a8e61b0ac0ba77cbb4781e1586a3305c2abd9128fceb9843
cae76d27f25d65988904dfd9031a14e5d1390ac1038b131b601467bd

c000000100000001af0e48ec040f4c7b0bcdc499cc42a2b2d6ce9262ae31de984fab9d7c16a9c75e8585ecfbc91a991564fdfcd9e0436a51
1e22a8966e07da4a6fb327a56626398d9b6d45c2853433b368db1d4f79101b9d

c00000010000000073818c32be603f48ee3bbc55d429e320aafbfa96499f0f1d752aca5f31f120cef6a0f489c58c74871173e407eb8a3888
9a34107d9b23a4fbf5359fbf9367361afa2e5e87111c6bf5127dc849c826ce56

c00000010000000186afcbe741a34ccfd639420030f98f10d4e2ba5555482d7ddd00196aa7833a6e4eccac93e9af071621c753ef2e5649b6
e4edfd56f0a94f7fe5700e1c93b3df7bb775bb2e989355d1b6170648

c00000010000000016d686daa0eaed258b4fe46885e6f481c357348ef1ea93b9bfa765eafcac3581698bad5811a481515818cc81f73f88da
18015c2aa42479f90296060f7716965cf02e7a8383bc166338f6ac92

c0000001000000013ba54c1a9caf6b695c25b5034651470a2437a684bbbe272930e061ac3206a467c5e0609b8bb96878ba1df37196410bcd
e71ebe9512f5ec4c37d449e2ef7082cd19afd9a1f3f0ad18adfb8920b570ae274a267879420c39c5

c000000100000000b2d37858517eeb16539ea6885df31a76da886b6733eac97e1b39d278b4851f106b891b77c6421e3b6a21c110f4c2049b
c7664f8a11f3daa19a45cc4253d715a8967e7a8e4bc260b868faf5e0a63602dddfab14122ba8f6cb

c0000001000000019630ab0cabf6c0a6ae86ee83565178db9bc0aae14434e97fb3798e2c4c7242eee5eae6997750651a15e689c26e9b3ee1
d3d553e258c44a0c783dabefffc52e7e1087b2c0316b5853f4e85be84c5d2fc61fd575d3aa39364d304ea4052afc946d

c0000001000000008e7e1d00a1cf37e79089559463dde30460964559add7b15d3e52e3c74d441ddb1b3bb52f56050ca8a4254d0839f62856
330a118c52b78cf3b595093e177232b2b69f828633c2f1780c6b161438f27325a43b410bdcdb5d55438a4ad7a1a578ef

c0000001000000018ac048bdf2f39329d86794c6832e4171fc86dc242151c01ac01bb6df6e40a3c37f7a92da4e0d298a8ca681183ccae39a
9f2f59b9107972ec478034d148ba598c

c00000010000000074b29cd94f2e3e3062a4770536be637bfd153012c303c888131f0c8eec855d3309e71d9398d145e1b806347bcbb33bd0
03fdb9f48e10bbf24f99ea7ff1c78fac

c000000100000001450000246a6140004011bc5c0a0900010a010001ae711e6100107043636170747572656401020204beb2f8917e34f9ae
e14f4c3902d70ac2

c000000100000000450000246aa040004011bc1d0a0900010a010001b3a31e6100106b11636170747572656401020204e3fd5b0313c71a77
a5fc96eb9835a64a
"""


def _captures() -> tuple[Capture, ...]:
    found = []
    for number, text in enumerate(_PACKETS.split("\n\n")):
        esn, state = number % 2 == 1, _STATES[number // 2]
        algorithms = (state.combined, state.encryption, state.authentication)
        parts = [
            f"{algorithm.name}-{8 * len(algorithm.key)}-{algorithm.icv_bits}" for algorithm in algorithms if algorithm
        ]
        name = " ".join([*parts, *(["ESN"] if esn else [])])
        sequence = 0x2_0000_0000 if esn else 1
        found.append(Capture(name, _with_esn(state) if esn else state, sequence, bytes.fromhex(text)))
    return tuple(found)


CAPTURES = _captures()
