"""How good answers are: what a task's own metric says of them."""
