"""Folders of CTranslate2: a binary file of variables by name, a configuration, vocabularies."""
