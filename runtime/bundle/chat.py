"""What a bundle says of chats, beside the template that lies in a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .schema import Between, Length, Text, raise_faults

CHAT_TEMPLATE_FILE = "chat_template.txt"
MAX_TEMPLATE_CHARACTERS = 65_536


@dataclass(frozen=True, kw_only=True)
class ChatSpec:
    """How the messages of a chat become a prompt, by the template in ``chat_template.txt``.

    ``variables``: what the template may use beside the messages, such as ``bos_token``. ``end_ids``: tokens after which
    an answer ends beside those that end any text, as the template puts them there.
    """

    variables: Annotated[dict[str, Annotated[str, Text(512)]], Length(0, 16)]
    end_ids: Annotated[tuple[Annotated[int, Between(0, 2**24)], ...], Length(0, 64)]


def read_template(path: Path) -> str:
    """The template of a bundle, which was not run yet.

    Raises:
        BundleFormatError: it cannot be read, is too long, or no UTF-8.
    """
    most = 4 * MAX_TEMPLATE_CHARACTERS
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise_faults(str(path), [f"more than {most} bytes, expected at most that"])
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise_faults(str(path), [f"expected a text in UTF-8, got {error}"])
