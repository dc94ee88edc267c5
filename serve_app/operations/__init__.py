"""What an operator sees and does: the state of groups and requests, their history, draining, restarting, scaling."""
