"""What `manage.py` can do with admission."""
