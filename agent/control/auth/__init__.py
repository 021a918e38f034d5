"""Who is calling and what they may do: keys, run tokens, sign-in, policies."""
