"""Parts of the streaming benchmark."""
