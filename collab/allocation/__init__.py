"""Who does which subtask. One file a policy."""
