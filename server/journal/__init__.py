"""The journal of a run: what happened, in order and for good, and the arrays that it speaks of."""
