"""tiktoken's files, byte-level BPE as the ranks of tokens, as a ``tokenizer.json``, without the tiktoken library.

To read in this order: ``ranks``, ``patterns``, ``tokenizer``.
"""
