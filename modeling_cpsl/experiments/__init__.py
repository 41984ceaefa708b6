"""From a recipe to a finished run: assembly, training, records, plots, comparison, model card, prediction."""
