"""optimum-onnx: its exported graphs under transformers' ``generate``."""

from __future__ import annotations

from pathlib import Path

from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForSeq2SeqLM

from ..cell import Order
from .generate import Generating


def open_model(order: Order) -> Generating:
    """Open a folder of graphs: the encoder, and the decoder that takes both a first and a later step."""
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = order.threads, 1
    (encoder,) = Path(order.model).glob("encoder_model*.onnx")
    (decoder,) = Path(order.model).glob("decoder_model_merged*.onnx")
    model = ORTModelForSeq2SeqLM.from_pretrained(
        order.model,
        encoder_file_name=encoder.name,
        decoder_file_name=decoder.name,
        use_merged=True,
        session_options=options,
        provider="CPUExecutionProvider",
    )
    return Generating(model, order, "optimum-onnx", "onnxruntime")
