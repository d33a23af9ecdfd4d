"""Folders as optimum-onnx 0.1.0 exports them, of tiny random networks, with what transformers 4.57.6 makes of them.

``pip install torch==2.13.0 optimum-onnx==0.1.0 transformers==4.57.6 onnxruntime==1.31.1``, then ``python
make_goldens.py``: it writes the folders beside itself. Every graph, configuration and number here is those libraries'.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 makes what the tests compare with
from optimum.exporters.onnx import main_export
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
TEXTS = ["A man is riding a bicycle.", "Two dogs play", "In the snow, a girl in a red hat reads!"]
NEW_TOKENS = 8
EVERY = 16  # of the logits every so many ids are kept
_WORDS = "a man is riding bicycle two dogs play in the snow girl boy red hat on street . , ! ?"
WORDS = _WORDS.split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ing", "##ed", "d", "##o", "##g"]
TRANSLATE, GENERATE = "text2text-generation-with-past", "text-generation-with-past"

SEQ2SEQ = {
    "vocab_size": 304,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 28,
    "forced_eos_token_id": None,
}
LLAMA = {
    "vocab_size": 304,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 28,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
    "rope_theta": 1000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
T5 = {
    "vocab_size": 304,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "n_positions": 28,
}
GPT2 = {
    "vocab_size": 304,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 28,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "scale_attn_by_inverse_layer_idx": True,
}
OPT = {
    "vocab_size": 304,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 24,
    "max_position_embeddings": 28,
    "word_embed_proj_dim": 12,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
BERT = {
    "vocab_size": len(PIECES) + 3,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
}
NAMES = ["bad", "so so", "good"]
CLASSES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}

# Name: architecture, fields, task, special tokens, what stands before a text and after it, the graphs kept, their
# folder, and settings of generation.
DECODERS: dict[str, tuple[Any, ...]] = {
    "marian": (
        "MarianMTModel",
        {**SEQ2SEQ, "pad_token_id": 303, "eos_token_id": 0, "decoder_start_token_id": 303, "scale_embedding": True},
        TRANSLATE,
        ["</s>", "<unk>"],
        ("", "</s>"),
        ("encoder_model", "decoder_model", "decoder_with_past_model"),
        "",
        {"bad_words_ids": [[303]], "num_beams": 3},
    ),
    "bart": (
        "BartForConditionalGeneration",
        {**SEQ2SEQ, "activation_function": "relu"},
        TRANSLATE,
        ["<s>", "<pad>", "</s>", "<unk>"],
        ("<s>", "</s>"),
        ("encoder_model", "decoder_model_merged"),
        "onnx",
        {"forced_bos_token_id": 0},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        T5,
        TRANSLATE,
        ["<pad>", "</s>", "<unk>"],
        ("", "</s>"),
        ("encoder_model", "decoder_model_merged"),
        "",
        {},
    ),
    "llama": ("LlamaForCausalLM", LLAMA, GENERATE, ["<|end|>", "<|start|>"], ("<|start|>", ""), ("model",), "", {}),
    "gpt2": ("GPT2LMHeadModel", GPT2, GENERATE, ["<|end|>", "<|start|>"], ("", ""), ("model",), "onnx", {}),
    "opt": ("OPTForCausalLM", OPT, GENERATE, ["<s>", "<pad>", "</s>", "<unk>"], ("</s>", ""), ("model",), "", {}),
}
# Name: architecture, fields, task.
ENCODERS: dict[str, tuple[Any, ...]] = {
    "bert-embed": ("BertModel", BERT, "feature-extraction"),
    "bert-mask": ("BertForMaskedLM", BERT, "fill-mask"),
    "bert-classify": ("BertForSequenceClassification", {**BERT, **CLASSES}, "text-classification"),
    "bert-tag": ("BertForTokenClassification", {**BERT, **CLASSES}, "token-classification"),
    "bert-answer": ("BertForQuestionAnswering", BERT, "question-answering"),
    "electra-classify": (
        "ElectraForSequenceClassification",
        {**BERT, **CLASSES, "embedding_size": 12},
        "text-classification",
    ),
}


def main() -> None:
    """Write all folders."""
    for name, row in DECODERS.items():
        decoder_folder(HERE / name, *row)
    for name, row in ENCODERS.items():
        encoder_folder(HERE / name, *row)


def network(architecture: str, fields: dict[str, Any]) -> Any:
    """A network with every parameter random, those of norms around 1 and biases near 0, so that tokens vary."""
    kind = getattr(transformers, architecture)
    torch.manual_seed(1)
    model = kind(kind.config_class(**fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not ("embed_positions" in name and architecture == "MarianMTModel"):  # sinusoids
                parameter.normal_(std=0.6 if parameter.ndim > 1 else 0.1, generator=generator)
                if "norm" in name.lower() and name.endswith("weight") and parameter.ndim == 1:
                    parameter.add_(1)
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_(std=0.3, generator=generator)
    model.tie_weights()
    return model.eval()


def exported(folder: Path, model: Any, tokenizer: Tokenizer, task: str, kept: tuple[str, ...], place: str) -> None:
    """Save ``model``, export it, and keep some of the graphs, in the folder ``place``."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / place).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as saved, tempfile.TemporaryDirectory() as made:
        model.save_pretrained(saved)
        main_export(saved, output=made, task=task, library_name="transformers", do_validation=False)
        for name in kept:
            shutil.copy(Path(made) / f"{name}.onnx", folder / place / f"{name}.onnx")
        for file in Path(made).glob("*config.json"):
            shutil.copy(file, folder / file.name)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())


def decoder_folder(
    folder: Path,
    architecture: str,
    fields: dict[str, Any],
    task: str,
    specials: list[str],
    around: tuple[str, str],
    kept: tuple[str, ...],
    place: str,
    generation: dict[str, Any],
) -> None:
    """A network that decodes: tokens of greedy and beam search, and logits along the greedy ones."""
    tokenizer, model = byte_level(specials, around), network(architecture, fields)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    exported(folder, model, tokenizer, task, kept, place)
    rows = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        greedy, logits = decoded(model, ids, num_beams=1)
        beam, _ = decoded(model, ids, num_beams=3, length_penalty=0.0)
        rows.append({"text": text, "ids": ids[0].tolist(), "greedy": greedy, "logits": logits, "beam": beam})
    write(folder / "expected.json", rows)


def decoded(model: Any, ids: torch.Tensor, **options: Any) -> tuple[list[int], list[list[float]]]:
    """New tokens, and of every step some logits before anything is suppressed."""
    pairs = model.config.is_encoder_decoder
    forced = model.generation_config.forced_bos_token_id is not None
    begins = (2 if forced else 1) if pairs else ids.shape[1]
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS + (begins - 1 if pairs else 0),
            renormalize_logits=True,
            pad_token_id=model.config.pad_token_id or 0,
            **options,
        )
        given = {"input_ids": ids, "decoder_input_ids": found} if pairs else {"input_ids": found}
        logits = model(**given).logits[0, begins - 1 : -1, ::EVERY]
    return found[0, begins:].tolist(), [[round(value, 5) for value in row] for row in logits.tolist()]


def encoder_folder(folder: Path, architecture: str, fields: dict[str, Any], task: str) -> None:
    """An encoder with a head: what it makes of texts, and of pairs."""
    tokenizer, model = wordpiece(), network(architecture, fields)
    exported(folder, model, tokenizer, task, ("model",), "")
    write(folder / "tokenizer_config.json", {"mask_token": "[MASK]"})
    if architecture == "BertModel":
        sentence_files(folder)
    pairs = architecture.endswith(("ForSequenceClassification", "ForQuestionAnswering"))
    rows = []
    for text, second in [(TEXTS[0], TEXTS[2]), (TEXTS[1], None), (TEXTS[2], TEXTS[1])]:
        text = (
            text.replace("man", "[MASK]").replace("dogs", "[MASK]").replace("girl", "[MASK]")
            if "Mask" in (architecture)
            else text
        )
        pair = second if pairs else None
        if pair is None and architecture.endswith("QuestionAnswering"):
            continue
        encoded = tokenizer.encode(text, pair) if pair else tokenizer.encode(text)
        rows.append({"text": text, "pair": pair, "ids": encoded.ids, **answers(model, encoded)})
    write(folder / "expected.json", rows)


def answers(model: Any, encoded: Any) -> dict[str, Any]:
    """Every output of a text."""
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor([encoded.ids]),
            attention_mask=torch.ones(1, len(encoded.ids), dtype=torch.int64),
            token_type_ids=torch.tensor([encoded.type_ids]),
        )
    names = ("logits", "start_logits", "end_logits", "last_hidden_state")
    return {name: found[name][0].tolist() for name in names if name in found}


def sentence_files(folder: Path) -> None:
    """What sentence-transformers write: the mean of the states, normalized."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    write(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **modes})


def byte_level(specials: list[str], around: tuple[str, str]) -> Tokenizer:
    """A byte-level BPE whose template puts tokens around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    template = " ".join(part for part in (around[0], "$A", around[1]) if part)
    used = [(token, tokenizer.token_to_id(token)) for token in around if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT's tokenizer over a few words."""
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(PIECES[:5])
    return tokenizer


def write(file: Path, data: Any) -> None:
    """JSON with every row of a list on a line."""
    rows = "[\n" + ",\n".join(json.dumps(row) for row in data) + "\n]" if isinstance(data, list) else json.dumps(data)
    file.write_text(rows + "\n")


if __name__ == "__main__":
    main()
