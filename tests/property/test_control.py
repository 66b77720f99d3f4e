"""The control socket: whatever a client sends, it is answered with one line of JSON, and the next client as well."""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from swanroam.app.control import ControlServer

DEADLINE_S = 20.0


async def exchange(path: Path, chunks: list[bytes]) -> object:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass  # answered already, on an earlier chunk
    answer = await reader.read()
    writer.close()
    return json.loads(answer)


@settings(max_examples=50)
@given(st.lists(st.lists(st.binary(max_size=50) | st.just(b'{"command": "status"}'), max_size=4), max_size=4))
def test_whatever_clients_send_each_is_answered_and_so_is_the_next(clients: list[list[bytes]]) -> None:
    async def run(path: Path) -> None:
        async with asyncio.timeout(DEADLINE_S), ControlServer(path, {"status": lambda: {"role": "gateway"}}):
            for chunks in clients:
                answer = await exchange(path, chunks)
                assert isinstance(answer, dict)
                assert answer.keys() in ({"error"}, {"role"})
            assert await exchange(path, [b'{"command": ', b'"status"}\n']) == {"role": "gateway"}

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "control.sock"))
