"""Training: tasks (what is learnt), data (what is seen), fit (the loop)."""
