"""Worker threads of a run, their queues, and the times of every step."""
