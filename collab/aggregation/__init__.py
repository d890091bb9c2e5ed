"""Merging weights at the server. One file a rule."""
