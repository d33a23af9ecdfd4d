"""Weights and activations of an OpenVINO model in int8, by NNCF; run in the environment ``openvino``.

``python -m edgewise.benchmarks.peers.convert_nncf FOLDER CALIBRATION OUT``: the settings are those that NNCF documents
for transformers, the calibration is a JSON file of token ids.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray


def main(argv: Sequence[str]) -> None:
    """Quantize, and write ``openvino_model.xml`` and ``.bin``."""
    folder, calibration, out = map(Path, argv)
    model = openvino.Core().read_model(folder / "openvino_model.xml")
    inputs = {name for port in model.inputs for name in port.names}
    rows = json.loads(calibration.read_text())

    def feed(row: list[int]) -> dict[str, NDArray[np.int64]]:
        ids = np.array([row], dtype=np.int64)
        arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: array for name, array in arrays.items() if name in inputs}

    quantized = nncf.quantize(
        model, nncf.Dataset(rows, feed), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows)
    )
    out.mkdir()
    openvino.save_model(quantized, out / "openvino_model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1:])
