"""What the parties say to each other: errors, arrays, messages and their bytes."""
