"""What turns a source into something that runs."""
