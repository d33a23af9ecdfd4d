"""Train the two tiny vocabularies on the written lines: ``python -m tests.models.gguf.goldens.make_vocabularies``."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from ..lines import WRITTEN
from ..tiny import BPE_SPECIALS, GOLDENS, SPM_SPECIALS


def trained(tokenizer: Tokenizer, trainer: trainers.BpeTrainer) -> tuple[list[str], list[str]]:
    tokenizer.train_from_iterator(WRITTEN * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return tokens, [" ".join(merge) for merge in model["merges"]]


def main() -> None:
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = [token for token, _ in BPE_SPECIALS]
    tokens, merges = trained(
        byte_level,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    write("tiny_bpe.json", {"tokens": tokens, "merges": merges})
    sentencepiece = Tokenizer(models.BPE())
    sentencepiece.normalizer = normalizers.Replace(" ", "▁")
    specials = [token for token, _ in SPM_SPECIALS] + [f"<0x{value:02X}>" for value in range(256)]
    tokens, _ = trained(
        sentencepiece,
        trainers.BpeTrainer(vocab_size=700, special_tokens=specials, limit_alphabet=90, show_progress=False),
    )
    # In SentencePiece tokens that merging makes come first, by their score, and single characters last.
    pieces = tokens[len(specials) :]
    order = [p for p in pieces if len(p) > 1] + [p for p in pieces if len(p) == 1]
    write("tiny_spm.json", {"tokens": [*specials, *order]})


def write(name: str, data: dict[str, list[str]]) -> None:
    (GOLDENS / name).write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
