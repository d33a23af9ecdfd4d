"""SentencePiece models (Kudo and Richardson 2018) as a ``tokenizer.json``, without the sentencepiece library.

A ``.model`` or ``.spm`` file is a protobuf message: :mod:`.model` reads it within bounds, :mod:`.tokenizer` writes what
gives the same tokens. To read in this order: ``model``, ``normalizer``, ``tokenizer``.
"""
