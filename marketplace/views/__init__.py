"""Every HTML page of the market: read first, then print; each post makes one domain call.

A page is complete without scripts: figures are printed by the server, forms are posted and answered
by a redirect with a message. Scripts keep the figures fresh and post in the background; then the
same view answers JSON.
"""
