"""Merging the outputs of several models at prediction time. One file a rule."""
