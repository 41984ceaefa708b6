"""Evidence: grids of trainings, their records, and tables and figures with honest statistics."""
