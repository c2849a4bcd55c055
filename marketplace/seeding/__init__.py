"""The demo's market: who takes part in it, and the two days that it has already traded.

Nothing here writes rows that the market itself would write. The catalog (`catalog`) makes the
organizations, grades and clusters a person could make; the past (`history`) is commands with past
timestamps, run through the real engine; what was served in it (`service`) comes from the
scheduler and the cluster model.
"""
