"""Folders as the original library writes them: its own tiny model with random weights, saved by itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_WORDS = "a man is riding bicycle two dogs play in the snow girl boy red hat on street . , ! ?"
WORDS = _WORDS.split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ing", "##ed", "d", "##o", "##g"]


def randomize(model: torch.nn.Module, seed: int, std: float = 0.3) -> torch.nn.Module:
    """Every parameter random: zero biases and unit norms would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std, generator=generator)
    return model.eval()


def wordpiece() -> Tokenizer:
    """BERT's tokenizer over a few words, with the truncation and padding that published files hold."""
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=6)
    return tokenizer


def bert_folder(folder: Path, *, pooling: str = "mean", normalize: bool = True, seed: int = 0, **config: Any) -> Path:
    """A sentence-transformers folder around a ``BertModel``; ``config`` changes its ``BertConfig``."""
    fields = {
        "vocab_size": len(PIECES) + 3,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        **config,
    }
    randomize(transformers.BertModel(transformers.BertConfig(**fields)), seed).save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(wordpiece().to_str())
    modules = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    places = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": places[m], "type": f"sentence_transformers.models.{m}"}
            for i, m in enumerate(modules)
        ],
    )
    (folder / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens")
    chosen = {"mean": "mean_tokens", "cls": "cls_token"}[pooling]
    pools = {f"pooling_mode_{mode}": mode == chosen for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pools})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30, "do_lower_case": False})
    return folder


def write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data))


def change_json(file: Path, **changes: Any) -> None:
    """Set fields of a JSON object."""
    write_json(file, json.loads(file.read_text()) | changes)


def library_bert(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()


def library_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """By the original library, without the truncation and padding in the file."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return fast(text)["input_ids"]  # type: ignore[no-any-return]


_LINES = ["3+4=7", "The man rides a bicycle.", "Zwei Hunde spielen im Schnee – schön!", "日本語 und 👧"] * 3


def byte_level(starts: bool) -> Tokenizer:
    """A byte-level BPE as Llama 3 and SmolLM have; ``starts``: whether its template puts the start token first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    if starts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", 1)]
        )
    return tokenizer


def llama_folder(folder: Path, *, starts: bool = True, seed: int = 0, std: float = 0.4, **config: Any) -> Path:
    """A folder of a ``LlamaForCausalLM``; ``config`` changes its ``LlamaConfig``."""
    fields = {
        "vocab_size": 304,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **config,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    randomize(model, seed, std).save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(byte_level(starts).to_str())
    return folder


def library_llama(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def sentencepiece_model(lines: list[str], **options: Any) -> bytes:
    """A small SentencePiece model of ``lines``."""
    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=file,
        **{"vocab_size": 120, "minloglevel": 2, "num_threads": 1, "hard_vocab_limit": False, **options},
    )
    return file.getvalue()


SOURCE_LINES = ["A man is riding a bicycle.", "Two dogs play in the snow!", "The girl, in a red hat, on the street?"]
TARGET_LINES = ["Ein Mann fährt Rad.", "Zwei Hunde spielen im Schnee – schön!", "Мужчина едет на велосипеде."]


def marian_files(folder: Path, tags: tuple[str, ...] = (), size: int | None = None) -> dict[str, int]:
    """What ``MarianTokenizer`` reads, as OPUS-MT makes it: two models and the pieces of both as one vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"source": SOURCE_LINES, "target": TARGET_LINES}
    pieces: dict[str, None] = dict.fromkeys(["</s>", "<unk>"])
    for name, lines in texts.items():
        (folder / f"{name}.spm").write_bytes(sentencepiece_model(lines * 9))
        model = sentencepiece_processor(folder / f"{name}.spm")
        pieces |= dict.fromkeys(model.id_to_piece(i) for i in range(len(model)) if not model.is_control(i))
    names = [*pieces, *tags]
    if size is not None:
        names = names[: size - 1]
    vocabulary = {piece: i for i, piece in enumerate([*names, "<pad>"])}
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "tokenizer_config.json", {"separate_vocabs": False, "source_lang": "en", "target_lang": "de"})
    return vocabulary


def sentencepiece_processor(file: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def bart_tokenizer() -> Tokenizer:
    """A byte-level BPE with BART's tokens around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def bart_folder(folder: Path, *, seed: int = 0, std: float = 0.3, forced: int | None = None, **config: Any) -> Path:
    """A folder of a ``BartForConditionalGeneration``; ``config`` changes its ``BartConfig``."""
    fields = {
        "vocab_size": 304,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 96,
        "forced_eos_token_id": None,
        **config,
    }
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**fields))
    randomize(model, seed, std)  # type: ignore[arg-type]
    with torch.no_grad():
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(seed))
        for stack in (model.model.encoder, model.model.decoder):
            stack.embed_tokens.weight.copy_(model.model.shared.weight)  # one table, though nothing may tie them
    model.generation_config.forced_bos_token_id = forced
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(bart_tokenizer().to_str())
    return folder


def library_bart(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.BartForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()


def marian_folder(folder: Path, *, seed: int = 0, std: float = 0.3, tags: tuple[str, ...] = (), **config: Any) -> Path:
    """A folder of a ``MarianMTModel`` as OPUS-MT publishes it; ``config`` changes its ``MarianConfig``."""
    vocabulary = marian_files(folder, tags)
    pad = vocabulary["<pad>"]
    fields = {
        "vocab_size": len(vocabulary),
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "activation_function": "swish",
        "scale_embedding": True,
        "pad_token_id": pad,
        "eos_token_id": 0,
        "decoder_start_token_id": pad,
        "forced_eos_token_id": None,
        **config,
    }
    model = transformers.MarianMTModel(transformers.MarianConfig(**fields))
    randomize(model, seed, std)  # type: ignore[arg-type]
    with torch.no_grad():
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(seed))
        for stack in (model.model.encoder, model.model.decoder):  # sinusoids, which randomize took for weights
            stack.embed_positions.weight.copy_(stack.embed_positions.create_weight())
            stack.embed_tokens.weight.copy_(model.model.shared.weight)  # one table, though nothing ties them
    model.generation_config.bad_words_ids = [[pad]]
    model.generation_config.num_beams = 3
    model.save_pretrained(folder)
    return folder


def library_marian(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.MarianMTModel.from_pretrained(folder, attn_implementation="eager").eval()
