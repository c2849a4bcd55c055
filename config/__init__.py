"""How the parts are wired; nothing is decided here."""
