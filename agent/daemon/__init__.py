"""The launch agent's process: `service.AgentDaemon` supervises the loops of the other modules."""
