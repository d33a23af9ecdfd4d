"""Networks of ``torch.nn.Transformer`` as people write them around it, and what describes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .folders import byte_level, randomize

SIZES = {"d_model": 32, "nhead": 4, "dim_feedforward": 40}
VOCABULARY, LONGEST, PAD, START, END, MASK = 304, 48, 2, 1, 0, 3


def sinusoids(length: int, width: int) -> Tensor:
    """As PyTorch's tutorials write it, in float32."""
    position = torch.arange(length).unsqueeze(1)
    division = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(length, 1, width)
    table[:, 0, 0::2] = torch.sin(position * division)
    table[:, 0, 1::2] = torch.cos(position * division)
    return table


class Wrapped(nn.Module):
    """Embedding, positions, stacks and output, with the switches that such code has."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        self.case = case
        self.tokens = nn.Embedding(VOCABULARY, SIZES["d_model"])
        positions = case.get("positions", "computed")
        if positions == "learned":
            self.place = nn.Embedding(LONGEST, SIZES["d_model"])
        else:
            self.register_buffer("pe", sinusoids(LONGEST + 9, SIZES["d_model"]), persistent=positions == "stored")
        self.generator = nn.Linear(SIZES["d_model"], VOCABULARY, bias=case.get("output_bias", True))
        if case.get("tied"):
            self.generator.weight = self.tokens.weight
        arguments = {**SIZES, **case.get("arguments", {})}
        kind = case.get("kind", "encoder-decoder")
        if kind == "encoder-decoder":
            layers = {"num_encoder_layers": 2, "num_decoder_layers": 3}
            self.transformer = nn.Transformer(**arguments, **layers, batch_first=True, dropout=0.0)
        else:
            norm = nn.LayerNorm(SIZES["d_model"]) if arguments.pop("norm", False) else None
            layer = nn.TransformerEncoderLayer(**arguments, batch_first=True, dropout=0.0)
            self.stack = nn.TransformerEncoder(layer, 2, norm=norm, enable_nested_tensor=False)

    def embed(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        if self.case.get("scale_embeddings", True):
            x = x * math.sqrt(SIZES["d_model"])
        if self.case.get("positions") == "learned":
            return x + self.place(torch.arange(ids.shape[1]))  # type: ignore[no-any-return]
        return x + self.pe[: ids.shape[1], 0]  # type: ignore[no-any-return,index]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of every position; ``target`` is not read by one stack."""
        look_ahead = torch.ones(target.shape[1], target.shape[1]).triu(1).bool()
        if self.case.get("kind", "encoder-decoder") == "encoder-decoder":
            hidden = self.transformer(
                self.embed(source),
                self.embed(target),
                tgt_mask=look_ahead,
                src_key_padding_mask=source == PAD,
                tgt_key_padding_mask=target == PAD,
                memory_key_padding_mask=source == PAD,
            )
        else:
            causal = torch.ones(source.shape[1], source.shape[1]).triu(1).bool()
            mask = causal if self.case["kind"] == "decoder" else None
            hidden = self.stack(self.embed(source), mask=mask, src_key_padding_mask=source == PAD)
        return self.generator(hidden)  # type: ignore[no-any-return]


def wrapped(case: dict[str, Any], seed: int = 0) -> Wrapped:
    """Every parameter random. In training mode: there is no dropout, and PyTorch's fast path is another code."""
    network = randomize(Wrapped(case), seed, std=0.25)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter += 1.0  # around 0 a state would hardly depend on what was read
            elif name.endswith("bias"):
                parameter *= 0.2  # they would choose the same token every time
            elif "multihead_attn" in name:
                parameter *= 0.5  # nor should the source alone
            elif name.startswith(("tokens", "place")):
                parameter *= 3.0
            else:
                parameter *= 1.5
    return network.train()  # type: ignore[return-value]


def description(case: dict[str, Any]) -> dict[str, Any]:
    """What the file beside the weights says."""
    kind = case.get("kind", "encoder-decoder")
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 3} if kind == "encoder-decoder" else {"num_layers": 2}
    text: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_id": PAD, "start_id": START, "end_id": END}
    text |= {"mask_id": MASK, "max_positions": LONGEST}
    text |= {name: case[name] for name in ("tied", "output_bias", "scale_embeddings", "starts_source") if name in case}
    names = {"embedding": "tokens", "output": "generator"}
    if kind == "encoder-decoder":
        names |= {"encoder": "transformer.encoder", "decoder": "transformer.decoder"}
    else:
        names[kind] = "stack"
    positions = {"learned": "place.weight", "stored": "pe"}.get(case.get("positions", "computed"))
    if positions:
        names["positions"] = positions
    arguments = {**SIZES, **layers, **case.get("arguments", {}), "dropout": 0.1, "batch_first": True}
    return {"weights": "model.pt", "kind": kind, "arguments": arguments, "text": text, "names": names}


def torch_folder(folder: Path, case: dict[str, Any], seed: int = 0, suffix: str = "pt") -> Path:
    """Weights, tokenizer and the description, whose path this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    state = wrapped(case, seed).state_dict()
    if suffix == "pt":
        torch.save({"epoch": 3, "model_state_dict": state}, folder / "model.pt")
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(byte_level(starts=False).to_str())
    data = description(case)
    more = {"state": "model_state_dict"} if suffix == "pt" else {}
    return write(folder, {**data, "weights": f"model.{suffix}", **more})


def write(folder: Path, data: dict[str, Any], suffix: str = "toml") -> Path:
    """The description as TOML or JSON."""
    file = folder / f"network.{suffix}"
    if suffix == "json":
        file.write_text(json.dumps(data))
        return file
    lines = [f"{name} = {json.dumps(value)}" for name, value in data.items() if not isinstance(value, dict)]
    for table, values in data.items():
        if isinstance(values, dict):
            lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    file.write_text("\n".join(lines) + "\n")
    return file
