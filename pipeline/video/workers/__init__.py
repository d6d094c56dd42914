"""What computes the frames of a run: workers, their queues, and the times of every step."""
