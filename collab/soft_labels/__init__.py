"""Combining soft labels at the server. One file a rule."""
