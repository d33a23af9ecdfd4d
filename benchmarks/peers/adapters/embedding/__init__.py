"""The systems that make vectors. Every file has ``open_model(order)``, which returns an ``Embedder`` of ``cell.py``."""
