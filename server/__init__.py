"""The allocator and fusion point, as a Flower ServerApp."""
