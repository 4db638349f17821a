"""Small trainings side by side: which loss terms are worth having, which network learns most in the same time."""
