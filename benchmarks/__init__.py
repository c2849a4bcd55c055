"""Numbers we publish, each with the machine, the load and the peer beside it."""
