"""The systems that continue prompts: ``open_model(order)`` of every file returns a ``Generator`` of ``cell.py``.

All search greedily. The end token is suppressed, or ignored where a library offers that, until ``limit`` tokens are
there; each does it in its own way.
"""
