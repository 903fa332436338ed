"""What is known about GPUs and their memory, and names for what runs on them."""
