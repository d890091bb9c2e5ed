"""The science: pure functions of arrays. No Flower, no clock; the only I/O is collab/data, on given paths."""
