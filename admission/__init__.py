"""The OpenAI-compatible gateway, its scheduler and the cluster model."""
