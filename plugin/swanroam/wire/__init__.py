"""Codecs: bytes to model values and back; no sockets."""
