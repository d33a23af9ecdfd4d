"""Folders of ONNX graphs that another exporter made, brought into the forms of a bundle; torch is not needed.

The mathematics stays as it is in the graphs: they get our names, masks of booleans, logits where they are wanted, and
candidates. Sources: ``optimum/exporters/onnx`` of optimum-onnx 0.1.0, whose names these are, and the folders of
``onnx-community`` for transformers.js, which lie in ``onnx/`` and have ``decoder_model_merged.onnx`` alone.
"""
