"""Looks at runs from any host that sees their folders: by files and the queue alone."""
