"""Engines behind one repository interface."""
