"""Run the validation plan: each scenario set up, its path observed, judged by its evidence."""
