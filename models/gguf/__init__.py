"""GGUF, the checkpoint format of llama.cpp: read as untrusted bytes, with NumPy alone.

==================  ========================================================================
``layout.py``       value types and tensor types, as numbers on the wire
``reader.py``       :func:`open_gguf`: header, metadata and tensor table of a mapped file
``metadata.py``     typed look-ups in the metadata
``dequantize.py``   blocks of 32 to float32; ``k_quants.py`` the super-blocks of 256
``sizes.py``        hyper-parameters under the architecture's name, and the table of tensors
``llama.py``        those of a Llama, a Qwen or a Gemma, and weights; ``hugging_face.py`` names them as there
``gemma.py``        what a Gemma has besides; ``phi3.py`` a Phi-3; ``gpt2.py`` a GPT-2
``network.py``      any of these as a row of a family with its configuration and tensors
``vocabulary.py``   the tokens of a file; ``tokenizer.py`` makes a ``tokenizer.json`` of them
``checkpoint.py``   :func:`read_gguf`: all of it as a checkpoint to export
==================  ========================================================================

Source: the GGUF specification, ``docs/gguf.md`` of ggml, and the block layouts of ``ggml-common.h``.
"""
