"""Keys, limits and usage: who may do what, how much, and what it cost."""
