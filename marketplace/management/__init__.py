"""What an operator of the demo and the auditor run."""
