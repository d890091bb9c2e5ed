"""Kill anything: what a run survives, and what it comes to afterwards."""
