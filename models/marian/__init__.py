"""Translators as Marian itself writes them: one ``.npz`` file with the settings inside."""
