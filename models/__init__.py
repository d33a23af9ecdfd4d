"""The PyTorch reference: one config-driven transformer, its checkpoints and its training.

Shape legend, used in every comment and docstring of edgewise:

====== ==========================================================
``B``  batch (sentences)
``R``  rows of a decoder step: batch times beams
``T``  tokens fed in this call
``S``  source tokens
``P``  past tokens, already in the cache
``C``  keys a query may see, ``C = P + T``
``D``  ``d_model``, the width of the network
``H``  ``n_heads``;  ``Dh`` ``head_dim``;  ``F`` ``d_ff``
``V``  ``vocab_size``;  ``N`` positions whose logits are wanted
====== ==========================================================
"""
