"""Training a byte-pair tokenizer (Sennrich et al. 2016) whose decoding gives back what it read.

Words carry a leading ``▁``, punctuation stands alone, and a character that the corpus never showed falls back to its
UTF-8 bytes, so no input becomes an unknown token. Decoding gives back the text in NFC, with every white-space character
and every ``▁`` as a space, less one space at the very beginning. The file holds no special-token template, truncation
or padding: the runtime adds those itself. A typed ``</s>`` is text only where :func:`as_text_only` says so: the library
keeps that setting out of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<mask>")
PAD_ID, START_ID, END_ID, MASK_ID = range(4)
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def train_bpe(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from ``lines`` until there are ``vocab_size`` tokens, specials and the 256 bytes included."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always", split=True), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *_BYTES], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return _bytes_as_ordinary_tokens(tokenizer)


def _bytes_as_ordinary_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Keep the bytes in the vocabulary but match them in no text: a typed ``<0x41>`` is five characters."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    return Tokenizer.from_str(json.dumps(data))


def with_dropout(tokenizer: Tokenizer, dropout: float) -> Tokenizer:
    """A copy that skips each merge with this probability (BPE-dropout, Provilkov et al. 2020, section 3.1)."""
    copy = as_text_only(Tokenizer.from_str(tokenizer.to_str()))
    copy.model.dropout = dropout or None
    return copy


def as_text_only(tokenizer: Tokenizer) -> Tokenizer:
    """``tokenizer``, told to read a typed ``</s>`` as four characters and not as the end token."""
    tokenizer.encode_special_tokens = True
    return tokenizer
