"""Runs over several processes: how they start, connect, agree and end."""
