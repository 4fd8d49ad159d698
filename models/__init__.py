"""Networks with dropout, the recipes that train them, and the repository the server serves out of the box."""
