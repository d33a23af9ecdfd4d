"""Makes ``huggingface.json``: what Hugging Face's logits processors and beam search give.

Run with transformers 5.24.0 and torch 2.13.0 installed: ``python tests/runtime/goldens/huggingface.py``. Neither the
package nor its tests need transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.generation import logits_process as hf
from transformers.modeling_outputs import CausalLMOutput

VOCABULARY, END = 12, 2
READ = [1, 7, 9, 5, 8, 7, 9, 5]
PROMPT = [1, 5]

PROCESSORS: dict[str, Any] = {
    "repetition_penalty=1.5": lambda: hf.RepetitionPenaltyLogitsProcessor(1.5),
    "repetition_penalty=0.7": lambda: hf.RepetitionPenaltyLogitsProcessor(0.7),
    "no_repeat_ngram=1": lambda: hf.NoRepeatNGramLogitsProcessor(1),
    "no_repeat_ngram=2": lambda: hf.NoRepeatNGramLogitsProcessor(2),
    "no_repeat_ngram=3": lambda: hf.NoRepeatNGramLogitsProcessor(3),
    "min_new_tokens=7": lambda: hf.MinNewTokensLengthLogitsProcessor(2, 7, END, device="cpu"),
    "min_new_tokens=6": lambda: hf.MinNewTokensLengthLogitsProcessor(2, 6, END, device="cpu"),
    "suppress=[[3], [5, 8], [7, 9, 5, 4], [9, 9]]": lambda: hf.NoBadWordsLogitsProcessor(
        [[3], [5, 8], [7, 9, 5, 4], [9, 9]], END
    ),
    "logit_bias={4: -1.5, 9: 2.0}": lambda: hf.SequenceBiasLogitsProcessor([[[4], -1.5], [[9], 2.0]]),
}
WARPERS: dict[str, Any] = {
    "temperature=0.6": [lambda: hf.TemperatureLogitsWarper(0.6)],
    "top_k=4": [lambda: hf.TopKLogitsWarper(4)],
    "top_p=0.75": [lambda: hf.TopPLogitsWarper(0.75)],
    "min_p=0.2": [lambda: hf.MinPLogitsWarper(0.2)],
    "typical_p=0.6": [lambda: hf.TypicalLogitsWarper(0.6)],
    "temperature=1.4, top_k=9, top_p=0.9, min_p=0.1, typical_p=0.8": [
        lambda: hf.TemperatureLogitsWarper(1.4),
        lambda: hf.TopKLogitsWarper(9),
        lambda: hf.TopPLogitsWarper(0.9),
        lambda: hf.MinPLogitsWarper(0.1),
        lambda: hf.TypicalLogitsWarper(0.8),
    ],
}
BEAMS: list[dict[str, Any]] = [
    {"num_beams": beams, "early_stopping": stop, "length_penalty": 0.0}
    for beams in (1, 2, 3, 4)
    for stop in ((False,) if beams == 1 else (False, True, "never"))
] + [
    {"num_beams": 3, "early_stopping": False, "length_penalty": 0.0, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "early_stopping": False, "length_penalty": 0.0, "min_new_tokens": 4},
    {"num_beams": 3, "early_stopping": True, "length_penalty": 0.0, "bad_words_ids": [[6], [4, 8]]},
    *({"num_beams": beams, "length_penalty": 0.0, "eos_token_id": [END, 6, 9]} for beams in (1, 2, 3)),
    {"num_beams": 3, "length_penalty": 0.0, "eos_token_id": [END, 6, 9], "min_new_tokens": 3},
    *(
        {"num_beams": beams, "length_penalty": penalty, "early_stopping": stop}
        for beams, penalty in ((2, 1.0), (3, 2.0), (4, 0.6))
        for stop in (False, True, "never")
    ),
    {"num_beams": 1, "repetition_penalty": 1.6},
    {"num_beams": 1, "repetition_penalty": 1.6, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
]


class MarkovConfig(PretrainedConfig):
    model_type = "markov"


class Markov(PreTrainedModel, GenerationMixin):
    """Logits of the next token: of the last one, plus those of its place, without which cycles would be ties."""

    config_class = MarkovConfig

    def __init__(self, table: torch.Tensor, places: torch.Tensor) -> None:
        super().__init__(MarkovConfig(vocab_size=VOCABULARY, eos_token_id=END, pad_token_id=0, num_hidden_layers=1))
        self.table, self.places = torch.nn.Parameter(table), torch.nn.Parameter(places)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table[input_ids] + self.places[: input_ids.shape[1]])

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}


def searched(table: torch.Tensor, places: torch.Tensor, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    beams, ends = arguments["num_beams"], arguments.get("eos_token_id", [END])
    config = GenerationConfig(
        **{
            "max_new_tokens": 9,
            "eos_token_id": END,
            "pad_token_id": 0,
            "num_return_sequences": beams,
            "renormalize_logits": True,
            "use_cache": False,
            "output_scores": True,
            "return_dict_in_generate": True,
            **arguments,
        }
    )
    found = Markov(table, places).eval().generate(torch.tensor([PROMPT]), generation_config=config)
    sequences = found.sequences[:, len(PROMPT) :].tolist()
    cut = [s[: next((i for i, token in enumerate(s, 1) if token in ends), len(s))] for s in sequences]
    scores = found.sequences_scores.tolist() if beams > 1 else [None]
    return [{"tokens": tokens, "score": score} for tokens, score in zip(cut, scores, strict=True)]


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, VOCABULARY, generator=generator) * 2
    tables = torch.randn(6, VOCABULARY, VOCABULARY, generator=generator) * 1.5
    places = torch.randn(16, VOCABULARY, generator=generator) * 0.5
    read = torch.tensor([READ])
    processed, warped = {}, {}
    for name, make in PROCESSORS.items():
        processed[name] = [make()(read, row[None].clone())[0].tolist() for row in logits]
    for name, makes in WARPERS.items():
        rows = []
        for row in logits.clone():
            scores = row[None]
            for make in makes:
                scores = make()(read, scores)
            rows.append(scores.softmax(-1)[0].tolist())
        warped[name] = rows
    golden = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "end_id": END,
        "read": READ,
        "prompt": PROMPT,
        "logits": logits.tolist(),
        "processed": processed,
        "warped": warped,
        "tables": tables.tolist(),
        "places": places.tolist(),
        "beams": [{"arguments": a, "found": [searched(table, places, a) for table in tables]} for a in BEAMS],
    }
    text = json.dumps(golden).replace("-Infinity", "null")
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
