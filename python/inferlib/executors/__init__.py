"""What runs a step: the CPU's executor, and what all executors have in common."""
