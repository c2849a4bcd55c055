"""The clearing house: ledger, margin, marks, entitlements and their delivery."""
