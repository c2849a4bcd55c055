"""The order books and the one state machine that owns them."""
