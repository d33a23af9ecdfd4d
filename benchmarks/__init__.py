"""Measuring: `edgewise bench`, and the demo of the whole chain."""
