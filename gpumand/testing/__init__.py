"""Fakes of every port, and real processes to try gpumand with; for our tests and for yours."""
