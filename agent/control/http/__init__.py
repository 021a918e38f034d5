"""HTTP below pages, GraphQL and files: who asks, from where, and how it is answered."""
