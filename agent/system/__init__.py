"""What the operating system offers, with the promises that we need. Imports the model only."""
