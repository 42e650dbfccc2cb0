"""pgcheckout's bridge: proves payments with their providers and tells Postgres, which decides everything else."""

__version__ = "0.1.0"
