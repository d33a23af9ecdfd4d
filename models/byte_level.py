"""The characters that byte-level tokenizers write for bytes.

Source: ``bytes_to_unicode`` in ``encoder.py`` of github.com/openai/gpt-2.
"""

from __future__ import annotations


def character_of(byte: int) -> str:
    """What stands for a byte: itself where it is printable, or one from U+0100."""
    return chr(byte) if _is_printable(byte) else chr(256 + sum(not _is_printable(other) for other in range(byte)))


def _is_printable(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF
