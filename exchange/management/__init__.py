"""Commands for operators of the exchange."""
