"""Where the code of jobs comes from: Git repositories, and artifacts of code."""
