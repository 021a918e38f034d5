"""The GraphQL half of the wire: schema and thin resolvers."""
