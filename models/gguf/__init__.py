"""GGUF, the checkpoint format of llama.cpp: read as untrusted bytes, with NumPy alone.

==================  ========================================================================
``layout.py``       value types and tensor types, as numbers on the wire
``reader.py``       :func:`open_gguf`: header, metadata and tensor table of a mapped file
``metadata.py``     typed look-ups in the metadata
``dequantize.py``   blocks of 32 to float32; ``k_quants.py`` the super-blocks of 256
``llama.py``        a Llama's hyper-parameters and weights; ``hugging_face.py`` names them as there
``vocabulary.py``   the tokens of a file; ``tokenizer.py`` makes a ``tokenizer.json`` of them
``checkpoint.py``   :func:`read_gguf`: all of it as a checkpoint to export
==================  ========================================================================

Source: the GGUF specification, ``docs/gguf.md`` of ggml, and the block layouts of ``ggml-common.h``.
"""
