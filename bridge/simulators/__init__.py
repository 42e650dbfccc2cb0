"""Stand-ins for the providers: stateful accounts behind real HTTP, with buyers, notifications and faults."""
