"""One file a system: tokens in, tokens out. Each is imported only in the environment that has its library.

Every file has ``open_model(order)``, which returns a :class:`~edgewise.benchmarks.peers.cell.Decoder`.
"""
