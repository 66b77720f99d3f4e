"""The store: whatever is put is read back, and whatever happens to the file, only what was put is."""

import json
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swanroam.app.records import Malformed, decode_record, encode_key, encode_record
from swanroam.app.store import FILE_NAME, Record, Store
from swanroam.core.tunnel import LastMove
from swanroam.model.effects import Trigger
from swanroam.model.events import Reason
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, TunnelKey

DEADLINE_S = 20.0

unsigned = st.integers(0, 2**64 - 1)
names = st.text(st.characters(exclude_categories=()), max_size=20)
endpoints = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 2**16 - 1))
paths = st.builds(Path, endpoints, endpoints, st.booleans())
seconds = st.floats(allow_nan=False)
last_moves = st.builds(
    LastMove,
    at_s=seconds,
    old=paths,
    new=paths,
    trigger=st.sampled_from(Trigger),
    duration_s=seconds,
    validated=st.none() | st.booleans(),
)
records = st.builds(
    Record,
    key=st.builds(TunnelKey, names, st.lists(st.ip_addresses(), max_size=3).map(tuple)),
    capability=st.sampled_from(Capability),
    highest=st.dictionaries(st.integers(0, 2**32 - 1), unsigned, max_size=4),
    moves=unsigned,
    last_move=st.none() | last_moves,
    rejected=st.dictionaries(st.sampled_from(Reason), unsigned),
    update_sequence=unsigned,
)


def read(folder: FilePath) -> tuple[Mapping[TunnelKey, Record], bool]:
    store, found, message = Store.open(folder)
    store.close(DEADLINE_S)
    return {record.key: record for record in found}, message is not None


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), records), max_size=8))
def test_what_was_put_last_and_not_removed_is_read_back(steps: list[tuple[bool, Record]]) -> None:
    expected: dict[TunnelKey, Record] = {}
    with TemporaryDirectory() as folder:
        store, _, _ = Store.open(FilePath(folder))
        for keep, record in steps:
            store.put(record)
            expected[record.key] = record
            if not keep:
                store.remove(record.key)
                del expected[record.key]
        store.close(DEADLINE_S)
        assert read(FilePath(folder)) == (expected, False)


@given(records)
def test_a_record_survives_its_encoding(record: Record) -> None:
    assert decode_record(encode_key(record.key).encode(), encode_record(record).encode()) == record


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_bytes_that_are_no_record_are_malformed(key: bytes, record: bytes) -> None:
    with pytest.raises(Malformed):
        decode_record(key, record)
    with pytest.raises(Malformed):
        decode_record(b'["home", []]', record)


@given(records, st.data())
def test_a_record_with_one_part_replaced_is_a_record_or_malformed(record: Record, data: st.DataObject) -> None:
    parts: dict[str, object] = json.loads(encode_record(record))
    holder = parts
    if isinstance(parts["last_move"], dict) and data.draw(st.booleans()):
        holder = parts["last_move"]
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(values)
    try:
        decoded = decode_record(encode_key(record.key).encode(), json.dumps(parts).encode())
    except Malformed:
        return
    assert decode_record(encode_key(record.key).encode(), encode_record(decoded).encode()).key == record.key


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    """A folder with a store that holds twenty records."""
    folder = tmp_path_factory.mktemp("written")
    store, _, _ = Store.open(folder)
    for number in range(20):
        store.put(
            Record(
                key=TunnelKey(f"tunnel-{number}", (IPv4Address("10.0.0.1") + number,)),
                capability=Capability.NEGOTIATED,
                highest={0xC0000000 + number: 10**18},
                rejected=dict.fromkeys(Reason, 5),
            )
        )
    store.close(DEADLINE_S)
    assert len(read(folder)[0]) == 20
    return folder


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3),
    st.none() | st.integers(0, 2**16),
)
def test_a_damaged_file_gives_what_was_put_or_is_set_aside(
    written: FilePath, changes: list[tuple[int, int]], length: int | None
) -> None:
    content = bytearray((written / FILE_NAME).read_bytes())
    for at, byte in changes:
        content[at % len(content)] = byte
    if length is not None:
        del content[1 + length % len(content) :]
    with TemporaryDirectory() as folder:
        file = FilePath(folder) / FILE_NAME
        file.write_bytes(content)
        found, was_set_aside = read(FilePath(folder))
        if was_set_aside:
            assert found == {}
            assert FilePath(f"{file}.set-aside-1").read_bytes() == content
        else:
            assert found == read(written)[0]
