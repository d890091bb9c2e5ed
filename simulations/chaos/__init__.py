"""Chaos: processes of a real federation are killed at seeded moments, and what their runs come to."""
