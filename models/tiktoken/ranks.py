"""What a ``.tiktoken`` file says, read as untrusted input: a line a token, its bytes in base64 and its rank.

Source: ``load_tiktoken_bpe`` in ``tiktoken/load.py`` of github.com/openai/tiktoken, release 0.14.0.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import TokenizerError

MAX_FILE_BYTES = 64 << 20
MAX_TOKENS = 1 << 20
MAX_TOKEN_BYTES = 512
_LINE = re.compile(rb"([A-Za-z0-9+/=]+) ([0-9]{1,7})")
_NOTHING = b"="
"""openai-whisper's ``multilingual.tiktoken`` gives its last rank to this: no bytes, which no text has."""
_SHOWN = 60  # bytes of a line, in messages


def is_tiktoken(file: Path) -> bool:
    """Whether a file begins as tiktoken's do; its first line is whole."""
    with file.open("rb") as stream:
        return _LINE.fullmatch(stream.readline(4 * MAX_TOKEN_BYTES).rstrip(b"\r\n")) is not None


def read_ranks(file: Path) -> list[bytes]:
    """The tokens by rank.

    Raises:
        TokenizerError: missing, too large, or see :func:`parse_ranks`.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokenizerError(f"{file}: expected a tiktoken file, got {error.strerror}: copy it again") from error
    if len(data) > MAX_FILE_BYTES:
        raise TokenizerError(f"{file} has more than {MAX_FILE_BYTES} bytes, the most that edgewise reads")
    return parse_ranks(data, str(file))


def parse_ranks(data: bytes, where: str) -> list[bytes]:
    """The tokens in ``data`` by rank; ``where`` begins messages. A token without bytes is one that no text has.

    Raises:
        TokenizerError: a line is none of a token and its rank, a token or rank is given twice, ranks or single bytes
            are missing, or there are too many.
    """
    tokens: dict[int, bytes] = {}
    known: set[bytes] = set()
    for number, token, rank in _lines(data, where):
        if rank in tokens or token in known:
            given = f"rank {rank}" if rank in tokens else f"token {token[:_SHOWN]!r}"
            raise _fault(where, f"gives {given} a second time in line {number}, expected distinct ranks and tokens")
        if len(known) == MAX_TOKENS:
            raise _fault(where, f"has more than {MAX_TOKENS} tokens")
        tokens[rank] = token
        known.add(token)
    missing = next((rank for rank in range(len(tokens)) if rank not in tokens), None)
    if missing is not None:
        raise _fault(where, f"has {len(tokens)} tokens and none of rank {missing}, expected ranks from 0 without a gap")
    if lacking := [byte for byte in range(256) if bytes([byte]) not in known]:
        raise _fault(where, f"has no token for {len(lacking)} bytes, 0x{lacking[0]:02X} the first, expected all 256")
    return [tokens[rank] for rank in range(len(tokens))]


def _lines(data: bytes, where: str) -> Iterator[tuple[int, bytes, int]]:
    """Number, token and rank of every line that is not empty."""
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _fault(where, f"has {line[:_SHOWN]!r} in line {number}, expected a token in base64 and its rank")
        try:
            token = b"" if match[1] == _NOTHING else binascii.a2b_base64(match[1], strict_mode=True)
        except binascii.Error as error:
            raise _fault(where, f"has {line[:_SHOWN]!r} in line {number}, no base64 ({error})") from None
        if len(token) > MAX_TOKEN_BYTES:
            raise _fault(
                where, f"has a token of {len(token)} bytes in line {number}, expected at most {MAX_TOKEN_BYTES}"
            )
        yield number, token, int(match[2])


def _fault(where: str, what: str) -> TokenizerError:
    return TokenizerError(f"{where} {what}: copy the tiktoken file again, or use a tokenizer.json")
